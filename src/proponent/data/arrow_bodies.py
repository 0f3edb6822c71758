"""How far an Arrow file unfolds: compressed bodies, from the sizes that they state, and types that repeat values.

The description of a message is a FlatBuffer; only the few fields that are needed are read.
"""

import struct
from typing import Any

from proponent.data.door import most_rows, most_unfolded
from proponent.data.untyped import compute, ipc, pa

_BATCH, _DICTIONARY = "record batch", "dictionary"
_HEADER, _DATA, _LENGTH, _BUFFERS, _COMPRESSION = 2, 1, 0, 2, 3
"""Places of the fields: of a message, of a dictionary, and three of a record batch."""

_TEXTS = {pa.string(), pa.large_string(), pa.binary(), pa.large_binary()}
_REPEATING = ("string_view", "binary_view", "list_view", "large_list_view", "run_end_encoded")
"""Types in which a few bytes may be many values; no data set that people train on needs them."""


def refuse_bombs(whole: Any) -> None:
    """Refuse a stream of messages that unfolds too far; ValueError."""
    size = whole.size
    rows = unfolded = 0
    for message in _messages(whole):
        if message.type not in {_BATCH, _DICTIONARY}:
            continue
        try:
            length, extra = _batch(message)
        except struct.error as error:
            raise ValueError("a message that is cut off") from error
        rows, unfolded = rows + length, unfolded + extra
        if unfolded > most_unfolded(size):
            raise ValueError(f"it unfolds to more than {most_unfolded(size):,} bytes, from {size:,}")
        if rows > most_rows(size):
            raise ValueError(f"more than {most_rows(size):,} rows in {size:,} bytes")


def refuse_kinds(schema: Any) -> None:
    """Refuse columns of types that repeat values; ValueError."""
    for field in schema:
        parts = [field.type]
        while parts:
            kind = parts.pop()
            parts += [kind.field(number).type for number in range(kind.num_fields)]
            parts += [kind.value_type] if pa.types.is_dictionary(kind) else []
            if str(kind).startswith(_REPEATING):
                raise ValueError(f"the column {field.name} is of {str(kind)[:60]}: write it as plain text or lists")


def unfolded_size(column: Any) -> int:
    """Bytes of the texts of a column whose values are entries of a dictionary; 0 for any other."""
    if not pa.types.is_dictionary(column.type) or column.type.value_type not in _TEXTS:
        return 0
    found = 0
    for chunk in column.chunks:
        lengths = compute.binary_length(chunk.dictionary).take(chunk.indices)
        found += compute.sum(lengths.cast(pa.int64())).as_py() or 0
    return found


def _messages(whole: Any) -> Any:
    reader = ipc.MessageReader.open_stream(whole)
    while True:
        try:
            yield reader.read_next_message()
        except StopIteration:
            return


def _batch(message: Any) -> tuple[int, int]:
    """The rows of a record batch or a dictionary, and the bytes that its compressed buffers unfold to."""
    data = bytes(message.metadata)
    table = _table(data, _root(data), _HEADER)
    if message.type == _DICTIONARY:
        table = _table(data, table, _DATA)
    place = _field(data, table, _LENGTH)
    length = 0 if place is None else struct.unpack_from("<q", data, place)[0]
    if length < 0:
        raise ValueError("a negative number of rows")
    vector = _field(data, table, _BUFFERS)
    if vector is None or _field(data, table, _COMPRESSION) is None:
        return length, 0
    vector += struct.unpack_from("<I", data, vector)[0]
    unfolded = 0
    for number in range(struct.unpack_from("<I", data, vector)[0]):
        offset, size = struct.unpack_from("<qq", data, vector + 4 + 16 * number)
        if size > 8:  # each begins with its size once decompressed; -1 if it is stored as it is
            unfolded += max(0, struct.unpack_from("<q", message.body, offset)[0])
    return length, unfolded


def _root(data: bytes) -> int:
    return struct.unpack_from("<I", data, 0)[0]


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a field of a table is stored; None if it has its default."""
    layout = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", data, layout)[0]:
        return None
    offset = struct.unpack_from("<H", data, layout + 4 + 2 * number)[0]
    return table + offset if offset else None


def _table(data: bytes, table: int, number: int) -> int:
    place = _field(data, table, number)
    if place is None:
        raise ValueError("a message without a body")
    return place + struct.unpack_from("<I", data, place)[0]
