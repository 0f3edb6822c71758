"""Thrift's compact protocol, as far as Parquet needs it: what is wanted is read, everything else is stepped over.

What libraries read in different ways is refused: a field that occurs twice or is of another kind than is wanted, an
end of a structure that is not one zero byte, a number of more bits than its kind has.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

I32, I64, BINARY = 5, 6, 8
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _LIST, _SET, _MAP, _STRUCT = 0, 1, 2, 3, 7, 9, 10, 11, 12
_NUMBERS = frozenset({4, I32, I64})
DEEPEST = 8
MOST_FIELDS = 1 << 15
"""Least number of a field that no structure has: they are numbers of 16 bits."""


@dataclass(frozen=True)
class Struct:
    """A structure: the wanted fields by number."""

    fields: "Mapping[int, Wanted]"
    needed: frozenset[int] = frozenset()  # fields that must be there


@dataclass(frozen=True)
class Many:
    """A list of equal parts."""

    of: "Wanted"
    most: int  # maximum number of parts


Wanted = int | Struct | Many
"""What is read: a number (I32, I64), bytes (BINARY), a structure or a list."""


def parsed(data: bytes, at: int, wanted: Wanted, depth: int = 0) -> tuple[int, Any]:
    """Where a value ends, and the value, a structure as a dict by field. ValueError; IndexError where data ends."""
    if depth > DEEPEST:
        raise ValueError("a structure that is nested too deeply")
    if isinstance(wanted, Struct):
        return _struct(data, at, wanted, depth)
    if isinstance(wanted, Many):
        at, count, kind = _list_head(data, at)
        if (count and kind != _kind(wanted.of)) or count > wanted.most:
            raise ValueError("a list of another kind, or of too many parts")
        values: list[Any] = []
        for _ in range(count):
            at, value = parsed(data, at, wanted.of, depth + 1)
            values.append(value)
        return at, values
    at, number = varint(data, at)
    if wanted == I32 and number >= 1 << 32:
        raise ValueError("a number of more than 32 bits")
    if wanted != BINARY:
        return at, number >> 1 ^ -(number & 1)
    return _within(data, at + number), data[at : at + number]


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of variable length: where it ends, and the number."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128 and value < 1 << 64:
            return at, value
        if byte < 128 or shift > 63:
            raise ValueError("a number of more than 64 bits")


def _struct(data: bytes, at: int, wanted: Struct, depth: int) -> tuple[int, dict[int, Any]]:
    found: dict[int, Any] = {}
    seen: set[int] = set()
    field = 0
    while (head := data[at]) != _STOP:
        if head & 15 == _STOP:
            raise ValueError("an end of a structure that no writer makes")
        at += 1
        if head >> 4:
            field += head >> 4
        else:
            at, coded = varint(data, at)
            field = coded >> 1 ^ -(coded & 1)
        kind = head & 15
        if field in seen or not -MOST_FIELDS <= field < MOST_FIELDS:
            raise ValueError("a field that occurs twice, or has no number")
        seen.add(field)
        inner = wanted.fields.get(field)
        if inner is None:
            at = _skipped(data, at, kind, depth)
        elif kind != _kind(inner):
            raise ValueError(f"a field {field} of another kind")
        else:
            at, found[field] = parsed(data, at, inner, depth + 1)
    if not wanted.needed <= found.keys():
        raise ValueError("a structure without what it needs")
    return at + 1, found


def _skipped(data: bytes, at: int, kind: int, depth: int) -> int:
    """Where a value of a field ends."""
    if depth > DEEPEST:
        raise ValueError("a structure that is nested too deeply")
    if kind in {_TRUE, _FALSE}:
        return at
    if kind in {_BYTE, _DOUBLE}:
        return _within(data, at + (1 if kind == _BYTE else 8))
    if kind in _NUMBERS:
        return varint(data, at)[0]
    if kind == BINARY:
        at, size = varint(data, at)
        return _within(data, at + size)
    if kind == _STRUCT:
        return _struct(data, at, _NOTHING, depth + 1)[0]
    if kind == _MAP:
        at, count = varint(data, at)
        kinds = divmod(data[at], 16) if count else ()
        at += 1 if count else 0
    elif kind in {_LIST, _SET}:
        at, count, inner = _list_head(data, at)
        kinds = (inner,)
    else:
        raise ValueError("a field of an unknown kind")
    for _ in range(count):
        for one in kinds:  # inside of lists and maps a truth value takes a byte
            at = _within(data, at + 1) if one in {_TRUE, _FALSE} else _skipped(data, at, one, depth + 1)
    return at


def _list_head(data: bytes, at: int) -> tuple[int, int, int]:
    """Where the parts begin, how many there are, and their kind."""
    count, kind = divmod(data[at], 16)
    at += 1
    if count == 15:
        at, count = varint(data, at)
    if count > len(data) - at:
        raise ValueError("a list that is longer than its file")
    return at, count, kind


def _within(data: bytes, at: int) -> int:
    if at > len(data):
        raise IndexError(at)
    return at


def _kind(wanted: Wanted) -> int:
    return _STRUCT if isinstance(wanted, Struct) else _LIST if isinstance(wanted, Many) else wanted


_NOTHING = Struct({})
