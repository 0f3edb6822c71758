"""Objects in a bucket and their local files, whose bytes come when they are needed."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from proponent import disk
from proponent.buckets import PIECE, Bucket, Held
from proponent.errors import DamagedError, InputError
from proponent.store.checksums import BLOCK, Checksums
from proponent.store.door import ANY, FOLDERS, MOST_NOTE
from proponent.store.files import NOTE

READERS = 16
"""Notes that are read at once."""

AT_ONCE = 8
"""Pieces that are fetched, and in memory, at once."""

BLOCKS_APART = 1
"""Blocks between two that are needed, up to which they are fetched together."""

WAY_OUT = "restore it, or build the index again"


def cache_folder() -> Path:
    """Where files of buckets are kept."""
    named = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(named) if named else Path.home() / ".cache") / "proponent" / "buckets"


@dataclass(frozen=True)
class RemoteFile:
    """A file whose blocks are in a bucket."""

    bucket: Bucket
    name: str
    path: Path  # its local file

    def fill(self, blocks: Sequence[int]) -> None:
        """Fetch blocks into the local file."""
        self.refuse_removed()
        opened = disk.reopen(self.path)
        try:
            for some in _portions(spans_of(blocks, self.path.stat().st_size)):
                for (begin, _), data in zip(some, self._ranges(some), strict=True):
                    with disk.full_disk_named(here()):
                        disk.write_all(opened, data, begin)
        finally:
            disk.close(opened)

    def refuse_removed(self) -> None:
        """Refuse to go on when the user has removed the cache of an open index."""
        if not self.path.is_file():
            raise InputError(f"the cache of {self.bucket.url} was removed while the index was open: open it again")

    def _ranges(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        try:
            return self.bucket.ranges(self.name, spans)
        except FileNotFoundError as error:
            raise DamagedError(f"{self.bucket.at(self.name)} is missing: {WAY_OUT}") from error


def here() -> str:
    """The cache, in a message."""
    return f"the cache in {cache_folder()}"


def _portions(spans: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """The same bytes in requests of a bounded size."""
    held, size = list[tuple[int, int]](), 0
    for begin, end in spans:
        for start in range(begin, end, PIECE):
            stop = min(start + PIECE, end)
            if held and size + stop - start > AT_ONCE * PIECE:
                yield held
                held, size = [], 0
            held.append((start, stop))
            size += stop - start
    if held:
        yield held


class Note(Checksums):
    """What completes a file in a bucket: its checksums, and the plan that it was computed for."""

    plan: str  # SHA-256


def note_text(sums: Checksums, plan: str) -> bytes:
    """A note as it is put."""
    return Note(**sums.model_dump(), plan=plan).model_dump_json().encode()


def read_note(bucket: Bucket, name: str, plan: str) -> Checksums | None:
    """The checksums in the note of a file in a bucket; None if there is none for this plan."""
    found = bucket.read(name + NOTE, MOST_NOTE)
    try:
        note = None if found is None else Note.model_validate_json(found[0])
    except ValueError:
        return None
    if note is None or not note.fits or note.plan != plan:
        return None
    return Checksums(**note.model_dump(exclude={"plan"}))


def lay(path: Path, size: int) -> None:
    """Create a file of zeros that takes no space; it is not synced: its bytes come later."""
    try:
        disk.make_folder(path.parent)
        with disk.full_disk_named(here()):
            fresh = disk.temporary(path)
            opened = disk.create(fresh, mode=0o600)
            try:
                disk.truncate(opened, min(size, ANY))
            finally:
                disk.close(opened)
            _give_name(fresh, path, size)
    except OSError as error:
        raise DamagedError(f"{path} cannot be a file of {size:,} bytes here ({error.strerror}): {WAY_OUT}") from error


def _give_name(fresh: Path, path: Path, size: int) -> None:
    """Name a new file, unless another process was first: what is mapped already must stay the file that is filled."""
    try:
        disk.link(fresh, path)
    except OSError:
        if not has_size(path, size):
            disk.rename(fresh, path)
    disk.remove(fresh)


def has_size(path: Path, size: int) -> bool:
    """Whether a file is there and has a size."""
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def spans_of(blocks: Sequence[int], size: int) -> list[tuple[int, int]]:
    """The ranges of bytes of some blocks, in order; near ones together."""
    found: list[tuple[int, int]] = []
    for block in blocks:
        begin, end = block * BLOCK, min((block + 1) * BLOCK, size)
        if found and begin - found[-1][1] <= BLOCKS_APART * BLOCK:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found


def notes_in(bucket: Bucket, there: Mapping[str, Held], plan: str, known: Collection[str] = ()) -> dict[str, Checksums]:
    """The notes of a plan in a bucket, by the file that each is of; a note without its file is none."""
    noted = [one.removesuffix(NOTE) for one in there if one.endswith(NOTE)]
    names = [one for one in noted if one in there and one not in known and one.partition("/")[0] in FOLDERS]
    with ThreadPoolExecutor(READERS) as pool:
        found = dict(zip(names, pool.map(partial(read_note, bucket, plan=plan), names), strict=True))
    return {name: sums for name, sums in found.items() if sums is not None and sums.size == there[name].size}
