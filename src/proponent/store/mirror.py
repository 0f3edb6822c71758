"""The local folder of an index in a bucket: its files have their sizes, and bytes come when they are needed.

A folder of the cache is of one address and one manifest, so a changed index never mixes with it. A block of a file is
there if it has its checksum: nothing else records it, and so several processes may fill a file at once, and damaged
blocks are fetched again.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from proponent import disk
from proponent.buckets import Bucket, Held, url_of
from proponent.errors import DamagedError, InputError
from proponent.local_sockets import state_folder
from proponent.locks import share, take_alone
from proponent.shown_places import show_as
from proponent.store.checksums import ChecksumBuilder, Checksums, sums_of, sums_of_file
from proponent.store.door import DOOR, MOST_JSON
from proponent.store.files import note_of
from proponent.store.layout import MANIFEST, PLAN
from proponent.store.manifest import Manifest, Plan, read_json
from proponent.store.names import refuse_name
from proponent.store.remote_files import WAY_OUT, RemoteFile, cache_folder, has_size, here, lay, notes_in

WORK, CHANGE = "work", "change-"
"""Beginnings of the folders of unfinished builds and of changes."""

_LOCK, _ADDRESS = "lock", "address.json"
_MIRRORS: dict[Path, "Mirror"] = {}
_SHARED: dict[Path, int] = {}
"""Open locks of this process: as long as it runs, nobody removes what it reads."""


def local(place: str | Path) -> Path:
    """Find the folder of an index.

    Returns:
        The path; of an index in a bucket, the folder of its files here.

    Raises:
        InputError: there is no index at the url, or the bucket cannot be read.
    """
    url = url_of(place)
    return Path(place) if url is None else Home(url).opened()


def latest(folder: Path) -> Path:
    """The folder of the same index once it was changed: another one if it is in a bucket."""
    mirror = mirror_of(folder)
    return folder if mirror is None else Home(mirror.bucket.url).opened()


def beside(folder: Path) -> Path:
    """Where files next to an index go: for one in a bucket, to a folder of this user that is no cache."""
    mirror = mirror_of(folder)
    if mirror is None:
        return folder
    kept = state_folder() / "proponent" / "buckets" / Home(mirror.bucket.url).key
    disk.make_private_folder(kept)
    return kept / folder.name


def mirror_of(folder: Path) -> "Mirror | None":
    """The mirror that a folder is; None for any other folder."""
    if folder not in _MIRRORS:
        address = address_of(folder)
        if address is None or folder.parent.name.startswith(WORK):
            return None
        _MIRRORS[folder] = Mirror(Bucket(address), folder)
        show_as(str(folder), address)
    return _MIRRORS[folder]


def address_of(folder: Path) -> str | None:
    """The url that a folder of the cache belongs to; None for a folder elsewhere."""
    home = folder.parent.parent
    try:
        if home.parent != cache_folder() or not (home / _ADDRESS).is_file():
            return None
        return url_of(str(DOOR.read_json(home / _ADDRESS, most=2**16)["url"]))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return None


class Mirror:
    """The local files of an index in a bucket."""

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        self.bucket, self.folder = bucket, folder

    def name(self, path: Path) -> str:
        """A file's name in the index."""
        return path.relative_to(self.folder).as_posix()

    def file(self, path: Path) -> RemoteFile:
        """A file that is read in blocks."""
        return RemoteFile(self.bucket, self.name(path), path)

    def fetch(self, path: Path, sums: Checksums) -> None:
        """Make sure that a whole file is here, with its checksums.

        Raises:
            DamagedError: the object is missing or differs from what was written.
        """
        try:
            if sums_of_file(path) == sums:
                return
        except FileNotFoundError:
            pass
        try:
            found = self.download(path, sums)
        except FileNotFoundError as error:
            raise DamagedError(f"{self.bucket.at(self.name(path))} is missing: {WAY_OUT}") from error
        if found != sums:
            raise DamagedError(
                f"{self.bucket.at(self.name(path))} differs from what was written (its checksum differs): {WAY_OUT}"
            )

    def sums(self, path: Path, _: Checksums) -> Checksums:
        """Read a whole object and say what its checksums are; nothing is kept, since others may read its file here."""
        return sums_of(self.bucket.chunks(self.name(path)))

    def download(self, path: Path, sums: Checksums) -> Checksums:
        """Read a whole object and say what its checksums are; it is kept if they are right."""
        fresh, builder, at = disk.temporary(path), ChecksumBuilder(), 0
        disk.make_folder(path.parent)
        with disk.full_disk_named(here()):
            opened = disk.create(fresh, mode=0o600)
            try:
                for piece in self.bucket.chunks(self.name(path)):
                    builder.add(piece)
                    if at + len(piece) <= sums.size:  # a longer one is wrong, and need not fill the disk
                        disk.write_all(opened, piece, at)
                    at += len(piece)
                found = builder.sums()
                if found == sums:
                    disk.rename(fresh, path)
            finally:
                disk.close(opened)
                disk.remove(fresh)
        return found


