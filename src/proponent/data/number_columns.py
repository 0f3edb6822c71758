"""Numbers by id: files whose columns are an id and numbers, such as the class probabilities of another model."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from proponent.data.columns import Column, blocks
from proponent.data.labels_and_ids import ids_of
from proponent.data.sources import read_table
from proponent.data.table import RawTable, is_null, plain, short
from proponent.errors import DataError
from proponent.suggest import nearest


@dataclass(frozen=True)
class NumberColumns:
    """Ids, and one number of each in every column."""

    table: RawTable  # for messages
    ids: list[str]
    values: Float[np.ndarray, "n c"]  # columns in the order that was asked for


def read_numbers(path: str | os.PathLike[str], names: Sequence[str], id_column: str = "id") -> NumberColumns:
    """Read a file with a column of ids and a column of finite numbers for each name, and nothing else.

    Args:
        path: CSV, TSV, JSON(L), Parquet or Arrow file.
        names: the columns of numbers, in any order in the file.
        id_column: the column of ids.

    Returns:
        Ids, and the numbers [n c] in the order of `names`.

    Raises:
        DataError: no such file, other columns, no rows, repeated ids, or a cell without a finite number.
    """
    table = read_table(path)
    wanted = [id_column, *names]
    lacking = [name for name in wanted if name not in table.column_names]
    if lacking:
        raise DataError(
            f"{table.name}: no column {short(lacking[0])}{nearest(lacking[0], table.column_names)}; it has "
            f"{', '.join(map(short, table.column_names))}: name the columns {', '.join(map(short, wanted))}"
        )
    other = [name for name in table.column_names if name not in wanted]
    if other:
        raise DataError(
            f"{table.name}: column {short(other[0])} is not one of {', '.join(map(short, wanted))}: remove it, or give "
            "it the name that is meant"
        )
    if table.rows == 0:
        raise DataError(f"{table.name}: the table has no rows: write one row for each id")
    ids = list(Column(ids_of(table, id_column, [])))
    return NumberColumns(table, ids, np.stack([_numbers(table, name) for name in names], axis=1))


def _numbers(table: RawTable, column: str) -> Float[np.ndarray, " n"]:
    found = np.zeros(table.rows, dtype=np.float64)
    for start, block in blocks(table.get(column)):
        for row, value in enumerate(block, start):
            found[row] = _number(table, column, row, plain(value))
    return found


def _number(table: RawTable, column: str, row: int, value: object) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number
    found = "is empty" if value == "" or is_null(value) else f"holds {short(value)}"
    raise DataError(f"{table.place(column, row)} {found}: it must be a finite number: correct the file")
