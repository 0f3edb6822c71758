"""All writes go through here: the atomic writer, the handler of a full disk, and operations that tests make fail.

Writing never maps a file: on a full disk the process would be killed by SIGBUS instead of one call failing.
"""

import errno
import io
import os
import stat
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from proponent.errors import DiskFullError, InputError

TEMPORARY = ".tmp"
LONGEST_NAME = 200
"""Maximum bytes of a name that its temporary name repeats; file systems allow 255."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}
_NO_PLACE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG}

Made = TypeVar("Made")

# ---- single operations ----------------------------------------------------------------------------------------------


def create(path: Path, size: int = 0) -> int:
    """Open a new or emptied file for writing."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    opened = os.open(path, flags, 0o666)
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(opened, 0, size)
        except OSError as error:
            if error.errno in _FULL:
                os.close(opened)
                raise
            # a file system that cannot reserve space still accepts the writes
    return opened


def write(opened: int, data: bytes | memoryview, at: int) -> int:
    """Write some bytes at an offset; may write fewer."""
    if hasattr(os, "pwrite"):
        return os.pwrite(opened, data, at)
    os.lseek(opened, at, os.SEEK_SET)
    return os.write(opened, data)


def truncate(opened: int, size: int) -> None:
    """Truncate a file to a size."""
    os.ftruncate(opened, size)


def sync(opened: int) -> None:
    """Sync the contents of a file (or a folder) to disk."""
    os.fsync(opened)


def close(opened: int) -> None:
    """Close a file."""
    os.close(opened)


def rename(old: Path, new: Path) -> None:
    """Rename a file to its final name, replacing any other."""
    Path(old).replace(new)


def remove(path: Path) -> None:
    """Remove a file, if it exists."""
    path.unlink(missing_ok=True)


def make_one_folder(folder: Path) -> None:
    """Create a folder in an existing one, unless it exists."""
    folder.mkdir(exist_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove an empty folder."""
    folder.rmdir()


# ---- combined operations --------------------------------------------------------------------------------------------


def write_all(opened: int, data: bytes | memoryview, at: int) -> int:
    """Write all bytes at an offset, in as many calls as needed."""
    left = memoryview(data).cast("B")
    while len(left):
        written = write(opened, left, at)
        if written <= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        left, at = left[written:], at + written
    return at


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk, where the system supports it."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        sync(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        close(opened)


def make_folder(folder: Path) -> None:
    """Create a folder and sync its parent, so that files published in it cannot get lost with it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with full_disk_named(folder):
        make_one_folder(folder)
    sync_folder(folder.parent)


# ---- a full disk ----------------------------------------------------------------------------------------------------


def is_full(error: BaseException) -> bool:
    """Whether an error, or its cause, is a full disk or an exhausted quota."""
    found: BaseException | None = error
    while found is not None:
        # safetensors and torch raise their own errors, which contain the system's message
        if (isinstance(found, OSError) and found.errno in _FULL) or os.strerror(errno.ENOSPC) in str(found):
            return True
        found = found.__cause__ or found.__context__
    return False


@contextmanager
def full_disk_named(path: object) -> Generator[None]:
    """Convert "no space left" to an error that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(f"{path}: no space left to write it: free some space and run again") from error
        raise


# ---- whole files ----------------------------------------------------------------------------------------------------


def temporary(path: Path) -> Path:
    """Name for a file while it is being written; two writers never share it."""
    name = path.name if len(os.fsencode(path.name)) <= LONGEST_NAME else path.name[:40]
    return path.with_name(f"{name}.{os.getpid()}.{threading.get_native_id()}{TEMPORARY}")


def publish(path: Path, fill: Callable[[int], Made], size: int = 0, *, replace: bool = True) -> Made:
    """Fill a file under a temporary name, sync it, then rename it: the file is either complete or absent."""
    fresh = temporary(path)
    with full_disk_named(path):
        try:
            opened = create(fresh, size)
            try:
                made = fill(opened)
                sync(opened)
            finally:
                close(opened)
            if not replace and os.path.lexists(path):
                raise InputError(f"{path} exists already and is not overwritten: choose another name")
            rename(fresh, path)
            sync_folder(path.parent)
        except BaseException:
            # on a full disk the space is needed; after Ctrl-C no temporary file may remain
            fresh.unlink(missing_ok=True)
            raise
    return made


def write_stream(path: Path, fill: Callable[[IO[bytes]], Made], *, replace: bool = True) -> Made:
    """Write one of the user's files: the existing file is replaced only when the new one is complete."""
    target = Path(os.path.realpath(path))  # a link stays in place, the file it points to is replaced
    try:
        mode = target.stat().st_mode if target.exists() else None
        if mode is not None and not stat.S_ISREG(mode):  # a device or a pipe cannot be replaced by a rename
            with full_disk_named(path), path.open("wb") as file:
                return fill(file)

        def fill_file(opened: int) -> Made:
            with io.BufferedWriter(_Sink(opened), 1 << 20) as file:
                return fill(file)

        made = publish(target, fill_file, replace=replace)
        if mode is not None:
            target.chmod(stat.S_IMODE(mode))
        return made
    except OSError as error:
        reason = error.strerror or type(error).__name__
        way = "; choose an existing folder that you can write to" if error.errno in _NO_PLACE else ""
        raise InputError(f"{path} cannot be written ({reason}){way}") from error


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file from bytes that are all in memory."""
    write_stream(path, lambda file: file.write(data))


class _Sink(io.RawIOBase):
    """A file that is written sequentially, through `write`."""

    def __init__(self, opened: int) -> None:
        self._opened, self._at = opened, 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any, /) -> int:
        if self.closed:
            raise ValueError("the file is closed")
        view = memoryview(data).cast("B")
        self._at = write_all(self._opened, view, self._at)
        return len(view)
