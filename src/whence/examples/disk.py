"""Bytes from and to the disk, with what goes wrong said in the user's words."""

import errno
import gzip
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from whence.errors import DataError, DiskFullError


def read_bytes(path: Path) -> bytes:
    """Read a whole file, unpacked when its name ends in .gz.

    Args:
        path: the file.

    Returns:
        Its bytes, never empty.

    Raises:
        DataError: it cannot be read, is no whole gzip file, or is empty.
    """
    try:
        data = path.read_bytes()
        if data and path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}): copy or compress it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not data.strip():
        raise DataError(f"{path}: the file is empty")
    return data


@contextmanager
def full_disk_named(path: str) -> Generator[None]:
    """Turn "no space left" into an error that names the file.

    Args:
        path: the file being written.

    Yields:
        Nothing; the body writes.

    Raises:
        DiskFullError: the device or the user's quota is full.
        OSError: anything else that the body raised.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError(f"{path}: no space left to write it: free some space and run again") from error
        raise
