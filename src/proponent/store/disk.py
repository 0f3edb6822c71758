"""Every write of the store goes through these few functions, so that a test can make any one of them fail.

Writing never maps a file: a full disk would kill the process with SIGBUS instead of failing one call.
"""

import errno
import os
from pathlib import Path

from proponent.examples.disk import full_disk_named

_FULL = {errno.ENOSPC, errno.EDQUOT}


def create(path: Path, size: int = 0) -> int:
    """Open a new or emptied file for writing."""
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o666)
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(opened, 0, size)
        except OSError as error:
            if error.errno in _FULL:
                os.close(opened)
                raise
            # a file system that cannot set space aside still takes the writes
    return opened


def write(opened: int, data: bytes | memoryview, at: int) -> int:
    """Write some bytes at a place; may write fewer."""
    return os.pwrite(opened, data, at)


def sync(opened: int) -> None:
    """Make what was written to a file (or a folder) last."""
    os.fsync(opened)


def close(opened: int) -> None:
    """Close a file."""
    os.close(opened)


def rename(old: Path, new: Path) -> None:
    """Give a file its final name, in place of any other."""
    Path(old).replace(new)


def remove(path: Path) -> None:
    """Remove a file; nothing happens when it is not there."""
    path.unlink(missing_ok=True)


def make_one_folder(folder: Path) -> None:
    """Make a folder in one that is there; nothing happens when it is there already."""
    folder.mkdir(exist_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove an empty folder."""
    folder.rmdir()


def write_all(opened: int, data: bytes | memoryview, at: int) -> int:
    """Write all bytes at a place, however many calls that takes."""
    left = memoryview(data).cast("B")
    while len(left):
        written = write(opened, left, at)
        if written <= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        left, at = left[written:], at + written
    return at


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        sync(opened)
    finally:
        close(opened)


def make_folder(folder: Path) -> None:
    """Make a folder and sync what holds it, so that files published in it cannot get lost with it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with full_disk_named(str(folder)):
        make_one_folder(folder)
    sync_folder(folder.parent)
