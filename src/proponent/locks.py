"""Locks on files: one writer at a time, among the threads and processes of a machine.

Some file systems (NFS without a lock daemon, some FUSE) cannot lock. Writing then goes on, and that is said once.
"""

import contextlib
import errno
import os
import stat
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from types import ModuleType

from proponent.errors import InputError
from proponent.notices import say_once

try:
    import fcntl
except ImportError:  # Windows: threads of one process exclude each other, processes do not
    fcntl = None

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_GUARD = threading.Lock()
_THREADS: dict[str, threading.Lock] = {}
"""One lock per file: some file systems assign file locks to processes, not to open files."""

_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
BINARY = getattr(os, "O_BINARY", 0)

if hasattr(os, "register_at_fork"):  # a thread that held a lock does not exist in the child
    os.register_at_fork(after_in_child=_THREADS.clear)


@contextlib.contextmanager
def alone(path: Path) -> Generator[int]:
    """Open a file for appending while no other thread or process does; it is created if it is missing.

    Raises:
        InputError: it is not a regular file.
        OSError: it cannot be opened.
    """
    with _GUARD:
        own = _THREADS.setdefault(os.path.realpath(path), threading.Lock())
    with own:
        opened = _locked(path)
        try:
            yield opened
        finally:
            os.close(opened)


def _locked(path: Path) -> int:
    while True:
        opened = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS | BINARY, 0o644)
        try:
            refuse_other_kinds(path, opened)
            _lock(path, opened)
            if _same(path, opened):
                return opened
        except BaseException:
            os.close(opened)
            raise
        os.close(opened)  # it was moved away while this thread waited for the lock


def _same(path: Path, opened: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(opened))
    except FileNotFoundError:
        return False


def _lock(path: Path, opened: int) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
    except OSError as error:
        if not lacks_locks(error, path.parent):
            raise


def share(opened: int, folder: Path) -> None:
    """Lock an open file together with others; it is released when it is closed."""
    _flock(opened, folder, "LOCK_SH")


def take_alone(opened: int, folder: Path) -> bool:
    """Lock an open file unless another process has it."""
    try:
        _flock(opened, folder, "LOCK_EX", "LOCK_NB")
    except BlockingIOError:
        return False
    return True


def _flock(opened: int, folder: Path, *kinds: str) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(opened, sum(getattr(fcntl, kind) for kind in kinds))
    except BlockingIOError:
        raise
    except OSError as error:
        if not lacks_locks(error, folder):
            raise


def lacks_locks(error: OSError, folder: Path) -> bool:
    """Whether an error means that a file system cannot lock files; says so once."""
    if error.errno not in _NO_LOCKS:
        return False
    say_once(
        f"{folder}: this file system cannot lock files: it works, but nothing stops two processes from writing here at "
        "once; let only one process write"
    )
    return True


def record_locks(folder: Path) -> ModuleType:
    """Return the module that locks parts of files; without it writing is refused."""
    if fcntl is None:
        raise InputError(
            f"{folder} can only be read here: this system ({sys.platform}) has no record locks, and without them two "
            "writers could damage an index: build and change it on Linux or macOS"
        )
    return fcntl


def refuse_other_kinds(path: Path, opened: int) -> None:
    """Refuse an open file that is a pipe, a device or a socket."""
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        raise InputError(f"{path} is not a regular file: move it away")
