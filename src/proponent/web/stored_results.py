"""Results about a test set, stored next to the index: one sealed JSON file each, computed again when it is missing."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

from proponent import disk
from proponent.errors import DataError, DiskFullError, InputError
from proponent.foreign_files import MEGABYTE, Door
from proponent.web.seals import is_own, sealed

MOST_BYTES = 64 * MEGABYTE
"""Maximum bytes of a stored result."""

_DOOR = Door(InputError, "delete it; it is computed again")

Result = TypeVar("Result")


class StoredResult(Generic[Result]):
    """One result: of a kind, for an index with a Merkle root, about a test set.

    Attributes:
        own: whether this user computed it.
        unkept: why it is only in memory; empty if it is stored.
    """

    def __init__(
        self, folder: Path, root: str, kind: str, identity: str, read: Callable[[Mapping[str, Any]], Result]
    ) -> None:
        name = hashlib.sha256(json.dumps([root, kind, identity]).encode()).hexdigest()[:20]
        self.path, self._root, self._names = folder / f"{kind}-{name}.json", root, {"kind": kind, "of": identity}
        self._read, self._lock = read, Lock()
        self._seen: tuple[int, int] | None = None
        self._value: Result | None = None
        self.own, self.unkept = True, ""

    def get(self) -> Result | None:
        """Look it up; None if it is missing, incomplete or about something else."""
        with self._lock:
            if self.unkept:
                return self._value
            try:
                found = self.path.stat()
            except OSError:
                self._seen = self._value = None
                return None
            if (found.st_size, found.st_mtime_ns) != self._seen:
                self._seen, self._value = (found.st_size, found.st_mtime_ns), self._from_file()
            return self._value

    def forget(self) -> None:
        """Show it no more: it is computed again, and replaced then."""
        with self._lock:
            self._value, self.own, self.unkept = None, True, ""

    def put(self, content: Mapping[str, Any]) -> None:
        """Store it; where that is impossible it stays in memory."""
        with self._lock:
            whole = sealed({**content, **self._names}, self._root)
            self._value, self.own, self.unkept, self._seen = self._read(whole), True, "", None
            try:
                with disk.unwritable_named(self.path.parent):
                    disk.make_folder(self.path.parent)
                disk.write_bytes(self.path, json.dumps(whole, allow_nan=False).encode("ascii"))
            except (InputError, DiskFullError) as error:
                self.unkept = str(error)

    def _from_file(self) -> Result | None:
        try:
            content = _DOOR.read_json(self.path, most=MOST_BYTES, within=self.path.parent)
            if any(content[name] != value for name, value in self._names.items()):
                return None
            self.own = is_own(content, self._root)
            return self._read(content)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, DataError, InputError):
            return None
