"""Labels, ids, sources and weights of rows."""

import json
import math
import unicodedata
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from proponent.data.columns import Column, blocks, change_texts, pack, pack_numbers, pack_texts
from proponent.data.table import RawTable, is_blank, is_null, plain, refuse_odd_characters, short
from proponent.data.untyped import pa
from proponent.errors import DataError
from proponent.types import Label

NO_LABEL = {"nan", "none", "null", "n/a", "na", "<na>"}
"""What programs write in place of a missing label."""

_KNOWN_LABELS = 65_536
"""Maximum number of cells whose label is cached; class labels repeat."""


def labels_of(table: RawTable, column: str, names: tuple[str, ...] | None, warnings: list[str]) -> Any:
    """Read the labels; each distinct label is stored once."""
    codes, labels = _coded(table, column, names)
    _refuse_mixed(table, column, codes, labels)
    warnings += _alike(table, column, labels)
    if None in labels and len(missing := np.flatnonzero(codes == labels.index(None))):
        warnings.append(f"{table.name}: {len(missing)} of {table.rows} rows have no label ({table.where(missing)})")
    if all(label is None or isinstance(label, int) for label in labels):
        values = pack(labels)
    elif all(label is None or isinstance(label, int | float) for label in labels):
        values = pack([None if label is None else float(label) for label in labels])
    else:
        values = pack_texts([None if label is None else str(label) for label in labels])
    return pa.DictionaryArray.from_arrays(pack_numbers(codes), values)


def _alike(table: RawTable, column: str, labels: Sequence[Label | None]) -> Iterator[str]:
    """Report classes whose names differ only in what nobody sees, and names that mean that there is no label."""
    known: dict[str, str] = {}
    for label in labels if len(labels) <= _KNOWN_LABELS else ():
        if isinstance(label, str) and label[:1] != "[":
            if label.casefold() in NO_LABEL:
                yield (
                    f"{table.name}: column {short(column)} holds {short(label)}, which is read as the name of a class: "
                    "leave the cell empty where there is no label"
                )
            other = known.setdefault(_seen(label), label)
            if other != label:
                yield (
                    f"{table.name}: column {short(column)} holds {short(other)} and {short(label)}, which differ "
                    "only in case, blanks or spelling of characters and are two classes: make them one if they mean "
                    "the same"
                )


def _seen(label: str) -> str:
    """A label as a reader sees it: without case, doubled blanks and invisible characters, composed."""
    shown = unicodedata.normalize("NFKC", label)
    return " ".join("".join(one for one in shown if unicodedata.category(one) != "Cf").casefold().split())


# a number for each row, and the label of each number
def _coded(
    table: RawTable, column: str, names: tuple[str, ...] | None
) -> tuple[Int[np.ndarray, " n"], list[Label | None]]:
    codes = np.zeros(table.rows, dtype=np.int32)
    numbers: dict[Label | None, int] = {}
    known: dict[tuple[type, object], int] = {}

    def code(row: int, value: object) -> int:
        label = _label(table, column, row, plain(value))
        if names is not None and isinstance(label, str) and label[:1] == "[" and not isinstance(value, str):
            label = json.dumps([_named(table, row, _item(one), names) for one in json.loads(label)], ensure_ascii=False)
        elif names is not None:
            label = _named(table, row, label, names)
        refuse_odd_characters(table, column, row, [label])
        found = numbers.setdefault(label, len(numbers))
        if label is not None and isinstance(value, Hashable) and len(known) < _KNOWN_LABELS:
            known[type(value), value] = found
        return found

    for start, block in blocks(table.get(column)):
        for row, value in enumerate(block, start):
            # only hashable values that were accepted as a label before are looked up
            found = known.get((type(value), value)) if isinstance(value, str | int | float) else None
            codes[row] = code(row, value) if found is None else found
    return codes, list(numbers)


def _refuse_mixed(table: RawTable, column: str, codes: Int[np.ndarray, " n"], labels: Sequence[Label | None]) -> None:
    number = next((code for code, label in enumerate(labels) if isinstance(label, int | float)), None)
    text = next((code for code, label in enumerate(labels) if isinstance(label, str)), None)
    if number is not None and text is not None:
        at_number, at_text = (int(np.argmax(codes == code)) for code in (number, text))
        raise DataError(
            f"{table.name}: column {short(column)} mixes numbers and names: {table.where([at_number])} holds "
            f"{labels[number]}, {table.where([at_text])} holds {short(labels[text])}: use only numbers or only names"
        )


def _label(table: RawTable, column: str, row: int, value: object) -> Label | None:
    if isinstance(value, str):
        return None if is_blank(value) else value
    if is_null(value):
        return None
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=_native)
    if not isinstance(value, int | float):
        why = f"{short(value)} ({type(value).__name__}): a label must be a name or a whole number"
    elif isinstance(value, float) and not math.isfinite(value):
        why = f"{value}: a label must be a class or a finite number"
    elif isinstance(value, float) and not value.is_integer():
        return value
    elif -(2**63) <= value < 2**63:
        return int(value)
    else:
        why = f"{short(value)}: class numbers are limited to 64 bits; store such labels as text"
    raise DataError(f"{table.place(column, row)} holds {why}")


