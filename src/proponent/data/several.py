"""Several files read as one data set, one after another; rows are numbered over all of them."""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Int

from proponent.data.columns import Column, joined
from proponent.data.examples import Columns
from proponent.data.table import RawTable, short
from proponent.data.untyped import pa
from proponent.errors import DataError


@dataclass(frozen=True)
class Several(RawTable):
    """Tables one after another."""

    parts: tuple[RawTable, ...] = ()

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """Give the names behind the numbers of a column, which are those of every file."""
        found = {one.class_names(column) for one in self.parts if column in one.column_names}
        if len(found) > 1:
            raise DataError(f"the numbers of column {short(column)} have different names in the files: read them apart")
        return found.pop() if found else None

    def where(self, rows: "Sequence[int] | Int[np.ndarray, ' m']", limit: int = 5) -> str:
        """Name rows by the file that holds them and their place in it."""
        starts = [0, *itertools.accumulate(part.rows for part in self.parts)]
        named: list[str] = []
        for row in map(int, rows[:limit]):
            place = bisect.bisect_right(starts, row) - 1
            named.append(f"{self.parts[place].where([row - starts[place]])} of {self.parts[place].name}")
        more = f" and {len(rows) - limit} more" if len(rows) > limit else ""
        return ", ".join(named) + more


def one_after_another(tables: Sequence[RawTable], columns: Columns) -> RawTable:
    """Join tables that hold the same parts of an example."""
    names = list(dict.fromkeys(column for table in tables for column in table.column_names))
    for part in fields(columns):
        _refuse_lacking(tables, getattr(columns, part.name))

    def get(column: str) -> Sequence[object]:
        return joined([one.get(column) if column in one.column_names else Column(pa.nulls(one.rows)) for one in tables])

    return Several(
        f"{len(tables)} files ({', '.join(one.name for one in tables)})",
        sum(one.rows for one in tables),
        tuple(names),
        get,
        warnings=tuple(line for one in tables for line in one.warnings),
        parts=tuple(tables),
    )


def _refuse_lacking(tables: Sequence[RawTable], column: str) -> None:
    """A column that plays a part stands in every file, or in none."""
    with_it = next((one for one in tables if column in one.column_names), None)
    without = next((one for one in tables if column not in one.column_names), None)
    if with_it is not None and without is not None:
        raise DataError(
            f"{without.name}: no column {short(column)}, which {with_it.name} has: files that are read together hold "
            "the same columns; add it, or read them one by one"
        )
