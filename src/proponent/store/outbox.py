"""A build whose index is in a bucket: finished files go there, and those of other machines are fetched.

The files are made in a local folder, as always. A file is put first, if there is none of its name, then its note, which
completes it and holds its checksums: whoever comes second finds equal checksums, or says that they differ. What the
list of objects does not show yet is computed again, and found to be equal.
"""

from collections.abc import Iterator
from pathlib import Path

from proponent import disk
from proponent.buckets import Bucket
from proponent.errors import DamagedError, MismatchError
from proponent.shown_places import show_as
from proponent.store.checksums import Checksums, has_blocks, sums_of, sums_of_file
from proponent.store.door import DOOR, MOST_JSON
from proponent.store.files import NOTE, finished, note_of, publish_bytes, walk, write_note
from proponent.store.layout import MANIFEST, PLAN, Layout
from proponent.store.leases import NAME
from proponent.store.manifest import Manifest, Plan, parse_manifest, read_json
from proponent.store.mirror import WORK, Home, Mirror, address_of
from proponent.store.names import refuse_name
from proponent.store.remote_files import note_text, notes_in, read_note

AGAIN = "run the same `proponent index` command again, which computes it anew"

FIRST = ".first"
"""In the name of a table as it is before the gradients, if it gets further arrays after them."""

_OUTBOXES: dict[Path, "Outbox"] = {}


def outbox_of(folder: Path) -> "Outbox | None":
    """The way to the bucket of the folder of a build; None for any other folder."""
    if folder not in _OUTBOXES:
        address = address_of(folder) if folder.parent.name == WORK else None
        if address is None:
            return None
        _OUTBOXES[folder] = Outbox(Bucket(address), folder)
        show_as(str(folder), address)
    return _OUTBOXES[folder]


