"""From columns as read to checked examples: which column plays which part, and what a cell may hold."""

import difflib
from collections.abc import Sequence
from typing import cast

import numpy as np

from whence.errors import DataError
from whence.examples.collection import Columns, Examples, Fields
from whence.examples.table import Table, short
from whence.types import Label

_OPTIONS = {
    "text": "--text-column",
    "text_pair": "--pair-column",
    "label": "--label-column",
    "id": "--id-column",
    "target": "--target-column",
}
# pandas.NA and NaT, told by name so that pandas stays unimported
_NULL_TYPES = {"NAType", "NaTType"}


def check(table: Table, columns: Columns, allow_empty: bool) -> Examples:
    """Check every column that plays a part.

    Args:
        table: the data as read.
        columns: which column plays which part.
        allow_empty: take empty texts, with a warning.

    Returns:
        The examples.

    Raises:
        DataError: no rows, a missing column, or a cell that cannot be used.
    """
    if table.rows == 0:
        has = "a header but no rows" if table.column_names else "no rows"
        raise DataError(f"{table.name}: it has {has}")
    parts = _assign(table, columns)
    warnings = list(table.warnings)
    texts = _texts(table, parts["text"], allow_empty, warnings)
    pairs = _second(table, parts.get("text_pair"), "text_pair", warnings)
    targets = _second(table, parts.get("target"), "target", warnings)
    names = table.class_names(parts["label"]) if "label" in parts else None
    labels = _labels(table, parts.get("label"), names, warnings)
    ids = _ids(table, parts.get("id"), warnings)
    fields = Fields(ids, texts, labels, pairs, targets)
    return Examples(table, fields, columns=columns, label_names=names, warnings=tuple(warnings))


# say which column plays each part: explicit names first, then default names that are there and still free
def _assign(table: Table, columns: Columns) -> dict[str, str]:
    asked = {part: str(getattr(columns, part)) for part in _OPTIONS}
    explicit = {part: name for part, name in asked.items() if name and name != part}
    taken: dict[str, str] = {}
    for part, name in explicit.items():
        if name not in table.column_names:
            raise DataError(_missing(table, part, name))
        if name in taken:
            raise DataError(
                f"{table.name}: column {short(name)} is named by both {_OPTIONS[taken[name]]} and {_OPTIONS[part]}"
            )
        taken[name] = part
    free = {part for part in _OPTIONS if asked[part] == part and part in table.column_names and part not in taken}
    if "text" not in explicit and "text" not in free:
        raise DataError(_missing(table, "text", "text"))
    return {**{part: part for part in free}, **explicit}


