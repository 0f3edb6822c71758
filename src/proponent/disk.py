"""All writes go through here: the atomic writer, the handler of a full disk, and operations that tests make fail.

Files and whole folders get their final name when they are complete and synced, never before. Writing never maps a file:
on a full disk the process would be killed by SIGBUS instead of one call failing.
"""

import errno
import io
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from proponent.errors import DiskFullError, InputError
from proponent.notices import say_once

TEMPORARY = ".tmp"
LONGEST_NAME = 200
"""Maximum bytes of a name that its temporary name repeats; file systems allow 255."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_NO_LINK = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_PLACE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG}
_OTHER = {errno.ELOOP: "it is a symbolic link"}

Made = TypeVar("Made")

# ---- single operations ----------------------------------------------------------------------------------------------


def create(path: Path, size: int = 0, mode: int = 0o666) -> int:
    """Open a new or emptied file for writing; a new one gets the mode, less the umask."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    opened = os.open(path, flags, mode)
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


def reopen(path: Path) -> int:
    """Open an existing file for writing in place."""
    return os.open(path, os.O_RDWR | sum(getattr(os, one, 0) for one in ("O_CLOEXEC", "O_BINARY", "O_NOFOLLOW")))


def link(old: Path, new: Path) -> None:
    """Give a file a second name."""
    os.link(old, new)


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


def make_one_folder(folder: Path, mode: int = 0o777) -> None:
    """Create a folder in an existing one, unless it exists; a new one gets the mode, less the umask."""
    folder.mkdir(mode, exist_ok=True)


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


