"""From columns as read to validated examples: which column has which role, and what its cells may hold."""

import difflib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from proponent.data.columns import change_texts
from proponent.data.conversations import contents_of, layout_of, packed
from proponent.data.examples import Columns, Examples
from proponent.data.labels_and_ids import ids_of, labels_of, sources_of, weights_of
from proponent.data.near_columns import OPTIONS, near_column, unread
from proponent.data.separated import names_like
from proponent.data.table import RawTable, is_blank, is_null, refuse_odd_characters, short
from proponent.data.untyped import pa
from proponent.errors import DataError


def check(table: RawTable, columns: Columns, allow_empty: bool) -> Examples:
    """Validate every column that has a role."""
    if table.rows == 0:
        has = "a header but no rows" if table.column_names else "no rows"
        raise DataError(f"{table.name}: the table has {has}")
    chat = columns.messages if columns.text == "text" and columns.target == "target" else ""
    layout = layout_of(table.column_names, chat, labelled=bool(columns.label))
    columns = _usual(table, columns)
    parts = _assign(table, columns, texts=layout == "text")
    warnings = list(table.warnings)
    if layout == "judged":
        parts.pop("label", None)
    if layout == "text":
        asked = {role: str(getattr(columns, role)) for role in OPTIONS}
        warnings += unread(table.name, table.column_names, asked, parts)
        fields = {"text": _texts(table, parts["text"], allow_empty, warnings)}
    else:
        fields, empty = packed(contents_of(table, layout, chat))
        if empty:
            warnings.append(f"{table.name}: {len(empty)} rows have an empty answer ({table.where(empty)})")
        masks = [name for name in ("completion_mask", "assistant_masks") if name in table.column_names]
        if masks:
            warnings.append(f"{table.name}: column {masks[0]!r} is not read: labels say which tokens count (-100: not)")
        if "text" in table.column_names:
            warnings.append(f"{table.name}: rows are read as {layout}, and column 'text' is not (--messages-column '')")
    for part in ("text_pair", "target"):
        if part in parts:
            fields[part] = _second(table, parts[part], part, warnings)
    names = table.class_names(parts["label"]) if "label" in parts else None
    if "label" in parts:
        _refuse_twice(table, parts["label"], names or ())
        fields["label"] = labels_of(table, parts["label"], names, warnings)
    fields["id"] = ids_of(table, parts.get("id"), warnings)
    if "source" in parts:
        sources = sources_of(table, parts["source"], warnings, asked=columns.source != "source")
        fields |= {} if sources is None else {"source": sources}
    if "weight" in parts:
        fields["weight"] = weights_of(table, parts["weight"])
    table_of = pa.table(fields)
    return Examples(table, table_of, columns=columns, label_names=names, warnings=tuple(warnings), layout=layout)


# names that people use for tagged words and for questions, where no column is named text
def _usual(table: RawTable, columns: Columns) -> Columns:
    held = set(table.column_names)
    if columns.text != "text" or "text" in held:
        return columns
    usual: dict[str, str] = {}
    tags = next((name for name in ("tags", "ner_tags") if name in held), "")
    if "tokens" in held and tags:
        usual = {"text": "tokens", "label": tags}
    elif {"question", "context"} <= held:
        answer = next((name for name in ("answers", "answer") if name in held), "label")
        usual = {"text": "question", "text_pair": "context", "label": answer}
    return replace(columns, **{role: name for role, name in usual.items() if getattr(columns, role) == role})


# assign a column to each role: explicit names first, then default names that exist and are still free
def _assign(table: RawTable, columns: Columns, *, texts: bool) -> dict[str, str]:
    asked = {part: str(getattr(columns, part)) for part in OPTIONS}
    explicit = {part: name for part, name in asked.items() if name and (name != part or part == "weight")}
    taken: dict[str, str] = {}
    for part, name in explicit.items():
        if name not in table.column_names:
            raise DataError(_missing(table, part, name))
        if name in taken:
            raise DataError(
                f"{table.name}: column {short(name)} is selected by both {OPTIONS[taken[name]]} and {OPTIONS[part]}"
            )
        taken[name] = part
    usual = OPTIONS.keys() - {"weight"}  # a column of weights counts only where somebody names it
    free = {part for part in usual if asked[part] == part and part in table.column_names and part not in taken}
    if not texts:
        free -= {"text", "text_pair", "target"}
    elif "text" not in explicit and "text" not in free:
        raise DataError(_missing(table, "text", "text"))
    return {**{part: part for part in free}, **explicit}


