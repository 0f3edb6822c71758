"""How far the pages of a Parquet file unfold, from the headers of the pages alone: nothing is decompressed.

pyarrow reads a page in memory of the size that its header states, and copies an entry of a dictionary once for each
row that refers to it. Headers are in Thrift's compact protocol.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proponent.data.parquet_footer import Chunk
from proponent.data.thrift_compact import I32, Struct, parsed

MOST_HEADER = 1 << 20
"""Maximum bytes of the header of a page."""

USUAL_HEADER = 1 << 12
MOST_PAGES = 1_000_000
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_PLAIN = 0
_TEXTS = frozenset({"BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"})
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_HEADER = Struct({1: I32, 2: I32, 3: I32, 5: Struct({1: I32, 2: I32}), 8: Struct({1: I32, 4: I32})})

Read = Callable[[int, int], bytes]
"""Reads bytes at an offset: (offset, size)."""


@dataclass(frozen=True)
class Unfolding:
    """How far a column of a row group unfolds."""

    pages: int  # bytes of all its pages, decompressed
    longest: int  # at most so many bytes for one value that is stored once and read many times; 0 if there is none
    values: int  # values, nulls included
    width: int  # bytes of a value besides those of its text


def unfolding(read: Read, chunk: Chunk) -> Unfolding:
    """Measure one column of a row group; ValueError for pages that no writer makes."""
    at, end = chunk.begin, chunk.begin + chunk.size
    pages = longest = values = 0
    for _ in range(MOST_PAGES):
        if values >= chunk.values or at >= end:
            break
        size, held = _header(read, at)
        unfolded, packed, second = _number(held, 2), _number(held, 3), held.get(1) == _DATA_V2
        page: dict[int, Any] | None = held.get(8 if second else 5)
        if held.get(1) in {_DATA, _DATA_V2} and page is not None:
            values += _number(page, 1)
            longest = longest if page.get(4 if second else 2) == _PLAIN else max(longest, unfolded)
        elif held.get(1) == _DICTIONARY:
            longest = max(longest, unfolded)
        pages += unfolded
        at += size + packed
    else:
        raise ValueError(f"more than {MOST_PAGES:,} pages")
    if values < chunk.values:
        raise ValueError(f"pages of {values:,} values, and {chunk.values:,} are stated")
    longest = longest if chunk.physical_type in _TEXTS else 0
    return Unfolding(pages, longest, values, _WIDTHS.get(chunk.physical_type, 8))


def _header(read: Read, at: int) -> tuple[int, dict[int, Any]]:
    try:
        return parsed(read(at, USUAL_HEADER), 0, _HEADER)
    except (ValueError, IndexError):  # it may be longer
        pass
    try:
        return parsed(read(at, MOST_HEADER), 0, _HEADER)
    except IndexError as error:
        raise ValueError(f"a header of more than {MOST_HEADER:,} bytes, or one that is cut off") from error


def _number(held: dict[int, Any], field: int) -> int:
    value = held.get(field, -1)
    if not 0 <= value < 2**31:
        raise ValueError("a page without its size")
    return value
