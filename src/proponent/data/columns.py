"""Columns in Arrow memory, which take little more than their bytes; values become Python objects when read."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, overload

import numpy as np
from jaxtyping import Int, Shaped

from proponent.data.untyped import pa

Rows = range | Int[np.ndarray, " _"]

BLOCK = 1024
"""Rows converted to Python objects at a time."""

_CHARACTERS = 1 << 22
"""Maximum characters of records that wait to be packed (a single record may have more)."""

_TEXT = pa.large_string()
_TEXTS = {pa.string(), _TEXT}
_INT64 = range(-(2**63), 2**63)
_KINDS = {str: _TEXT, int: pa.int64(), float: pa.float64(), bool: pa.bool_(), type(None): pa.null()}
_DENSE = 256
"""Maximum number of packed columns; further keys are rare (an id used as a key) and stored row by row."""


class Column(Sequence[Any]):
    """A sequence over a `pyarrow.ChunkedArray` (possibly in a mapped file), or over some of its rows, decoded."""

    def __init__(self, data: Any, rows: Rows | None = None, decode: Callable[[Any], Any] | None = None) -> None:
        self._data = data if isinstance(data, pa.ChunkedArray) else pa.chunked_array([data])
        self._rows = range(len(self._data)) if rows is None else rows
        self.decode = decode

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._values(self._rows[index])
        value = self._data[int(self._rows[index])].as_py()
        return value if self.decode is None else self.decode(value)

    def __iter__(self) -> Iterator[Any]:
        for _, block in blocks(self):
            yield from block

    def __arrow_array__(self, type: object = None) -> Any:  # noqa: A002 # pyarrow's protocol names it so
        return self.arrow if type is None else self.arrow.cast(type)

    @property
    def arrow(self) -> Any:
        """The `pyarrow.ChunkedArray`, restricted to the chosen rows."""
        whole = isinstance(self._rows, range) and self._rows == range(len(self._data))
        return self._data if whole else self._data.take(pack_numbers(np.asarray(self._rows, dtype=np.int64)))

    def take(self, rows: Rows) -> "Column":
        """Select rows without copying their values."""
        return Column(self._data, choose(self._rows, rows), self.decode)

    def _values(self, rows: Rows) -> list[Any]:
        if isinstance(rows, range) and rows.step == 1:  # much cheaper than one index at a time
            found = self._data.slice(rows.start, len(rows)).to_pylist()
        else:
            found = self._taken(rows)
        return found if self.decode is None else list(map(self.decode, found))

    def _taken(self, rows: Rows) -> list[Any]:
        if self._data.num_chunks == 1:  # from several chunks, Arrow would join all of them
            with suppress(pa.ArrowNotImplementedError):  # of views
                return self._data.take(pack_numbers(np.asarray(rows, dtype=np.int64))).to_pylist()
        return [self._data[int(row)].as_py() for row in rows]


def choose(rows: Rows, chosen: Rows) -> Rows:
    """Select from rows that are already a selection."""
    if not isinstance(rows, range):
        return rows[np.asarray(chosen, dtype=np.int64)]
    start, step = rows.start, rows.step
    if isinstance(chosen, range):
        return range(start + step * chosen.start, start + step * chosen.stop, step * chosen.step)
    return start + step * chosen


def select(values: Sequence[Any], rows: Rows) -> Sequence[Any]:
    """Select values of a column."""
    return values.take(rows) if isinstance(values, Column) else [values[int(row)] for row in rows]


def blocks(column: Sequence[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Iterate over a column without holding all of it as Python objects."""
    for start in range(0, len(column), BLOCK):
        yield start, list(column[start : start + BLOCK])


def pack_texts(texts: Sequence[str | None]) -> Any:
    """Build an Arrow array of texts; `pyarrow.array` would import pandas to check for its types."""
    encoded = [b"" if text is None else text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)), out=offsets[1:])
    buffers = [_mask(texts), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(_TEXT, len(encoded), buffers)


def named(codes: Int[np.ndarray, " n"], names: Sequence[str]) -> Column:
    """Names by their code; None for a code below 0."""
    there = pa.py_buffer(np.packbits(codes >= 0, bitorder="little"))
    packed = pa.py_buffer(np.ascontiguousarray(codes, dtype=np.int64))
    return Column(pack_texts(names).take(pa.Array.from_buffers(pa.int64(), len(codes), [there, packed])))


def numbers(values: Shaped[np.ndarray, " n"]) -> Column:
    """Numbers, or true and false."""
    if values.dtype == np.bool_:
        return Column(
            pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(np.packbits(values, bitorder="little"))])
        )
    return Column(pack_numbers(values))


def pack_numbers(values: Shaped[np.ndarray, " n"]) -> Any:
    """Build an Arrow array of numbers without importing pandas, as in `pack_texts`."""
    kind = {"i4": pa.int32(), "i8": pa.int64(), "f4": pa.float32(), "f8": pa.float64()}[values.dtype.str[1:]]
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _mask(values: Sequence[Any]) -> Any:
    """Arrow's validity bits; None if all values are present."""
    there = np.fromiter((value is not None for value in values), dtype=np.bool_, count=len(values))
    return None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))


