"""A log of JSON records, one a line, which any number of threads and processes add to.

A record is added under a lock, whole or not at all. Half a line is left only by a process that was killed while it held
the lock; whoever adds next cuts it off.
"""

import contextlib
import errno
import json
import os
import stat
import threading
from collections import defaultdict
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from proponent import disk
from proponent.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: threads of one process exclude each other, processes do not
    fcntl = None

_THREADS: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""One lock a file: some file systems give file locks to processes, not to open files."""

_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_BINARY = getattr(os, "O_BINARY", 0)


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add a record; on any failure the file is as it was before."""
    line = (json.dumps(record, ensure_ascii=True) + "\n").encode()  # ASCII: a lone surrogate of an id survives
    with disk.full_disk_named(path), _alone(path) as opened:
        end = os.fstat(opened).st_size
        whole, ending = _settled(opened, end)
        try:
            if whole < end:
                disk.truncate(opened, whole)
            disk.write_all(opened, ending + line, whole)
            disk.sync(opened)
        except BaseException:
            disk.truncate(opened, whole)
            raise
        if end == 0:
            disk.sync_folder(path.parent)


def read_lines(path: Path) -> list[bytes]:
    """Read all lines; the last one may be unfinished."""
    opened = os.open(path, os.O_RDONLY | _BINARY | getattr(os, "O_NONBLOCK", 0))
    with open(opened, "rb") as file:  # noqa: PTH123 - it is open already
        _refuse_other_kinds(path, opened)
        return file.read().split(b"\n")


def _settled(opened: int, end: int) -> tuple[int, bytes]:
    """Where the next record begins, and what has to end the line before; half a line does not count."""
    at = end
    while at > 0 and _read(opened, 1, at - 1) != b"\n":
        at -= 1
    try:
        json.loads(_read(opened, end - at, at))
    except ValueError:
        return at, b""
    return end, b"\n"


def _read(opened: int, size: int, at: int) -> bytes:
    os.lseek(opened, at, os.SEEK_SET)
    return os.read(opened, size)


@contextlib.contextmanager
def _alone(path: Path) -> Generator[int]:
    """Open a log to add to it, while no other thread or process does."""
    with _THREADS[os.path.realpath(path)]:
        opened = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS | _BINARY, 0o644)
        try:
            _refuse_other_kinds(path, opened)
            _lock(path, opened)
            yield opened
        finally:
            os.close(opened)


def _lock(path: Path, opened: int) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}:
            raise
        raise InputError(f"{path}: this file system cannot lock files: copy the index to a local disk") from error


def _refuse_other_kinds(path: Path, opened: int) -> None:
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        raise InputError(f"{path} is not a regular file: move it away")
