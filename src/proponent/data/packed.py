"""Columns that cost little more than their bytes: kept in Arrow memory, made into Python objects when asked for."""

# pyright: reportMissingTypeStubs=false
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, overload

import numpy as np
import pyarrow
from jaxtyping import Int

# pyarrow ships no types
_pa: Any = pyarrow

BLOCK = 1024
"""Rows that become Python objects at a time."""

_TEXT = _pa.large_string()
_INT64 = range(-(2**63), 2**63)
_KINDS = {str: _TEXT, int: _pa.int64(), float: _pa.float64(), bool: _pa.bool_(), type(None): _pa.null()}
_DENSE = 256
"""Columns of records that are packed; keys past these are rare (an id used as a key) and kept row by row."""


def blocks(column: Sequence[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Go through a column without holding all of it as Python objects."""
    for start in range(0, len(column), BLOCK):
        yield start, list(column[start : start + BLOCK])


class LazySequence(Sequence[Any]):
    """A sequence whose values are made when they are asked for; leaves say how one is made, and how a run of them."""

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            rows = range(*index.indices(len(self)))
            return self._run(rows.start, rows.stop) if rows.step == 1 else [self._one(row) for row in rows]
        # a range counts from the end and refuses what is past it
        return self._one(range(len(self))[index])

    def __iter__(self) -> Iterator[Any]:
        for _, block in blocks(self):
            yield from block

    def _one(self, row: int) -> Any:
        raise NotImplementedError

    def _run(self, start: int, stop: int) -> list[Any]:
        return [self._one(row) for row in range(start, stop)]


class ArrowColumn(LazySequence):
    """A column in Arrow memory, which may be a mapped file.

    Args:
        data: a `pyarrow.Array` or `pyarrow.ChunkedArray`.
    """

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The `pyarrow.Array`s that hold it, none of them empty."""
        chunks = self._data.chunks if isinstance(self._data, _pa.ChunkedArray) else [self._data]
        return tuple(chunk for chunk in chunks if len(chunk))

    def __arrow_array__(self, type: object = None) -> Any:  # noqa: A002 # pyarrow's protocol names it so
        return self._data if type is None else self._data.cast(type)

    def _one(self, row: int) -> Any:
        return self._data[row].as_py()

    def _run(self, start: int, stop: int) -> list[Any]:
        return self._data.slice(start, max(0, stop - start)).to_pylist()


class MappedColumn(LazySequence):
    """A column seen through a function of each value.

    Args:
        column: the column.
        change: the function.
    """

    def __init__(self, column: Sequence[Any], change: Callable[[Any], Any]) -> None:
        self._column, self._change = column, change

    def __len__(self) -> int:
        return len(self._column)

    def _one(self, row: int) -> Any:
        return self._change(self._column[row])

    def _run(self, start: int, stop: int) -> list[Any]:
        return list(map(self._change, self._column[start:stop]))


class ConcatenatedColumn(LazySequence):
    """Several sequences, one after another.

    Args:
        parts: the sequences.
    """

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends = list(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _one(self, row: int) -> Any:
        part = bisect_right(self._ends, row)
        return self._parts[part][row - self._ends[part]]

    def _run(self, start: int, stop: int) -> list[Any]:
        found: list[Any] = []
        for part, end in zip(self._parts, self._ends, strict=True):
            begin = end - len(part)
            if begin < stop and start < end:
                found += part[max(0, start - begin) : stop - begin]
        return found


class CodedColumn(LazySequence):
    """A column of few distinct values: a number per row.

    Args:
        codes: [n] place of each row's value.
        values: the distinct values.
    """

    def __init__(self, codes: Int[np.ndarray, " n"], values: Sequence[Any]) -> None:
        self._codes, self._values = codes, values

    def __len__(self) -> int:
        return len(self._codes)

    def _one(self, row: int) -> Any:
        return self._values[self._codes[row]]


class RowNumbers(LazySequence):
    """The row numbers, as text.

    Args:
        rows: how many.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def _one(self, row: int) -> str:
        return str(row)


class SelectedRows(LazySequence):
    """Some rows of a column.

    Args:
        column: the column.
        rows: [n] which.
    """

    def __init__(self, column: Sequence[Any], rows: "range | Int[np.ndarray, ' n']") -> None:
        self._column, self._rows = column, rows

    def __len__(self) -> int:
        return len(self._rows)

    def _one(self, row: int) -> Any:
        return self._column[int(self._rows[row])]

    def _run(self, start: int, stop: int) -> list[Any]:
        return select_rows(self._column, self._rows[start:stop])


def select_rows(column: Sequence[Any], rows: "range | Int[np.ndarray, ' n']") -> list[Any]:
    """Take some values of a column."""
    if isinstance(rows, range):
        # a stretch is much cheaper than its values one by one
        return list(column[rows.start : rows.stop]) if rows.step == 1 else [column[row] for row in rows]
    return [column[row] for row in rows.tolist()]


def pack_texts(texts: Sequence[str | None]) -> ArrowColumn:
    """Pack texts."""
    encoded = [b"" if text is None else text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)), out=offsets[1:])
    buffers = [_mask(texts), _pa.py_buffer(offsets), _pa.py_buffer(b"".join(encoded))]
    # not pyarrow.array: it imports pandas to find out that this is none of it
    return ArrowColumn(_pa.Array.from_buffers(_TEXT, len(encoded), buffers))


# Arrow's bits that say which values are there; None where all are
def _mask(values: Sequence[Any]) -> Any:
    there = np.fromiter((value is not None for value in values), dtype=np.bool_, count=len(values))
    return None if there.all() else _pa.py_buffer(np.packbits(there, bitorder="little"))


class ColumnBuilder:
    """Records (rows that are mappings) gathered into packed columns; a key that a record lacks is None.

    Args:
        spare: what keeps values that no one kind of Arrow column holds without changing them.
    """

    def __init__(self, spare: Callable[[list[Any]], Sequence[Any]]) -> None:
        self._spare = spare
        self._pending: list[Mapping[str, Any]] = []
        self._parts: dict[str, list[Sequence[Any]]] = {}
        self._rare: dict[str, dict[int, Any]] = {}
        self._packed = 0

    def __len__(self) -> int:
        return self._packed + len(self._pending)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a row."""
        self._pending.append(record)
        if len(self._pending) == BLOCK:
            self._pack()

    def columns(self) -> dict[str, Callable[[], Sequence[Any]]]:
        """Finish."""
        self._pack()
        order = [*self._parts, *self._rare]
        return {key: lambda key=key: self._column(key) for key in order}

    def _pack(self) -> None:
        start = self._packed
        for row, record in enumerate(self._pending, start):
            for key, value in record.items():
                if key not in self._parts:
                    if len(self._parts) == _DENSE:
                        self._rare.setdefault(key, {})[row] = value
                    else:
                        self._parts[key] = [ArrowColumn(_pa.nulls(start))]
        for key, parts in self._parts.items():
            values = [record.get(key) for record in self._pending]
            parts.append(_typed(values) or self._spare(values))
        self._packed += len(self._pending)
        self._pending = []

    def _column(self, key: str) -> Sequence[Any]:
        if key in self._rare:
            return [self._rare[key].get(row) for row in range(self._packed)]
        return joined(self._parts[key])


def joined(parts: Sequence[Sequence[Any]]) -> Sequence[Any]:
    """Lay pieces of a column one after another, as one Arrow column where they are of one kind."""
    arrays = [array for part in parts if isinstance(part, ArrowColumn) for array in part.arrays]
    kinds = {array.type for array in arrays} - {_pa.null()}
    if len(kinds) > 1 or any(len(part) and not isinstance(part, ArrowColumn) for part in parts):
        return ConcatenatedColumn(parts)
    kind = kinds.pop() if kinds else _pa.null()
    whole = [array if array.type == kind else _pa.nulls(len(array), kind) for array in arrays]
    return ArrowColumn(_pa.chunked_array(whole, type=kind))


# a column that gives back these very values; None where no kind of Arrow column does
def _typed(values: Sequence[Any]) -> ArrowColumn | None:
    kinds = set(map(type, values)) - {type(None)}
    kind = kinds.pop() if kinds else type(None)
    if (
        kinds
        or kind not in _KINDS
        or (kind is int and any(value not in _INT64 for value in values if value is not None))
    ):
        return None
    if kind is type(None):
        return ArrowColumn(_pa.nulls(len(values)))
    if kind is str:
        try:
            return pack_texts(values)
        except UnicodeEncodeError:  # half of a surrogate pair
            return None
    numbers = np.asarray([kind() if value is None else value for value in values], dtype=kind)
    data = np.packbits(numbers, bitorder="little") if kind is bool else numbers
    return ArrowColumn(_pa.Array.from_buffers(_KINDS[kind], len(values), [_mask(values), _pa.py_buffer(data)]))


def as_json(values: list[Any]) -> Sequence[Any]:
    """Keep values that came from JSON as JSON."""
    try:
        return MappedColumn(pack_texts([json.dumps(value) for value in values]), json.loads)
    except RecursionError:  # nested just as deep as could be read
        return values