def pack(values: Sequence[Any]) -> Any:
    """Build an Arrow array that returns exactly these values; None if no Arrow type can."""
    kinds = set(map(type, values)) - {type(None)}
    kind = kinds.pop() if kinds else type(None)
    if kinds or kind not in _KINDS:
        return None
    if kind is int and any(value not in _INT64 for value in values if value is not None):
        return None
    if kind is type(None):
        return pa.nulls(len(values))
    if kind is str:
        try:
            return pack_texts(values)
        except UnicodeEncodeError:  # a lone surrogate
            return None
    numbers = np.asarray([kind() if value is None else value for value in values], dtype=kind)
    data = np.packbits(numbers, bitorder="little") if kind is bool else numbers
    return pa.Array.from_buffers(_KINDS[kind], len(values), [_mask(values), pa.py_buffer(data)])


def joined(parts: Sequence[Sequence[Any]]) -> Sequence[Any]:
    """Concatenate pieces of a column: in Arrow memory if they have the same type."""
    whole = _joined(parts)
    return [value for part in parts for value in part] if whole is None else whole


def _joined(parts: Sequence[Sequence[Any]]) -> Column | None:
    columns = [part for part in parts if isinstance(part, Column)]
    decoders = {part.decode for part in columns if len(part)}
    chunks = [chunk for part in columns for chunk in part.arrow.chunks if len(chunk)]
    kinds = {chunk.type for chunk in chunks} - {pa.null()}
    kinds = {_TEXT} if kinds == _TEXTS else kinds
    if len(kinds) > 1 or len(decoders) > 1 or any(len(part) for part in parts if not isinstance(part, Column)):
        return None
    kind = kinds.pop() if kinds else pa.null()
    fitted = [pa.nulls(len(chunk), kind) if chunk.type == pa.null() else chunk.cast(kind) for chunk in chunks]
    return Column(pa.chunked_array(fitted, type=kind), decode=decoders.pop() if decoders else None)


def change_texts(values: Sequence[Any], change: Callable[[int, list[Any]], list[str | None]]) -> Any:
    """Apply a function to a column block by block; Arrow memory is shared where texts do not change."""
    shared = values.arrow if isinstance(values, Column) and values.decode is None else None
    parts: list[Column] = []
    done = 0
    for start, block in blocks(values):
        texts = change(start, block)
        if shared is None or texts != block:
            parts += [] if shared is None else [Column(shared.slice(done, start - done))]
            parts.append(Column(pack_texts(texts)))
            done = start + len(block)
    if not done:
        return shared
    parts += [] if shared is None else [Column(shared.slice(done))]
    whole = _joined(parts)
    return pa.chunked_array([pack_texts(list(part)) for part in parts]) if whole is None else whole.arrow


class ColumnBuilder:
    """Collects records (rows that are mappings) into columns; a key that a record lacks is None."""

    # `spare` stores values that no single Arrow type can hold unchanged.

    def __init__(self, spare: Callable[[list[Any]], Sequence[Any]], names: Sequence[str] = ()) -> None:
        self._spare = spare
        self._pending: list[Mapping[str, Any]] = []
        self._characters = 0
        self._parts: dict[str, list[Sequence[Any]]] = {name: [] for name in names}
        self._rare: dict[str, dict[int, Any]] = {}
        self._packed = 0

    def __len__(self) -> int:
        return self._packed + len(self._pending)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a row."""
        self._pending.append(record)
        self._characters += sum(len(value) for value in record.values() if isinstance(value, str))
        if len(self._pending) == BLOCK or self._characters > _CHARACTERS:
            self._pack()

    def columns(self) -> dict[str, Callable[[], Sequence[Any]]]:
        """Finish; a column is joined on first access."""
        self._pack()
        return {key: lambda key=key: self._column(key) for key in (*self._parts, *self._rare)}

    def _pack(self) -> None:
        start = self._packed
        for row, record in enumerate(self._pending, start):
            for key, value in record.items():
                if key not in self._parts:
                    if len(self._parts) >= _DENSE:
                        self._rare.setdefault(key, {})[row] = value
                    else:
                        self._parts[key] = [Column(pa.nulls(start))]
        for key, parts in self._parts.items():
            values = [record.get(key) for record in self._pending]
            array = pack(values)
            parts.append(self._spare(values) if array is None else Column(array))
        self._packed += len(self._pending)
        self._pending, self._characters = [], 0

    def _column(self, key: str) -> Sequence[Any]:
        if key in self._rare:
            return [self._rare[key].get(row) for row in range(self._packed)]
        whole = _joined(self._parts[key])
        return joined([self._spare(list(part)) for part in self._parts[key]]) if whole is None else whole


def as_json(values: list[Any]) -> Sequence[Any]:
    """Store values that came from JSON as JSON."""
    try:
        return Column(pack_texts([json.dumps(value) for value in values]), decode=json.loads)
    except RecursionError:  # nested exactly as deep as could be parsed
        return values
