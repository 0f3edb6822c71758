"""An append-only log of JSON records, one per line, for any number of threads and processes.

A record is appended under a lock, either completely or not at all. Only a process that was killed while it held the
lock can leave a partial line; the next writer cuts it off.
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
"""One lock per file: some file systems assign file locks to processes, not to open files."""

_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_BINARY = getattr(os, "O_BINARY", 0)


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Append a record; on any failure the file is unchanged."""
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
    """Read all lines; the last line may be incomplete."""
    opened = os.open(path, os.O_RDONLY | _BINARY | getattr(os, "O_NONBLOCK", 0))
    with open(opened, "rb") as file:  # noqa: PTH123 - it is open already
        _refuse_other_kinds(path, opened)
        return file.read().split(b"\n")


def _settled(opened: int, end: int) -> tuple[int, bytes]:
    """Offset of the next record, and the bytes that must end the line before; a partial line is ignored."""
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
    """Open a log for appending while no other thread or process does."""
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