def sync_file(opened: int, path: Path) -> None:
    """Sync the contents of a file to disk; a file system that cannot is named once."""
    try:
        sync(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
        _say_unsynced(path.parent, "files")


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk; a file system that cannot is named once."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    try:
        opened = os.open(folder, os.O_RDONLY)
        try:
            sync(opened)
        finally:
            close(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
        _say_unsynced(folder, "folders")


def _say_unsynced(folder: Path, what: str) -> None:
    say_once(
        f"{folder}: this file system cannot sync {what}: it works, but after a power cut the newest files may be gone"
    )


def make_folder(folder: Path) -> None:
    """Create a folder and sync its parent, so that files published in it cannot get lost with it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with full_disk_named(folder):
        make_one_folder(folder)
    sync_folder(folder.parent)


def make_private_folder(folder: Path) -> None:
    """Create a folder that only its owner can enter; an existing one stays as it is."""
    make_folder(folder.parent)
    with full_disk_named(folder):
        make_one_folder(folder, 0o700)


def remove_tree(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_all_in(folder: Path) -> None:
    """Remove all that is in a folder, if it exists."""
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        remove_tree(entry)


@contextmanager
def scratch_folder(home: Path | None = None, prefix: str = "proponent-") -> Generator[Path]:
    """Create a folder for files that nobody keeps, in `home` or where the system has them, and remove it afterwards."""
    with tempfile.TemporaryDirectory(dir=home, prefix=prefix) as name:
        yield Path(name)


# ---- a full disk, a place that cannot be written to -----------------------------------------------------------------


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
    except DiskFullError:
        raise
    except Exception as error:
        if is_full(error):
            raise DiskFullError(f"{path}: no space left to write it: free some space and run again") from error
        raise


@contextmanager
def unwritable_named(path: object) -> Generator[None]:
    """Convert the other errors of the system to one that names the file and a way out."""
    try:
        yield
    except OSError as error:
        reason = _OTHER.get(error.errno or 0) or error.strerror or type(error).__name__
        way = "; choose an existing folder that you can write to" if error.errno in _NO_PLACE else ""
        raise InputError(f"{path} cannot be written ({reason}){way}") from error


# ---- whole files ----------------------------------------------------------------------------------------------------


def temporary(path: Path) -> Path:
    """Name for a file while it is being written; two writers never share it."""
    name = path.name if len(os.fsencode(path.name)) <= LONGEST_NAME else path.name[:40]
    return path.with_name(f"{name}.{os.getpid()}.{threading.get_native_id()}{TEMPORARY}")


def publish(
    path: Path,
    fill: Callable[[int], Made],
    size: int = 0,
    *,
    replace: bool = True,
    mode: int | None = None,
    private: bool = False,
) -> Made:
    """Fill a file under a temporary name, sync it, then rename it: the file is either complete or absent."""
    fresh = temporary(path)
    with full_disk_named(path):
        try:
            opened = create(fresh, size, 0o600) if private else create(fresh, size)
            try:
                made = fill(opened)
                if mode is not None:
                    fresh.chmod(mode)
                sync_file(opened, path)
            finally:
                close(opened)
            if replace:
                rename(fresh, path)
            else:
                _rename_to_new(fresh, path)
            sync_folder(path.parent)
        except BaseException:
            # on a full disk the space is needed; after Ctrl-C no temporary file may remain
            fresh.unlink(missing_ok=True)
            raise
    return made


def _rename_to_new(fresh: Path, path: Path) -> None:
    """Give a file its final name unless another file has it, even one that appears at this moment."""
    try:
        os.link(fresh, path)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        if os.path.lexists(path):  # a file system without hard links: another writer could still come between
            raise _exists(path) from error
        rename(fresh, path)
        return
    remove(fresh)


def _exists(path: Path) -> InputError:
    return InputError(f"{path} exists already and is not overwritten: choose another name")


def write_stream(path: Path, fill: Callable[[IO[bytes]], Made], *, replace: bool = True) -> Made:
    """Write one of the user's files: the existing file is replaced only when the new one is complete."""
    target = Path(os.path.realpath(path))  # a link stays in place, the file it points to is replaced
    with unwritable_named(path):
        mode = target.stat().st_mode if target.exists() else None
        if mode is not None and not stat.S_ISREG(mode):  # a device or a pipe cannot be replaced by a rename
            with full_disk_named(path), path.open("wb") as file:
                return fill(file)

        def fill_file(opened: int) -> Made:
            with io.BufferedWriter(_Sink(opened), 1 << 20) as file:
                return fill(file)

        return publish(target, fill_file, replace=replace, mode=None if mode is None else stat.S_IMODE(mode))


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file from bytes that are all in memory."""
    write_stream(path, lambda file: file.write(data))


def write_private(path: Path, data: bytes) -> None:
    """Write a new file that only its owner can read; an existing one is not replaced."""
    with unwritable_named(path):
        publish(path, lambda opened: write_all(opened, data, 0), replace=False, private=True)


# ---- whole folders --------------------------------------------------------------------------------------------------


def write_folder(path: Path, fill: Callable[[Path], Made], *, replace: bool = False) -> Made:
    """Write a folder of files: it is filled under a temporary name and synced, then renamed.

    Args:
        path: the folder; it must be new or empty, unless it may be replaced.
        fill: writes all files into the folder that it is given.
        replace: whether a folder with files is replaced.

    Returns:
        What `fill` returns.

    Raises:
        InputError: the folder has files, or its place cannot be written to.
        DiskFullError: there is no space left.
    """
    fresh = temporary(path)
    with unwritable_named(path), full_disk_named(path):
        _refuse_held(path, replace=replace)
        make_folder(path.parent)
        remove_tree(fresh)
        try:
            make_one_folder(fresh)
            made = fill(fresh)
            _sync_tree(fresh)
            _refuse_held(path, replace=replace)
            _move_aside(path)
            rename(fresh, path)
            sync_folder(path.parent)
        except BaseException:
            remove_tree(fresh)
            raise
    return made


def _refuse_held(path: Path, *, replace: bool) -> None:
    if os.path.lexists(path) and not path.is_dir():
        raise InputError(f"{path} exists already and is no folder: choose another name")
    if not replace and path.is_dir() and any(path.iterdir()):
        raise InputError(f"{path} has files already and is not replaced: choose another folder")


def _move_aside(path: Path) -> None:
    """Free the name of a folder; a process that is killed here leaves no folder that looks complete."""
    if not path.is_dir():
        return
    old = path.with_name(f"{path.name[: LONGEST_NAME // 4]}.old.{os.getpid()}.{threading.get_native_id()}{TEMPORARY}")
    rename(path, old)
    remove_tree(old)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
            continue
        opened = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            sync_file(opened, path)
        finally:
            close(opened)
    sync_folder(folder)


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
