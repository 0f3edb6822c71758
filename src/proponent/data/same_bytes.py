"""CSV and TSV files written again as they are: quotes, line ends, byte order mark; only changed fields differ."""

import codecs
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from proponent.data.decoding import first_bytes, is_packed, read_bytes, text_lines
from proponent.data.separated import SEPARATORS, fields_of_any_length


def separator_of(name: str) -> str | None:
    """The separator of a file by its name, packed or not; None for other files."""
    bare = name.lower().removesuffix(".gz")
    return next((mark for suffix, mark in SEPARATORS.items() if bare.endswith(suffix)), None)


def header_of(path: Path, separator: str) -> list[str]:
    """The fields of the first record of a file."""
    for _, fields in _raw_rows(path, separator):
        if fields:
            return fields
    return []


def same_bytes(
    path: Path, rows: Sequence[int], at: int, changes: Mapping[int, str], *, header: bool, more: bool
) -> Iterator[bytes]:
    """Give some rows of a file as they are written there, in order.

    Args:
        path: the file; its name tells its separator.
        rows: 0-based rows to keep, ascending.
        at: 0-based field that `changes` change.
        changes: new value by row.
        header: whether to write the first record, which names the fields.
        more: whether other rows follow, so that the last one needs a line end.

    Yields:
        The byte order mark if there is one, the header, and each row.
    """
    separator = separator_of(str(path)) or ","
    if header and _marked(path):
        yield codecs.BOM_UTF8
    wanted, last, end = set(rows), max(rows, default=-1), "\r\n"
    number = -2  # of the record: -1 is the header
    for raw, fields in _raw_rows(path, separator):
        number += bool(fields)
        if not fields or (number not in wanted and (number >= 0 or not header)):
            continue
        text = _with_field(raw, at, changes[number], separator) if number in changes else raw
        if text.endswith(("\r", "\n")):
            end = "\r\n" if text.endswith("\r\n") else text[-1]
        elif number != last or more:
            text += end
        yield text.encode("utf-8")


def _marked(path: Path) -> bool:
    head = read_bytes(path)[:3] if is_packed(path) else first_bytes(path)
    return head.startswith(codecs.BOM_UTF8)


def _raw_rows(path: Path, separator: str) -> Iterator[tuple[str, list[str]]]:
    """Each record of a file as it is written, line end included, and its fields; none of a blank line."""
    held: list[str] = []

    def lines() -> Iterator[str]:
        for line in text_lines(path, newline=""):
            held.append(line)
            yield line

    with fields_of_any_length():
        for fields in csv.reader(lines(), delimiter=separator, strict=True):
            raw = "".join(held)
            held.clear()
            yield raw, fields


def _with_field(raw: str, at: int, value: str, separator: str) -> str:
    """A record with one field changed; quoted if it was, or if the value needs it."""
    start, end = _place(raw, at, separator)
    if raw[start : start + 1] == '"' or any(mark in value for mark in (separator, '"', "\r", "\n")):
        value = '"' + value.replace('"', '""') + '"'
    return raw[:start] + value + raw[end:]


def _place(raw: str, at: int, separator: str) -> tuple[int, int]:
    """Where a field of a record begins and ends, its quotes included."""
    start = 0
    for _ in range(at):
        start = _end(raw, start, separator) + 1
    return start, _end(raw, start, separator)


def _end(raw: str, start: int, separator: str) -> int:
    """Where the field that begins here ends."""
    at = start
    if raw[at : at + 1] == '"':
        at = raw.index('"', at + 1) + 1
        while raw[at : at + 1] == '"':  # a doubled quote is one of the text
            at = raw.index('"', at + 1) + 1
        return at
    while at < len(raw) and raw[at] not in (separator, "\r", "\n"):
        at += 1
    return at
