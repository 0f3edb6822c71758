"""Tables before validation: created by every reader, checked afterwards."""

import bisect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from jaxtyping import Int

from proponent.data.columns import Column, ColumnBuilder, joined
from proponent.data.untyped import pa
from proponent.errors import DataError

# pandas.NA and NaT, recognized by name so that pandas is not imported
_NULL_TYPES = {"NAType", "NaTType"}


@dataclass(frozen=True)
class RawTable:
    """A data set as read; a column becomes Python objects only when it is read."""

    name: str  # used in messages: the path, or "list of 12 dicts"
    rows: int  # number of rows
    column_names: tuple[str, ...]  # in the order of the source
    get: Callable[[str], Sequence[object]]  # the values of one column, one per row; not modified later
    lines: Sequence[int] | None = None  # 1-based line of the file on which each row starts, where known
    warnings: tuple[str, ...] = ()  # lines that the reader wants to show
    # names behind the numbers of each column that is a `datasets` ClassLabel
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    # what the user said about how a CSV or TSV file is written, by the names of the options
    written: Mapping[str, str] = field(default_factory=dict[str, str])
    schema: Any = None  # the `pyarrow.Schema` of a Parquet or Arrow file, with metadata; None for other kinds of input

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """Return the names behind the numbers of a column; None if it has none."""
        return self.classes.get(column)

    def place(self, column: str, row: int) -> str:
        """Name a cell for a message."""
        return f"{self.name}: column {short(column)}, {self.where([row])}"

    def where(self, rows: "Sequence[int] | Int[np.ndarray, ' m']", limit: int = 5) -> str:
        """Name rows for a message, at most the first few."""
        found = [int(row) for row in rows[:limit]]
        named = [f"row {r}" if self.lines is None else f"row {r} (line {self.lines[r]})" for r in found]
        more = f" and {len(rows) - limit} more" if len(rows) > limit else ""
        return ", ".join(named) + more


def short(value: object, limit: int = 60) -> str:
    """Show a value in one short line of a message."""
    shown = repr(value[: limit + 1]) if isinstance(value, str | bytes) else repr(value)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


MOST_COLUMNS = 10_000
"""Maximum columns of a data set: every one is looked at several times."""


def check_names(name: str, column_names: Sequence[object]) -> tuple[str, ...]:
    """Refuse column names that are not text or appear twice."""
    if len(column_names) > MOST_COLUMNS:
        raise DataError(
            f"{name}: {len(column_names):,} columns, and at most {MOST_COLUMNS:,} are read: is the separator right?"
        )
    checked: dict[str, None] = {}
    for column in column_names:
        if not isinstance(column, str):
            raise DataError(f"{name}: the column name {short(column)} is not text: rename the column")
        if column in checked:
            raise DataError(f"{name}: two columns are named {short(column)}: rename one of them")
        checked[column] = None
    return tuple(checked)


def packed_table(
    name: str,
    packer: ColumnBuilder,
    lines: Sequence[int] | None = None,
    warnings: tuple[str, ...] = (),
    written: Mapping[str, str] | None = None,
) -> RawTable:
    """Build a table from packed records."""
    columns = packer.columns()
    names = check_names(name, list(columns))
    return RawTable(name, len(packer), names, lambda key: columns[key](), lines, warnings, written=dict(written or {}))


def skipped_lines(name: str, blank: Sequence[int], lines: Sequence[int]) -> tuple[str, ...]:
    """Report blank lines before the last row."""
    inner = [line for line in blank if len(lines) and line < lines[-1]]
    return (f"{name}: {len(inner)} blank lines skipped (first: line {inner[0]})",) if inner else ()


def table_of_records(
    name: str, records: Sequence[Mapping[str, object]], *, lines: Sequence[int] | None = None
) -> RawTable:
    """Build a table from rows that are mappings; a key that a row lacks counts as missing."""
    keys = list(dict.fromkeys(key for record in records for key in record))

    def get(column: str) -> Sequence[object]:
        return [record.get(column) for record in records]

    return RawTable(name, len(records), check_names(name, keys), get, lines)


def plain(value: object) -> object:
    """Convert a numpy scalar to a Python object."""
    return cast("object", value.item()) if isinstance(value, np.generic) else value


def is_null(value: object) -> bool:
    """Whether a cell is empty."""
    return value is None or (isinstance(value, float) and value != value) or type(value).__name__ in _NULL_TYPES


def is_blank(text: str | None) -> bool:
    """Whether a text is blank."""
    return not text or text.isspace()


def refuse_odd_characters(table: RawTable, column: str, start: int, values: Sequence[object]) -> None:
    """Refuse lone surrogates (not valid in UTF-8) and NUL (HTML, C and tokenizers handle it differently)."""
    texts = [value if isinstance(value, str) else "" for value in values]
    if _clean("".join(texts)):
        return
    # surrogate halves in neighbouring cells cannot hide: UTF-8 refuses both, joined or not
    place = next(i for i, text in enumerate(texts) if not _clean(text))
    what = "a NUL character" if "\0" in texts[place] else "an unpaired surrogate, which is not valid text"
    raise DataError(f"{table.place(column, start + place)} holds {what}: {short(texts[place])}; remove it")


def _clean(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


@dataclass(frozen=True)
class _Several(RawTable):
    """Several tables, concatenated."""

    parts: tuple[RawTable, ...] = ()

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """Return the names behind the numbers of a column; they are equal in all files."""
        found = {one.class_names(column) for one in self.parts if column in one.column_names}
        if len(found) > 1:
            raise DataError(
                f"the class numbers of column {short(column)} have different names in the files: read the files "
                "separately"
            )
        return found.pop() if found else None

    def where(self, rows: "Sequence[int] | Int[np.ndarray, ' m']", limit: int = 5) -> str:
        """Name rows by their file and their place in it."""
        starts = [0, *itertools.accumulate(part.rows for part in self.parts)]
        named: list[str] = []
        for row in map(int, rows[:limit]):
            place = bisect.bisect_right(starts, row) - 1
            named.append(f"{self.parts[place].where([row - starts[place]])} of {self.parts[place].name}")
        more = f" and {len(rows) - limit} more" if len(rows) > limit else ""
        return ", ".join(named) + more


def one_after_another(tables: Sequence[RawTable], parts: Sequence[str]) -> RawTable:
    """Concatenate tables that hold the same parts of an example."""
    names = list(dict.fromkeys(column for table in tables for column in table.column_names))
    for part in parts:
        _refuse_lacking(tables, part)

    def get(column: str) -> Sequence[object]:
        return joined([one.get(column) if column in one.column_names else Column(pa.nulls(one.rows)) for one in tables])

    return _Several(
        f"{len(tables)} files ({', '.join(one.name for one in tables)})",
        sum(one.rows for one in tables),
        tuple(names),
        get,
        warnings=tuple(line for one in tables for line in one.warnings),
        parts=tuple(tables),
    )


def _refuse_lacking(tables: Sequence[RawTable], column: str) -> None:
    """Require that a column with a role exists in every file or in none."""
    with_it = next((one for one in tables if column in one.column_names), None)
    without = next((one for one in tables if column not in one.column_names), None)
    if with_it is not None and without is not None:
        raise DataError(
            f"{without.name}: no column {short(column)}, but {with_it.name} has it: files that are read together must "
            "have the same columns; add the column, or read the files separately"
        )
