"""Where the columns of a Parquet file lie, read from its footer.

pyarrow has the same, but ends the whole process where the footer states impossible statistics of a column
(`metadata.row_group(0).column(0)`: an exception of C++ that nothing catches).
"""

from dataclasses import dataclass
from typing import Any

from proponent.data.thrift_compact import BINARY, I32, I64, Many, Struct, parsed

MOST_FOOTER = 4 * 2**20
"""Maximum bytes of a footer: some 25,000 columns of row groups."""

_TAIL = 8
_TYPES = ("BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
_MOST_PARTS = 1 << 15
_COLUMN = Struct(
    {1: I32, 3: Many(BINARY, 100), 5: I64, 7: I64, 9: I64, 11: I64, 12: Struct({3: I64})}, frozenset({1, 3, 5, 7, 9})
)
_GROUP = Struct({1: Many(Struct({3: _COLUMN}, frozenset({3})), _MOST_PARTS)}, frozenset({1}))
_FOOTER = Struct({4: Many(_GROUP, _MOST_PARTS)}, frozenset({4}))


@dataclass(frozen=True)
class Chunk:
    """One column of one row group."""

    path: str  # its name in the schema; parts of a nested one with dots between them
    physical_type: str
    values: int  # nulls included
    begin: int  # where its first page lies
    size: int  # bytes of its pages, as they are in the file
    nulls: int | None  # None where the file does not say


def columns(footer: bytes) -> tuple[tuple[Chunk, ...], ...]:
    """The columns of every row group; ValueError for what no writer makes."""
    try:
        _, found = parsed(footer, 0, _FOOTER)
    except IndexError as error:
        raise ValueError("a footer that is cut off") from error
    return tuple(tuple(_chunk(one[3]) for one in group[1]) for group in found[4])


def footer_place(tail: bytes, size: int) -> tuple[int, int]:
    """Where the footer begins and its bytes, from the last 8 bytes of a file of a size; ValueError without one."""
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or not 0 < length <= size - _TAIL:
        raise ValueError("no footer that can be read")
    if length > MOST_FOOTER:
        raise ValueError(f"a footer of {length:,} bytes, and at most {MOST_FOOTER:,} are read: write larger row groups")
    return size - _TAIL - length, length


def _chunk(held: dict[int, Any]) -> Chunk:
    kind: int = held[1]
    if not 0 <= kind < len(_TYPES):
        raise ValueError("a column of an unknown type")
    first: int = held.get(11, 0)  # 0, or behind the first page, where there is no dictionary
    if min(held[5], held[7], held[9], first) < 0:
        raise ValueError("a column that lies nowhere")
    begin = first if 0 < first < held[9] else held[9]
    path = ".".join(one.decode("utf-8") for one in held[3])
    return Chunk(path, _TYPES[kind], held[5], begin, held[7], held.get(12, {}).get(3))
