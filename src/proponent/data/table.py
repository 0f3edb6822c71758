"""Columns as they were read, before any check: what every reader makes and what the checks take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int

from proponent.errors import DataError


@dataclass(frozen=True)
class RawTable:
    """A data set as read; a column becomes Python objects only when it is asked for."""

    name: str  # what messages call it: the path, or "list of 12 dicts"
    rows: int  # number of rows
    column_names: tuple[str, ...]  # in the order of the source
    get: Callable[[str], Sequence[object]]  # the values of one column, one per row; nobody changes them later
    lines: Sequence[int] | None = None  # 1-based line of the file on which each row starts, where that is known
    warnings: tuple[str, ...] = ()  # lines that the reader wants shown
    # names behind the numbers of each column that is a `datasets` ClassLabel
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    schema: Any = None  # the `pyarrow.Schema` of a Parquet or Arrow file, with its notes; None for other kinds of input

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """Give the names behind the numbers of a column; None where they have none."""
        return self.classes.get(column)

    def where(self, rows: "Sequence[int] | Int[np.ndarray, ' m']", limit: int = 5) -> str:
        """Name rows for a message, the first few of them."""
        found = [int(row) for row in rows[:limit]]
        named = [f"row {r}" if self.lines is None else f"row {r} (line {self.lines[r]})" for r in found]
        more = f" and {len(rows) - limit} more" if len(rows) > limit else ""
        return ", ".join(named) + more


def short(value: object, limit: int = 60) -> str:
    """Show a value in one short line of a message."""
    shown = repr(value[: limit + 1]) if isinstance(value, str | bytes) else repr(value)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def check_names(name: str, column_names: Sequence[object]) -> tuple[str, ...]:
    """Refuse column names that are not text or appear twice."""
    checked: list[str] = []
    for column in column_names:
        if not isinstance(column, str):
            raise DataError(f"{name}: the column name {short(column)} is not text: rename the column")
        if column in checked:
            raise DataError(f"{name}: two columns are named {short(column)}: rename one of them")
        checked.append(column)
    return tuple(checked)


def table_of_records(
    name: str, records: Sequence[Mapping[str, object]], *, lines: Sequence[int] | None = None
) -> RawTable:
    """Make a table of rows that are mappings; a key that a row lacks counts as missing."""
    keys = list(dict.fromkeys(key for record in records for key in record))

    def get(column: str) -> Sequence[object]:
        return [record.get(column) for record in records]

    return RawTable(name, len(records), check_names(name, keys), get, lines)
