"""How far the pages of a Parquet file unfold, from the headers of the pages alone: nothing is decompressed.

pyarrow reads a page in memory of the size that its header states, and copies an entry of a dictionary once for each
row that refers to it. Headers are in Thrift's compact protocol.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

MOST_HEADER = 1 << 20
"""Maximum bytes of the header of a page."""

USUAL_HEADER = 1 << 12
MOST_PAGES = 1_000_000
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_PLAIN = 0
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 11, 12
_TEXTS = frozenset({"BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"})
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
DEEPEST = 8

Read = Callable[[int, int], bytes]
"""Reads bytes at an offset: (offset, size)."""


@dataclass(frozen=True)
class Unfolding:
    """How far a column of a row group unfolds."""

    pages: int  # bytes of all its pages, decompressed
    longest: int  # at most so many bytes for one value that is stored once and read many times; 0 if there is none
    values: int  # values, nulls included
    width: int  # bytes of a value besides those of its text


def unfolding(read: Read, chunk: Any) -> Unfolding:
    """Measure one column of a row group; ValueError for pages that no writer makes."""
    begin = int(chunk.data_page_offset)
    first = chunk.dictionary_page_offset
    at = int(first) if first is not None and 0 < int(first) < begin else begin
    end = at + int(chunk.total_compressed_size)
    pages = longest = values = 0
    for _ in range(MOST_PAGES):
        if values >= chunk.num_values or at >= end:
            break
        size, held = _header(read, at)
        unfolded, packed = _number(held, 2), _number(held, 3)
        data = held.get(8 if held.get(1) == _DATA_V2 else 5)
        if held.get(1) in {_DATA, _DATA_V2} and isinstance(data, dict):
            page = cast("dict[int, Any]", data)
            values += _number(page, 1)
            encoding = page.get(4 if held.get(1) == _DATA_V2 else 2)
            longest = longest if encoding == _PLAIN else max(longest, unfolded)
        elif held.get(1) == _DICTIONARY:
            longest = max(longest, unfolded)
        pages += unfolded
        at += size + packed
    else:
        raise ValueError(f"more than {MOST_PAGES:,} pages")
    return Unfolding(
        pages, longest if chunk.physical_type in _TEXTS else 0, values, _WIDTHS.get(chunk.physical_type, 8)
    )


def _header(read: Read, at: int) -> tuple[int, dict[int, Any]]:
    try:
        return _struct(read(at, USUAL_HEADER), 0, 0)
    except ValueError:  # it may be longer
        return _struct(read(at, MOST_HEADER), 0, 0)


def _number(held: dict[int, Any], field: int) -> int:
    value = held.get(field)
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError("a page without its size")
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return at, value
        if shift > 63:
            raise ValueError("a number that is too long")


def _struct(data: bytes, at: int, depth: int) -> tuple[int, dict[int, Any]]:
    """The numbers and structures of a structure by field, and where it ends."""
    if depth > DEEPEST:
        raise ValueError("a header that is nested too deeply")
    fields: dict[int, Any] = {}
    field = 0
    try:
        while (head := data[at]) != _STOP:
            at += 1
            if head >> 4:
                field += head >> 4
            else:
                at, coded = _varint(data, at)
                field = coded >> 1 ^ -(coded & 1)
            at, fields[field] = _value(data, at, head & 15, depth)
    except IndexError as error:
        raise ValueError(f"a header of more than {MOST_HEADER:,} bytes, or one that is cut off") from error
    return at + 1, fields


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[int, Any]:
    if kind in {_TRUE, _FALSE}:
        return at, kind == _TRUE
    if kind in {_BYTE, _DOUBLE}:
        return at + (1 if kind == _BYTE else 8), None
    if kind < _DOUBLE:
        at, coded = _varint(data, at)
        return at, coded >> 1 ^ -(coded & 1)
    if kind == _BINARY:
        at, size = _varint(data, at)
        return at + size, None
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)
    return _several(data, at, kind, depth), None


def _several(data: bytes, at: int, kind: int, depth: int) -> int:
    """Where a list, a set or a map ends."""
    if depth > DEEPEST:
        raise ValueError("a header that is nested too deeply")
    if kind == _MAP:
        at, count = _varint(data, at)
        kinds = divmod(data[at], 16) if count else (_BYTE, _BYTE)
        at += 1 if count else 0
    elif kind in {_LIST, _SET}:
        count, inner = divmod(data[at], 16)
        at += 1
        if count == 15:
            at, count = _varint(data, at)
        kinds = (inner,)
    else:
        raise ValueError("a field of an unknown kind")
    for _ in range(count):
        for one in kinds:
            at = at + 1 if one in {_TRUE, _FALSE} else _value(data, at, one, depth + 1)[0]
            if at > len(data):
                raise IndexError(at)
    return at
