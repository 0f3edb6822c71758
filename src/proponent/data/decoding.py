"""A user's file as bytes and text: decompressed and decoded strictly, block by block; errors name their place."""

import codecs
import gzip
import io
import os
import shlex
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


_KINDS = (
    (b"PK\x03\x04", "a zip archive (a workbook of a spreadsheet is one, too)", "unpack it, or export the sheet as CSV"),
    (b"PAR1", "a Parquet file", "give it a name that ends in .parquet"),
    (b"ARROW1", "an Arrow file", "give it a name that ends in .arrow"),
    (b"\x1f\x8b", "compressed with gzip", "give it a name that ends in .gz"),
    (b"BZh", "compressed with bzip2", "unpack it"),
    (b"\xfd7zXZ\x00", "compressed with xz", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"Rar!\x1a\x07", "a rar archive", "unpack it"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old workbook (.xls)", "export the sheet as CSV"),
    (b"%PDF-", "a PDF", "export the text as CSV or JSON"),
    (b"SQLite format 3\0", "an SQLite database", "export the table as CSV"),
    (b"Obj\x01", "an Avro file", "convert it to Parquet"),
    (b"\x89HDF\r\n", "an HDF5 file", "convert it to Parquet"),
    (b"\x80\x04\x95", "a pickle, which proponent never opens", "save the data as Parquet or JSON"),
    (b"\x80\x05\x95", "a pickle, which proponent never opens", "save the data as Parquet or JSON"),
    (b"version https://git-lfs.github.com", "a pointer of Git LFS, not the data", "fetch it with `git lfs pull`"),
    (b"<!doctype html", "a web page", "download the data file itself"),
    (b"<html", "a web page", "download the data file itself"),
)
"""How other kinds of files begin, what they are, and the way out."""

_ENCODINGS = ("windows-1252", "windows-1251", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr")
"""Encodings whose reading of a line is shown where a file is not UTF-8."""

_SAMPLE = 12
"""Characters of it that are shown."""


def other_kind(head: bytes, *, known: str = "") -> str | None:
    """What a file is by its first bytes, with the way out; None for text, and for the kind that is expected."""
    begin = head.lstrip()[:64].lower()
    for mark, kind, way in _KINDS:
        text = mark[:1] in b"<v"
        if (begin.startswith(mark) if text else head.startswith(mark)) and (not known or known not in kind):
            return f"{kind}: {way}"
    return None


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
    except gzip.BadGzipFile as error:
        if blank and not first_bytes(path).startswith(b"\x1f\x8b"):
            raise DataError(
                f"{path}: not compressed with gzip, although its name ends in .gz: rename it to {path.name[:-3]}"
            ) from error
        raise DataError(f"{path}: damaged gzip file ({error}): copy or compress it again") from error
    except (EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path}: incomplete or damaged gzip file ({error}): copy or compress it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if blank:
        raise DataError(f"{path}: the file is empty")


def read_bytes(path: Path) -> bytes:
    """Read a whole file, decompressed if its name ends in .gz."""
    return b"".join(byte_blocks(path))


def first_bytes(path: Path, count: int = 8) -> bytes:
    """Read the first bytes of a file as stored on disk, to detect its format."""
    try:
        with DOOR.open(path, most=ANY) as file:
            found = file.read(count)
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
        yield text.lstrip("\ufeff") if offset == 0 else text  # some programs write the mark twice
        rest = data[used:]
        offset, lines = offset + used, lines + data.count(10, 0, used)
    _decoded(path, rest, offset, lines, last=True)


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    kind = other_kind(head)
    if kind is not None:
        packed = is_packed(path)
        twice = packed and head.startswith(b"\x1f\x8b")
        raise DataError(
            f"{path}: the file is {'compressed with gzip twice: unpack it once' if twice else kind}"
            + (" (of what it holds unpacked)" if packed and not twice else "")
        )
    for mark, encoding in _OTHER_MARKS:
        if head.startswith(mark):
            raise DataError(f"{path}: encoded as {encoding}, not UTF-8: {_convert(path, encoding)}")


# decode complete characters; return the text and the number of bytes consumed
def _decoded(path: Path, data: bytes, offset: int, lines: int, *, last: bool) -> tuple[str, int]:
    try:
        return codecs.utf_8_decode(data, "strict", last)
    except UnicodeDecodeError as error:
        cut = error.reason == "unexpected end of data"
        way = "the file may be truncated: copy it again" if cut else _candidates(path, data, error.start)
        raise DataError(
            f"{path}: not UTF-8 at {_place(data, error.start, offset, lines)} "
            f"({short(data[error.start : error.end])}); {way}"
        ) from error


def _place(data: bytes, at: int, offset: int, lines: int) -> str:
    return f"byte {offset + at}, line {lines + data.count(10, 0, at) + 1}"


def _convert(path: Path, encoding: str) -> str:
    name = f"./{path.name}" if path.name.startswith("-") else path.name
    return f"convert it with `iconv -f {encoding} -t utf-8 {shlex.quote(name)} > {shlex.quote(f'utf8-{path.name}')}`"


def _candidates(path: Path, data: bytes, at: int) -> str:
    """What the line could be in other encodings: no guess, since several fit most bytes."""
    begin = data.rfind(b"\n", 0, at) + 1
    end = data.find(b"\n", at)
    line = data[begin : len(data) if end < 0 else end][: at - begin + 200]
    found: dict[str, list[str]] = {}
    for encoding in _ENCODINGS:
        text, before = _read_as(line, encoding), _read_as(line[: at - begin], encoding)
        if text is not None and before is not None:
            found.setdefault(text[len(before) :][:_SAMPLE], []).append(encoding)
    said = "; ".join(f"{short(sample)} as {' or '.join(names)}" for sample, names in found.items())
    if not said:
        return "find out its encoding and convert it with iconv, or export the file again as UTF-8"
    way = _convert(path, "ENCODING")
    return f"its encoding is unknown; from there it reads {said}: take the one that is right, and {way}"


def _read_as(line: bytes, encoding: str) -> str | None:
    try:
        return codecs.getincrementaldecoder(encoding)("strict").decode(line)  # the line may be cut in a character
    except UnicodeDecodeError:
        return None


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
