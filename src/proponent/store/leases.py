"""Locks between processes: byte-range locks on one file of the index.

The system releases them when a process ends, in whatever way.
Byte 0 is locked while the index is planned, sealed or changed, byte 1 (shared) by every writer, byte 2 + k by the
process that computes shard k.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from proponent.errors import DamagedError, InputError
from proponent.locks import lacks_locks, record_locks

NAME = "lease"
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
WAIT = 0.2
"""Seconds between two attempts to lock what another process holds."""


class Leases:
    """The locks of one writer. One per process and folder: closing any descriptor of the file releases all locks."""

    def __init__(self, folder: Path) -> None:
        self._locks, self._folder = record_locks(folder), folder
        try:
            self._file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO}:
                raise DamagedError(f"{folder / NAME} is not a regular file: remove it; it is made anew") from error
            if error.errno not in {errno.EROFS, errno.EACCES, errno.EPERM}:
                raise
            raise InputError(
                f"{folder} is read-only ({error.strerror}): copy it to a writable folder, or get write permission"
            ) from error
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            os.close(self._file)
            raise DamagedError(f"{folder / NAME} is not a regular file: remove it; it is made anew")
        self._apply(self._locks.LOCK_SH, 1)

    @contextmanager
    def whole(self, waiting: Callable[[], None] | None = None) -> Generator[None]:
        """Hold the lock for planning, sealing or changing the index; wait for it."""
        noted = False
        while not self._try(0):
            if not noted and waiting is not None:
                waiting()
            noted = True
            time.sleep(WAIT)
        try:
            yield
        finally:
            self._apply(self._locks.LOCK_UN, 0)

    def take(self, shard: int) -> bool:
        """Try to lock a shard for computing it."""
        return self._try(2 + shard)

    def drop(self, shard: int) -> None:
        """Release a shard."""
        self._apply(self._locks.LOCK_UN, 2 + shard)

    @property
    def alone(self) -> bool:
        """Whether no other process writes to the index, as far as the file system can tell."""
        try:
            self._apply(self._locks.LOCK_EX | self._locks.LOCK_NB, 1)
        except OSError:
            return False
        self._apply(self._locks.LOCK_SH, 1)
        return True

    def close(self) -> None:
        """Release every lock."""
        with suppress(OSError):
            os.close(self._file)

    def _try(self, byte: int) -> bool:
        try:
            self._apply(self._locks.LOCK_EX | self._locks.LOCK_NB, byte)
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EAGAIN}:
                raise
            return False
        return True

    def _apply(self, kind: int, byte: int) -> None:
        """Change the lock of one byte; on a file system without locks nothing happens, and that is said once."""
        try:
            self._locks.lockf(self._file, kind, 1, byte)
        except OSError as error:
            if not lacks_locks(error, self._folder):
                raise