def _item(value: object) -> Any:
    """One entry of a list of class numbers; -100 is what trainers give to words that do not count."""
    value = plain(value)
    return None if value == -100 else value


def _native(value: Any) -> Any:
    return value.tolist()


# return the name of a ClassLabel number; `datasets` writes -1 where there is no label
def _named(table: RawTable, row: int, label: Label | None, names: tuple[str, ...]) -> str | None:
    if label is None or label == -1:
        return None
    if isinstance(label, int) and 0 <= label < len(names):
        return names[label]
    if isinstance(label, str) and label in names:
        return label
    raise DataError(
        f"{table.name}: {table.where([row])} has label {short(label)}, which is not one of the {len(names)} names of "
        f"its ClassLabel ({', '.join(names[:5])})"
    )


def ids_of(table: RawTable, column: str | None, warnings: list[str]) -> Any:
    """Read the ids."""
    if column is None:
        warnings.append(f"{table.name}: no id column: row numbers are used as ids")
        return pack_numbers(np.arange(table.rows, dtype=np.int64)).cast(pa.large_string())
    hashes = np.zeros(table.rows, dtype=np.int64)

    def spelled(start: int, block: list[Any]) -> list[str | None]:
        ids = [_id(table, column, row, plain(value)) for row, value in enumerate(block, start)]
        refuse_odd_characters(table, column, start, ids)
        hashes[start : start + len(ids)] = np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
        return [*ids]

    ids = change_texts(table.get(column), spelled)
    _refuse_twice(table, column, Column(ids), hashes)
    return ids


def _id(table: RawTable, column: str, row: int, value: object) -> str:
    text = _spelled(value)
    if text is not None:
        return text
    found = "is empty" if value == "" or is_null(value) else f"holds {short(value)} ({type(value).__name__})"
    raise DataError(
        f"{table.place(column, row)} {found}: an id must be text or a whole number; leave ids out with --id-column '' "
        "to use row numbers"
    )


# a text that is not blank, or a whole number as text; None for anything else
def _spelled(value: object) -> str | None:
    if isinstance(value, str):
        return None if is_blank(value) else value
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        return None
    return str(int(value))


# equal ids have equal hashes, so only rows with repeated hashes are compared as text
def _refuse_twice(table: RawTable, column: str, ids: Sequence[str], hashes: Int[np.ndarray, " n"]) -> None:
    ordered = np.sort(hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    rows: dict[str, list[int]] = {}
    for row in np.flatnonzero(np.isin(hashes, twice)).tolist() if len(twice) else ():
        rows.setdefault(ids[row], []).append(row)
    shared = {name: found for name, found in rows.items() if len(found) > 1}
    if shared:
        shown = "; ".join(f"{short(name)} in {table.where(found, limit=3)}" for name, found in list(shared.items())[:3])
        more = f"; and {len(shared) - 3} more ids" if len(shared) > 3 else ""
        raise DataError(
            f"{table.name}: ids must be unique, but column {short(column)} repeats {shown}{more}: make them unique, "
            "or use row numbers with --id-column ''"
        )


def sources_of(table: RawTable, column: str, warnings: list[str], *, asked: bool) -> Any | None:
    """Read the sources of the rows."""

    def spelled(start: int, block: list[Any]) -> list[str | None]:
        sources = [_source(table, column, row, plain(value)) for row, value in enumerate(block, start)]
        refuse_odd_characters(table, column, start, sources)
        return sources

    try:
        return change_texts(table.get(column), spelled)
    except DataError as error:
        if asked:
            raise
        warnings.append(f"{error}; the sources of its rows are ignored")
        return None


def _source(table: RawTable, column: str, row: int, value: object) -> str | None:
    text = _spelled(value)
    if text is None and not is_null(value) and not isinstance(value, str):
        raise DataError(
            f"{table.place(column, row)} holds {short(value)} ({type(value).__name__}): a source must be text or a "
            "whole number: name another column with --source-column, or none with --source-column ''"
        )
    return text


def weights_of(table: RawTable, column: str) -> Any:
    """Read the weights of the rows in the loss: finite numbers of at least 0, not all 0."""
    weights = np.zeros(table.rows, dtype=np.float64)
    for start, block in blocks(table.get(column)):
        for row, value in enumerate(block, start):
            weights[row] = _weight(table, column, row, plain(value))
    if not weights.any():
        raise DataError(f"{table.name}: all weights in column {short(column)} are 0: no row would count")
    return pa.array(weights)


def _weight(table: RawTable, column: str, row: int, value: object) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if math.isfinite(number) and number >= 0:
        return number
    found = "is empty" if value == "" or is_null(value) else f"holds {short(value)}"
    raise DataError(
        f"{table.place(column, row)} {found}: a weight must be a finite number of at least 0; name another column "
        "with --weight-column"
    )