class Outbox:
    """Puts the files of one folder into a bucket."""

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        self.bucket, self.folder, self.layout = bucket, folder, Layout(folder)
        self._notes: dict[str, Checksums] = {}
        self.sealed: Manifest | None = None

    @property
    def _plan(self) -> str:
        """SHA-256 of the plan that is worked for; notes name it, so that parts of two plans never mix."""
        return sums_of_file(self.layout.plan).sha256

    def take_plan(self) -> None:
        """Take the plan of the bucket, if there is one; leftovers of another plan are removed.

        Raises:
            MismatchError: the place holds other things than an index.
        """
        plan = self.bucket.read(PLAN, MOST_JSON)
        if plan is None:
            self._empty()  # of an index that was removed from the bucket
            alien = next((one for one in self.bucket.names() if not one.startswith((PLAN, "probe-"))), None)
            if alien is not None and self.bucket.head(PLAN) is None:
                raise MismatchError(
                    f"{self.bucket.url} is not empty and not an index (it contains {alien}): choose another --out"
                )
            return
        if self.layout.plan.is_file() and DOOR.read_bytes(self.layout.plan, most=MOST_JSON) != plan[0]:
            self._empty()
        publish_bytes(self.layout.plan, [plan[0]], noted=False)

    def _empty(self) -> None:
        for path in list(self.folder.iterdir()):
            if path.name != NAME:
                disk.remove_tree(path)

    def put_plan(self) -> bool:
        """Put the plan; False if another one was first, which is here now."""
        written = DOOR.read_bytes(self.layout.plan, most=MOST_JSON)
        if self.bucket.create(PLAN, written) is not None:
            return True
        found = self.bucket.read(PLAN, MOST_JSON)
        if found is not None and found[0] != written:
            publish_bytes(self.layout.plan, [found[0]], noted=False)
            _ = read_json(self.layout.plan, Plan)
            return False
        return True

    def refresh(self, *, tables: bool) -> None:
        """See what other machines have finished, and put what is finished here and not there."""
        there = self.bucket.names()
        if MANIFEST in there:
            self._see_seal()
        for name, sums in notes_in(self.bucket, there, self._plan, self._notes).items():
            if refuse_name(self.folder, name) is None:
                self._notes[name] = sums
        for path in self._finished_here():
            if tables or path.parent.name != "tables":
                self.put(path)

    def _finished_here(self) -> Iterator[Path]:
        """Files that are finished here, and not, or with other checksums, in the bucket."""
        for note in list(walk(self.folder)):
            path = note.with_name(note.name.removesuffix(NOTE))
            sums = None if path == note else finished(path)
            if sums is not None and self._notes.get(self.layout.name(path)) != sums:
                yield path

    def has(self, path: Path) -> bool:
        """Whether a file is finished in the bucket, as far as this process knows."""
        return self.layout.name(path) in self._notes

    def look(self, path: Path) -> bool:
        """Whether a file is finished in the bucket now."""
        name = self.layout.name(path)
        if name not in self._notes:
            sums = read_note(self.bucket, name, self._plan)
            if sums is not None and self.bucket.head(name) is not None:
                self._notes[name] = sums
        return name in self._notes

    def fetch(self, path: Path, *, first: bool = False) -> Checksums | None:
        """Fetch a finished file of another machine, and verify it.

        Returns:
            Its checksums; None if there is none.

        Raises:
            DamagedError: the object is missing, or differs from its note.
        """
        name = _first(self.layout.name(path)) if first else self.layout.name(path)
        sums = self._notes.get(name)
        if sums is None:
            return None
        try:
            found = (_Renamed if first else Mirror)(self.bucket, self.folder).download(path, sums)
        except FileNotFoundError as error:
            raise DamagedError(f"{self.bucket.at(name)} is missing: {self._again(name)}") from error
        if found != sums:
            raise DamagedError(f"{self.bucket.at(name)} differs from its note: {self._again(name)}")
        write_note(path, sums)
        return sums

    def fetch_again(self, path: Path) -> None:
        """Fetch a file whose local bytes have changed since it was finished."""
        disk.remove(note_of(path))
        disk.remove(path)
        if self.fetch(path) is None:
            raise DamagedError(f"{path} differs from what was written and was removed: {AGAIN}")

    def fetch_all(self) -> None:
        """Fetch every finished file that is not here."""
        for name in list(self._notes):
            if FIRST not in name and finished(self.folder / name) is None:
                self.fetch(self.folder / name)

    def put(self, path: Path, *, first: bool = False) -> None:
        """Put a finished file and its note.

        Raises:
            MismatchError: it was finished by another machine, with other bytes.
            DamagedError: it has changed here since it was finished.
        """
        name = _first(self.layout.name(path)) if first else self.layout.name(path)
        sums = finished(path)
        if sums is None or self._notes.get(name) == sums:
            return
        if not has_blocks(path, sums):
            disk.remove(note_of(path))
            raise DamagedError(f"{path} differs from what was written: {AGAIN}")
        other = self._other(name)
        if other is None or (other == sums and self.bucket.head(name) is None):
            other = self._put(path, name, sums)
        if other is not None and other != sums:
            raise MismatchError(
                f"{self.bucket.at(name)} was computed twice with different results: the bucket has "
                f"{other.sha256[:12]}, and {sums.sha256[:12]} was computed here (kept in {self.folder.parent}): give "
                "machines of one kind, with the same versions, to one index; to go on, remove that object and its note "
                f"{NOTE}, or that folder, and run again"
            )
        self._notes[name] = sums

    def _put(self, path: Path, name: str, sums: Checksums) -> Checksums | None:
        """Put a file, then its note; the checksums of what was there before."""
        if self.bucket.create(name, path) is None:
            found = sums_of(self.bucket.chunks(name))
            if found != sums:
                return found
        if self.bucket.create(name + NOTE, note_text(sums, self._plan)) is None:
            return self._other(name)
        return None

    def _other(self, name: str) -> Checksums | None:
        """The checksums of a finished file in the bucket."""
        found = read_note(self.bucket, name, self._plan)
        if found is None:
            self._see_seal()
            found = None if self.sealed is None else self.sealed.files.get(name)
        return found

    def _see_seal(self) -> None:
        if self.sealed is not None or (found := self.bucket.read(MANIFEST, MOST_JSON)) is None:
            return
        sealed = parse_manifest(self.layout.manifest, found[0])
        plan = sealed.files.get(PLAN)
        if plan is None or plan.sha256 != self._plan:
            raise self._other_index()
        self.sealed = sealed

    def _other_index(self) -> MismatchError:
        return MismatchError(
            f"{self.bucket.url} holds another index by now, of another plan: nothing of this build was added to it; "
            "choose another --out"
        )

    def seal(self, manifest: Manifest, text: bytes) -> bytes:
        """Put the manifest, unless there is one; an equal index of another machine is as good.

        Returns:
            The manifest in the bucket.

        Raises:
            MismatchError: another machine has sealed another index.
        """
        plan = self.bucket.read(PLAN, MOST_JSON)
        if plan is None or sums_of([plan[0]]).sha256 != self._plan:
            raise self._other_index()
        if self.bucket.create(MANIFEST, text) is None:
            found = self.bucket.read(MANIFEST, MOST_JSON)
            self._see_seal()
            if found is None or self.sealed is None or self.sealed.merkle_root != manifest.merkle_root:
                root = "" if self.sealed is None else self.sealed.merkle_root
                raise MismatchError(
                    f"{self.bucket.url} was sealed by another machine, and its index differs: its merkle root is "
                    f"{root[:12]}, not {manifest.merkle_root[:12]} (kept in {self.folder.parent})"
                )
            text = found[0]
        self.sealed = manifest
        done = [name + NOTE for name in self._notes]
        self.bucket.remove(done + [name for name in self._notes if FIRST in name])
        return text

    def _again(self, name: str) -> str:
        return f"remove it and {name}{NOTE}, and run the same `proponent index` command again"


class _Renamed(Mirror):
    """Reads tables as they are before the gradients."""

    def name(self, path: Path) -> str:
        return _first(super().name(path))


def _first(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return f"{stem}{FIRST}{dot}{ending}"


def work_folder(home: Home) -> Path:
    """The folder of a build."""
    home.prepare()
    folder = home.place(WORK)
    disk.make_private_folder(folder.parent)
    disk.make_private_folder(folder)
    _OUTBOXES.pop(folder, None)  # the bucket may hold another index by now
    return folder