def _missing(table: RawTable, part: str, name: str) -> str:
    names = table.column_names
    shown = ", ".join(map(short, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    lowered = {column.strip().lower(): column for column in names}
    near = difflib.get_close_matches(name.lower(), lowered, n=1)
    like = near_column(names, part) or (lowered[near[0]] if near else None)
    hint = f"; did you mean {short(like)}?" if like else _inside(table, name) or names_like(table.name, names)
    return f"{table.name}: no column {short(name)}; it has {shown}: choose a column with {OPTIONS[part]}{hint}"


def _inside(table: RawTable, name: str) -> str:
    """Say which column holds objects that have a field of that name."""
    for column in table.column_names[:20]:
        first = next(iter(table.get(column)), None)
        if isinstance(first, Mapping) and name in first:
            return f"; column {short(column)} holds objects with {short(name)}: make columns of their fields"
    return ""


def _refuse_twice(table: RawTable, column: str, names: Sequence[str]) -> None:
    """Refuse classes that share a name: their numbers would be read as one class."""
    known: dict[str, int] = {}
    for number, one in enumerate(names):
        other = known.setdefault(one, number)
        if other != number:
            raise DataError(
                f"{table.name}: column {short(column)} gives the classes {other} and {number} one name, {short(one)}: "
                "give each class a name of its own in its ClassLabel, or write the labels as plain numbers or texts"
            )


def _texts(table: RawTable, column: str, allow_empty: bool, warnings: list[str]) -> Any:
    texts, empty = _strings(table, column, "text")
    if not empty:
        return texts
    found = f"{table.name}: {len(empty)} of {table.rows} rows have an empty text ({table.where(empty)})"
    if not allow_empty:
        raise DataError(f"{found}: fill or remove them, or keep them with --allow-empty (allow_empty=True)")
    warnings.append(found)
    return texts


def _second(table: RawTable, column: str, part: str, warnings: list[str]) -> Any:
    texts, missing = _strings(table, column, part)
    if part == "target" and column == part:
        warnings.append(f"{table.name}: column 'target' is used as the completion after the prompt (--target-column)")
    if missing:
        warnings.append(f"{table.name}: {len(missing)} rows have no {column} ({table.where(missing)})")
    return texts


# a text column and its blank rows: a blank second text becomes None in every file format
def _strings(table: RawTable, column: str, part: str) -> tuple[Any, "array[int]"]:
    blank = array("q")

    def checked(start: int, block: list[Any]) -> list[str | None]:
        texts = [_string(table, column, part, row, value) for row, value in enumerate(block, start)]
        refuse_odd_characters(table, column, start, texts)
        empty = [at for at, text in enumerate(texts) if is_blank(text)]
        blank.extend(start + at for at in empty)
        for at in empty:
            texts[at] = (texts[at] or "") if part == "text" else None
        return texts

    return change_texts(table.get(column), checked), blank


def _string(table: RawTable, column: str, part: str, row: int, value: object) -> str | None:
    if isinstance(value, str):
        return value
    if is_null(value):
        return None
    words = list(cast("Sequence[object]", value)) if isinstance(value, list | tuple) else []
    if (
        part == "text"
        and column != part
        and words
        and all(isinstance(one, str) and one.split() == [one] for one in words)
    ):
        return " ".join(map(str, words))  # words, each with a tag
    held = cast("object", value)
    also = "; if it is the text, write the column as text" if isinstance(held, bytes | int | float) else ""
    also = "; if it is the label, name it with --label-column" if part == "target" else also
    raise DataError(
        f"{table.name}: column {short(column)} must contain text, but {table.where([row])} holds {short(held)} "
        f"({type(held).__name__}): name another column with {OPTIONS[part]}{also}"
    )