class Home:
    """The folder of one address in the cache."""

    def __init__(self, url: str, bucket: Bucket | None = None) -> None:
        self.url, self.bucket = url, bucket or Bucket(url)
        self.key = hashlib.sha256(url.encode()).hexdigest()[:16]
        self.folder = cache_folder() / self.key
        name = "".join(one if one.isalnum() or one in "._-" else "-" for one in url.rsplit("/", 1)[-1])[:60]
        self.name = f"{name.removesuffix('.index')}.index"  # never the name of another file beside it

    def place(self, kind: str) -> Path:
        """The folder of one state of the index."""
        return self.folder / kind / self.name

    def prepare(self) -> None:
        """Create the folder, for this user alone."""
        with disk.unwritable_named(self.folder):
            disk.make_private_folder(self.folder.parent.parent)
            disk.make_private_folder(self.folder.parent)
            disk.make_private_folder(self.folder)
            if not (self.folder / _ADDRESS).is_file():
                written = json.dumps({"url": self.url}).encode()
                disk.publish(self.folder / _ADDRESS, lambda opened: disk.write_all(opened, written, 0), private=True)

    def opened(self) -> Path:
        """Prepare the files of the index as it is in the bucket now.

        Returns:
            Their folder.

        Raises:
            InputError: there is none.
        """
        sealed = self.bucket.read(MANIFEST, MOST_JSON)
        if sealed is not None:
            return self.sealed(*sealed)
        if self.bucket.head(PLAN) is None:
            raise InputError(f"no index at {self.url}: build one with `proponent index RUN DATA --out {self.url}`")
        return self._unfinished()

    def sealed(self, text: bytes, _: Held | None = None) -> Path:
        """The folder of a finished index with this manifest."""
        self.prepare()
        folder = self.place(hashlib.sha256(text).hexdigest()[:16])
        self._keep(folder)
        # when it is not complete, objects were missing or had other sizes, or files of the cache are gone
        if not _holds(folder / MANIFEST, text) or not _complete(folder, read_json(folder / MANIFEST, Manifest).files):
            self._lay_out(folder, text)
        self._sweep(folder.parent)
        plan, mirror = read_json(folder / MANIFEST, Manifest).files.get(PLAN), mirror_of(folder)
        if plan is not None and mirror is not None:
            mirror.fetch(folder / PLAN, plan)  # read by more than the store
        return folder

    def _lay_out(self, folder: Path, text: bytes) -> None:
        """Create the files, without their bytes; one whose object is missing or has another size is left out."""
        show_as(str(folder.parent), self.url)
        checked = folder.parent / MANIFEST
        _publish(checked, text)
        manifest = read_json(checked, Manifest)
        there = self.bucket.names()
        for name in manifest.files:
            problem = refuse_name(folder, name)
            if problem is not None:
                raise DamagedError(f"{self.bucket.at(name)} {problem}: build the index again")
            held = there.get(name) or self.bucket.head(name)  # a listing may be late
            if held is not None:
                _lay(folder / name, held.size)
        _publish(folder / MANIFEST, text)

    def _unfinished(self) -> Path:
        """The folder of the finished part of an unfinished index."""
        self.prepare()
        plan = self.bucket.read(PLAN, MOST_JSON)
        assert plan is not None
        folder = self.place(f"part-{hashlib.sha256(plan[0]).hexdigest()[:12]}")
        self._keep(folder)
        _publish(folder / PLAN, plan[0])
        there = self.bucket.names()
        for name, sums in notes_in(self.bucket, there, hashlib.sha256(plan[0]).hexdigest()).items():
            if refuse_name(folder, name) is None:
                _lay(folder / name, sums.size)
                _publish(note_of(folder / name), sums.model_dump_json().encode())
        _ = read_json(folder / PLAN, Plan)
        mirror_of(folder)
        return folder

    def _keep(self, folder: Path) -> None:
        """Lock the folder of a state, so that no process removes it."""
        if folder.parent in _SHARED and (folder.parent / _LOCK).is_file():
            return
        while True:
            disk.make_private_folder(folder.parent)
            opened = disk.create(folder.parent / _LOCK, mode=0o600)
            share(opened, folder.parent)
            if _same(folder.parent / _LOCK, opened):
                break
            disk.close(opened)  # it was removed while this process waited
        _SHARED[folder.parent] = opened
        disk.make_private_folder(folder)

    def _sweep(self, current: Path) -> None:
        """Remove the folders of former states that no process reads."""
        for folder in self.folder.iterdir():
            lock = folder / _LOCK
            kept = folder in {current, self.folder / WORK, self.folder / f"{CHANGE}{current.name}"}
            if kept or not lock.is_file():
                continue
            with suppress(OSError):  # another process removes it
                opened = disk.reopen(lock)
                try:
                    if folder not in _SHARED and take_alone(opened, folder):
                        disk.remove_tree(folder)
                finally:
                    disk.close(opened)


@contextmanager
def alone_in(folder: Path, busy: Callable[[], InputError]) -> Generator[None]:
    """Hold a folder of the cache while it is changed; another process that wants it is refused."""
    disk.make_private_folder(folder)
    opened = disk.create(folder / _LOCK, mode=0o600)
    try:
        if not take_alone(opened, folder):
            raise busy()
        yield
    finally:
        disk.close(opened)


def _lay(path: Path, size: int) -> None:
    if not has_size(path, size):
        lay(path, size)


def _complete(folder: Path, files: Mapping[str, Checksums]) -> bool:
    return all(has_size(folder / name, sums.size) for name, sums in files.items())


def _publish(path: Path, data: bytes) -> None:
    disk.make_folder(path.parent)
    if not _holds(path, data):
        disk.publish(path, lambda opened: disk.write_all(opened, data, 0), private=True)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return DOOR.read_bytes(path, most=MOST_JSON) == data
    except (OSError, DamagedError):
        return False


def _same(path: Path, opened: int) -> bool:
    try:
        found, held = path.stat(), os.fstat(opened)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(held.st_mode) and os.path.samestat(found, held)