def _missing(table: Table, part: str, name: str) -> str:
    names = table.column_names
    shown = ", ".join(map(short, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    lowered = {column.strip().lower(): column for column in names}
    near = difflib.get_close_matches(name.lower(), lowered, n=1)
    hint = f"; did you mean {short(lowered[near[0]])}?" if near else ""
    if len(names) == 1 and any(mark in names[0] for mark in ",;|\t"):
        hint = "; is the separator right? .csv is read with commas, .tsv with tabs"
    return f"{table.name}: no column {short(name)}; it has {shown}: name the right one with {_OPTIONS[part]}{hint}"


def _plain(value: object) -> object:
    return cast("object", value.item()) if isinstance(value, np.generic) else value


def _is_null(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value) or type(value).__name__ in _NULL_TYPES


def _texts(table: Table, column: str, allow_empty: bool, warnings: list[str]) -> Sequence[str]:
    texts = [value or "" for value in _strings(table, column, "text")]
    empty = [row for row, text in enumerate(texts) if not text or text.isspace()]
    if not empty:
        return texts
    found = f"{table.name}: {len(empty)} of {table.rows} rows have an empty text ({table.where(empty)})"
    if not allow_empty:
        raise DataError(f"{found}: fill or remove them, or keep them with --allow-empty (allow_empty=True)")
    warnings.append(found)
    return texts


# read an optional text; a blank cell means that there is none, in every kind of file alike
def _second(table: Table, column: str | None, part: str, warnings: list[str]) -> Sequence[str | None] | None:
    if column is None:
        return None
    values = [value if value and not value.isspace() else None for value in _strings(table, column, part)]
    if part == "target" and column == part:
        warnings.append(
            f"{table.name}: column 'target' is read as the part that counts after the prompt (--target-column)"
        )
    missing = [row for row, value in enumerate(values) if value is None]
    if missing:
        warnings.append(f"{table.name}: {len(missing)} rows have no {column} ({table.where(missing)})")
    return values


# values of a text column; null becomes None
def _strings(table: Table, column: str, part: str) -> Sequence[str | None]:
    values: list[str | None] = []
    for row, value in enumerate(table.get(column)):
        if isinstance(value, str):
            values.append(value)
        elif _is_null(value):
            values.append(None)
        else:
            also = "; if it is the label, name it with --label-column" if part == "target" else ""
            raise DataError(
                f"{table.name}: column {short(column)} must hold text, but {table.where([row])} holds {short(value)} "
                f"({type(value).__name__}): name another column with {_OPTIONS[part]}{also}"
            )
    _refuse_odd_characters(table, column, values)
    return values


# refuse lone surrogates (no UTF-8 for them) and NUL (HTML, C and tokenizers disagree about it)
def _refuse_odd_characters(table: Table, column: str, values: Sequence[object]) -> None:
    for start in range(0, len(values), 4096):
        texts = [value if isinstance(value, str) else "" for value in values[start : start + 4096]]
        if _clean("".join(texts)):
            continue
        # two halves in neighbouring cells never join: utf-8 refuses both, joined or not
        row = start + next(i for i, text in enumerate(texts) if not _clean(text))
        text = texts[row - start]
        what = "a NUL character" if "\0" in text else "half of a surrogate pair, which is not text"
        raise DataError(
            f"{table.name}: column {short(column)}, {table.where([row])} holds {what}: {short(text)}; remove it"
        )


def _clean(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _labels(
    table: Table, column: str | None, names: tuple[str, ...] | None, warnings: list[str]
) -> Sequence[Label | None] | None:
    if column is None:
        return None
    values = table.get(column)
    labels = [_label(table, column, row, _plain(value)) for row, value in enumerate(values)]
    if names is not None:
        labels = [_named(table, row, label, names) for row, label in enumerate(labels)]
    _refuse_odd_characters(table, column, labels)
    first_number = next((row for row, label in enumerate(labels) if isinstance(label, int)), None)
    first_text = next((row for row, label in enumerate(labels) if isinstance(label, str)), None)
    if first_number is not None and first_text is not None:
        raise DataError(
            f"{table.name}: column {short(column)} mixes numbers and names: {table.where([first_number])} holds "
            f"{labels[first_number]}, {table.where([first_text])} holds {short(labels[first_text])}: use one kind"
        )
    missing = [row for row, label in enumerate(labels) if label is None]
    if missing:
        warnings.append(f"{table.name}: {len(missing)} of {table.rows} rows have no label ({table.where(missing)})")
    return labels


def _label(table: Table, column: str, row: int, value: object) -> Label | None:
    if isinstance(value, str):
        return value if value and not value.isspace() else None
    if _is_null(value):
        return None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if value.is_integer():
            return int(value)
        raise DataError(
            f"{table.name}: column {short(column)}, {table.where([row])} holds {value}: labels are classes, and "
            "regression is not supported"
        )
    raise DataError(
        f"{table.name}: column {short(column)}, {table.where([row])} holds {short(value)} ({type(value).__name__}): "
        "a label must be a name or a whole number"
    )


# give the name of a ClassLabel number; `datasets` writes -1 where there is no label
def _named(table: Table, row: int, label: Label | None, names: tuple[str, ...]) -> str | None:
    if label is None or label == -1:
        return None
    if isinstance(label, int) and 0 <= label < len(names):
        return names[label]
    if isinstance(label, str) and label in names:
        return label
    raise DataError(
        f"{table.name}: {table.where([row])} has label {short(label)}, which is none of its ClassLabel's {len(names)} "
        f"names ({', '.join(names[:5])})"
    )


def _ids(table: Table, column: str | None, warnings: list[str]) -> Sequence[str]:
    if column is None:
        warnings.append(f"{table.name}: no id column: row numbers are the ids")
        return [str(row) for row in range(table.rows)]
    ids = [_id(table, column, row, _plain(value)) for row, value in enumerate(table.get(column))]
    _refuse_odd_characters(table, column, ids)
    if len(set(ids)) != len(ids):
        raise DataError(_duplicates(table, column, ids))
    return ids


def _id(table: Table, column: str, row: int, value: object) -> str:
    if isinstance(value, str) and value and not value.isspace():
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    found = "is empty" if value == "" or _is_null(value) else f"holds {short(value)} ({type(value).__name__})"
    raise DataError(
        f"{table.name}: column {short(column)}, {table.where([row])} {found}: an id must be text or a whole number; "
        "leave ids out with --id-column '' to use row numbers"
    )


def _duplicates(table: Table, column: str, ids: Sequence[str]) -> str:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(ids):
        rows.setdefault(name, []).append(row)
    twice = {name: found for name, found in rows.items() if len(found) > 1}
    shown = "; ".join(f"{short(name)} in {table.where(found, limit=3)}" for name, found in list(twice.items())[:3])
    more = f"; and {len(twice) - 3} more ids" if len(twice) > 3 else ""
    return (
        f"{table.name}: ids must be unique, but column {short(column)} repeats {shown}{more}: mend them, or use row "
        "numbers with --id-column ''"
    )
