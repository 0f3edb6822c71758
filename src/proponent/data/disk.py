"""Bytes of a user's file, with what goes wrong said in the user's words."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from proponent.errors import DataError

BLOCK_BYTES = 1 << 20
"""Bytes of a file that are in memory at a time."""


def is_packed(path: Path) -> bool:
    """Tell whether a file is packed with gzip, by its name."""
    return path.name.lower().endswith(".gz")


def byte_blocks(path: Path) -> Iterator[bytes]:
    """Read a file block by block, unpacked when its name ends in .gz."""
    blank = True
    try:
        with gzip.open(path, "rb") if is_packed(path) else path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                blank = blank and not block.strip()
                yield block
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}): copy or compress it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if blank:
        raise DataError(f"{path}: the file is empty")


def read_bytes(path: Path) -> bytes:
    """Read a whole file, unpacked when its name ends in .gz."""
    return b"".join(byte_blocks(path))


def first_bytes(path: Path) -> bytes:
    """Read the beginning of a file as it lies on the disk, to know its format."""
    try:
        with path.open("rb") as file:
            found = file.read(8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not found:
        raise DataError(f"{path}: the file is empty")
    return found
