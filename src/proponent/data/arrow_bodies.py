"""How far an Arrow file unfolds: compressed bodies, from the sizes that they state, and types that repeat values.

The description of a message is a FlatBuffer; only the few fields that are needed are read.
"""

import struct
from collections.abc import Iterator
from typing import Any

from proponent.data.door import most_rows, most_unfolded, too_far
from proponent.data.untyped import compute, ipc, pa

_BATCH, _DICTIONARY = "record batch", "dictionary"
_HEADER, _DATA, _LENGTH, _BUFFERS, _COMPRESSION = 2, 1, 0, 2, 3
"""Places of the fields: of a message, of a dictionary, and three of a record batch."""

FILE_MARK = b"ARROW1"
"""The first and the last bytes of a file in the file format; a stream has none."""

_TAIL = 4 + len(FILE_MARK)
_PARTS = (2, 3)
"""Places of the lists of a footer: where dictionaries and record batches are."""

_TEXTS = {pa.string(), pa.large_string(), pa.binary(), pa.large_binary()}
_REPEATING = ("list_view", "large_list_view", "run_end_encoded")
"""Types in which a few bytes may be many values; no data set that people train on needs them."""

_VIEWS = ("string_view", "binary_view")
"""Likewise, but polars writes every text so: read after they are measured."""


def refuse_bombs(whole: Any) -> None:
    """Refuse a file, or a stream of messages, that unfolds too far; ValueError."""
    size = whole.size
    rows = unfolded = 0
    try:
        for message in _file_messages(whole) if bytes(whole[:6]) == FILE_MARK else _messages(whole):
            if message.type not in {_BATCH, _DICTIONARY}:
                continue
            length, extra = _batch(message)
            rows, unfolded = rows + length, unfolded + extra
            _refuse_far(size, rows, unfolded)
    except struct.error as error:
        raise ValueError("a message that is cut off") from error


def _refuse_far(size: int, rows: int, unfolded: int) -> None:
    if unfolded > most_unfolded(size):
        raise too_far("it", most_unfolded(size), size)
    if rows > most_rows(size):
        raise ValueError(f"more than {most_rows(size):,} rows in {size:,} bytes")


def refuse_kinds(schema: Any, *, views: bool = False) -> None:
    """Refuse columns of types that repeat values, but for views of texts if the caller measures them; ValueError."""
    refused = _REPEATING if views else (*_REPEATING, *_VIEWS)
    for field in schema:
        parts = [field.type]
        while parts:
            kind = parts.pop()
            parts += [kind.field(number).type for number in range(kind.num_fields)]
            parts += [kind.value_type] if pa.types.is_dictionary(kind) else []
            if str(kind).startswith(refused):
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


def _file_messages(whole: Any) -> Iterator[Any]:
    """The messages that the footer of a file names, each in a place of its own: those that pyarrow reads, and so."""
    end = whole.size - _TAIL
    length = struct.unpack("<i", bytes(whole[end : end + 4]))[0] if end > 0 else 0
    if not 0 < length < end or bytes(whole[end + 4 :]) != FILE_MARK:
        raise ValueError("no footer at its end: the file may be cut off")
    footer = bytes(whole[end - length : end])
    taken = 0
    for number in _PARTS:
        place = _field(footer, _root(footer), number)
        vector = 0 if place is None else place + struct.unpack_from("<I", footer, place)[0]
        for at in range(struct.unpack_from("<I", footer, vector)[0] if vector else 0):
            offset, head, body = struct.unpack_from("<qi4xq", footer, vector + 4 + 24 * at)
            taken += head + body
            if min(offset, head, body) < 0 or max(offset + head + body, taken) > whole.size:
                raise ValueError("parts outside of the file, or one in another")
            first, second = struct.unpack_from("<ii", bytes(whole[offset : offset + 8]))
            if head != (8 + second if first == -1 else 4 + first):
                raise ValueError("a part of another size than the footer states")
            yield ipc.read_message(whole[offset : offset + head + body])


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
