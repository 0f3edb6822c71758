"""A user's file as bytes and text: decompressed and decoded strictly, block by block; errors name their place."""

import codecs
import gzip
import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from proponent.data.door import ANY, DOOR, most_unfolded, refusal
from proponent.data.table import short
from proponent.errors import DataError

BLOCK_BYTES = 1 << 20
"""Bytes of a file in memory at a time."""

_OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def is_packed(path: Path) -> bool:
    """Whether a file is compressed with gzip, judged by its name."""
    return path.name.lower().endswith(".gz")


def byte_blocks(path: Path) -> Iterator[bytes]:
    """Read a file block by block, decompressed if its name ends in .gz."""
    blank, unfolded = True, 0
    try:
        with DOOR.open(path, most=ANY) as raw, gzip.open(raw, "rb") if is_packed(path) else raw as file:
            most = most_unfolded(os.fstat(raw.fileno()).st_size) if is_packed(path) else ANY
            while block := file.read(BLOCK_BYTES):
                blank, unfolded = blank and not block.strip(), unfolded + len(block)
                if unfolded > most:
                    raise DataError(refusal(path, os.fstat(raw.fileno()).st_size))
                yield block
    except (EOFError, gzip.BadGzipFile, zlib.error, struct.error) as error:
        raise DataError(f"{path}: incomplete or damaged gzip file ({error}): copy or compress it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if blank:
        raise DataError(f"{path}: the file is empty")


def read_bytes(path: Path) -> bytes:
    """Read a whole file, decompressed if its name ends in .gz."""
    return b"".join(byte_blocks(path))


def first_bytes(path: Path) -> bytes:
    """Read the first bytes of a file as stored on disk, to detect its format."""
    try:
        with DOOR.open(path, most=ANY) as file:
            found = file.read(8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not found:
        raise DataError(f"{path}: the file is empty")
    return found


def text_blocks(path: Path) -> Iterator[str]:
    """Decode a file as UTF-8, with or without a byte order mark."""
    offset = lines = 0
    rest, head = b"", None
    for block in byte_blocks(path):
        if head is None:
            head = block[:1000]
            _refuse_other_kinds(path, head)
        data = rest + block
        text, used = _decoded(path, data, offset, lines, last=False)
        if (nul := data.find(b"\0")) >= 0:
            wide = head.count(0) * 4 > len(head)
            way = _convert(path, "utf-16") if wide else "remove it, or export the file again"
            raise DataError(f"{path}: a NUL byte at {_place(data, nul, offset, lines)}: {way}")
        yield text.removeprefix("\ufeff") if offset == 0 else text
        rest = data[used:]
        offset, lines = offset + used, lines + data.count(10, 0, used)
    _decoded(path, rest, offset, lines, last=True)


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    if head.startswith(b"\x1f\x8b"):
        raise DataError(f"{path}: the file is compressed with gzip: rename it to {path.name}.gz")
    for mark, encoding in _OTHER_MARKS:
        if head.startswith(mark):
            raise DataError(f"{path}: encoded as {encoding}, not UTF-8: {_convert(path, encoding)}")


# decode complete characters; return the text and the number of bytes consumed
def _decoded(path: Path, data: bytes, offset: int, lines: int, *, last: bool) -> tuple[str, int]:
    try:
        return codecs.utf_8_decode(data, "strict", last)
    except UnicodeDecodeError as error:
        cut = error.reason == "unexpected end of data"
        way = (
            "the file may be truncated: copy it again"
            if cut
            else f"likely latin-1 (windows-1252): {_convert(path, 'windows-1252')}"
        )
        raise DataError(
            f"{path}: not UTF-8 at {_place(data, error.start, offset, lines)} "
            f"({short(data[error.start : error.end])}); {way}"
        ) from error


def _place(data: bytes, at: int, offset: int, lines: int) -> str:
    return f"byte {offset + at}, line {lines + data.count(10, 0, at) + 1}"


def _convert(path: Path, encoding: str) -> str:
    return f"convert it with `iconv -f {encoding} -t utf-8 {path.name}`"


def read_text(path: Path) -> str:
    """Decode a whole file."""
    return "".join(text_blocks(path))


def text_lines(path: Path, *, newline: str) -> Iterator[str]:
    """Decode a file line by line."""
    held: list[str] = []
    for block in text_blocks(path):
        end = _last_end(block, newline)
        # a CR at the end of a block may be half of CR LF: the next block decides
        joins = newline == "" and bool(held) and held[-1].endswith("\r")
        if not end and not joins:
            held.append(block)
            continue
        whole = "".join(held) + block
        end = _last_end(whole, newline)
        yield from io.StringIO(whole[:end], newline=newline)
        held = [whole[end:]]
    yield from io.StringIO("".join(held), newline=newline)


def _last_end(text: str, newline: str) -> int:
    carriage = text.rfind("\r", 0, max(0, len(text) - 1)) if newline == "" else -1
    return max(text.rfind("\n"), carriage) + 1
