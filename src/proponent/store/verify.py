"""Check an index: every byte of every file, and the consistency of the counts in the files."""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt64

from proponent.disk import TEMPORARY
from proponent.errors import DamagedError, InputError, ProponentError
from proponent.store.checksums import BLOCK, Checksums, sums_of_file
from proponent.store.door import DOOR, FOLDERS, MOST_JSON
from proponent.store.files import NOTE, finished, walk
from proponent.store.layout import MANIFEST, PLAN, Layout
from proponent.store.leases import NAME
from proponent.store.manifest import Manifest, canonical, merkle_root, read_json
from proponent.store.mirror import mirror_of
from proponent.store.names import refuse_name
from proponent.store.reader import Store
from proponent.store.segment import Segment, hashed_ids
from proponent.types import CheckpointId

_NAME = re.compile(r"(seg|gen|append|merge)-\w|step-\d|run-\d+-step-\d")
"""How the names in the folders of an index begin."""


@dataclass(frozen=True)
class Damage:
    """A damaged file."""

    file: str  # its name inside the index
    problem: str  # the problem
    # byte ranges [begin, end) with a wrong checksum; empty if unknown
    ranges: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The result of a check."""

    sealed: bool  # whether the index is finished; of an unfinished one the finished files are checked
    files: int  # number of files checked
    size: int  # their bytes
    seconds: float  # duration of the check
    damage: tuple[Damage, ...]  # the damaged files; empty for an intact index
    strays: tuple[str, ...]  # files that are not part of the index: left by killed processes, or put there by others


def verify(
    folder: Path,
    each: Callable[[list[tuple[str, Checksums]]], Iterator[tuple[str, Checksums]]] = lambda files: iter(files),
) -> Verdict:
    """Check every byte and every count of an index."""
    layout, began = Layout(folder), time.perf_counter()
    sealed = layout.manifest.is_file()
    if not layout.plan.is_file():
        _refuse_lost(layout, "plan", sealed or _holds_files(folder))
        raise InputError(f"no index at {folder}")
    if not sealed:
        _refuse_lost(layout, "manifest", _unnoted(layout))
    files = _sealed_files(layout) if sealed else _noted_files(layout)
    mirror = mirror_of(folder)
    # of an index in a bucket, its objects are checked
    read = _from_disk if mirror is None else mirror.sums
    damage = [found for name, sums in each(sorted(files.items())) if (found := _check(folder, name, sums, read))]
    if not damage and sealed:
        damage += _counts(folder)
    size = sum(sums.size for sums in files.values())
    names = map(layout.name, walk(folder)) if mirror is None else mirror.bucket.names()
    strays = tuple(_strays(names, set(files)))
    return Verdict(sealed, len(files), size, time.perf_counter() - began, tuple(damage), strays)


def _from_disk(path: Path, _: Checksums) -> Checksums:
    return sums_of_file(path)


def _holds_files(folder: Path) -> bool:
    """Whether a folder holds files of an index; folders of these names alone may be anybody's."""
    return any(_NAME.match(path.name) for name in FOLDERS for path in _entries(folder / name))


def _entries(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


def _sealed_files(layout: Layout) -> dict[str, Checksums]:
    manifest = read_json(layout.manifest, Manifest)
    written = DOOR.read_bytes(layout.manifest, most=MOST_JSON) == (canonical(manifest.model_dump()) + "\n").encode()
    if not written or manifest.digest != manifest.own_digest() or manifest.merkle_root != merkle_root(manifest.files):
        raise DamagedError(
            f"{layout.manifest} differs from what was written (its digest differs): restore it from a copy, or remove "
            "it and run the first `proponent index` command with --repair, and then again what was appended and "
            "deleted since"
        )
    return manifest.files


def _refuse_lost(layout: Layout, what: str, lost: bool) -> None:
    if lost:
        path = layout.plan if what == "plan" else layout.manifest
        raise DamagedError(
            f"{path} is missing: without its {what} nothing tells whether the other files are those that were written: "
            "restore it from a copy, or build the index again"
        )


def _unnoted(layout: Layout) -> bool:
    """Whether files were finished and none has its note: they were sealed once."""
    names = [layout.name(path) for path in walk(layout.folder)]
    made = [name for name in names if "/" in name and not name.endswith((NOTE, TEMPORARY))]
    return len(made) > 1 and not any(name.endswith(NOTE) for name in names)


def _noted_files(layout: Layout) -> dict[str, Checksums]:
    notes = [path.with_name(path.name.removesuffix(NOTE)) for path in walk(layout.folder) if path.name.endswith(NOTE)]
    return {layout.name(path): sums for path in notes if (sums := finished(path)) is not None}


def _check(folder: Path, name: str, sums: Checksums, read: Callable[[Path, Checksums], Checksums]) -> Damage | None:
    refused = refuse_name(folder, name)
    if refused is not None:
        return Damage(name, refused)
    path = folder / name
    try:
        found = read(path, sums)
    except FileNotFoundError:
        return Damage(name, "is missing")
    except DamagedError as error:
        return Damage(name, str(error).removeprefix(f"{path} ").partition(": ")[0])
    except OSError as error:
        return Damage(name, f"cannot be read ({error.strerror or error})")
    if found == sums:
        return None
    if found.size != sums.size:
        return Damage(name, f"has {found.size} bytes, not {sums.size}")
    blocks = [at for at in range(len(sums.xxh3) // 16) if sums.block(at) != found.block(at)]
    ranges = tuple((at * BLOCK, min((at + 1) * BLOCK, sums.size)) for at in blocks)
    return Damage(name, "differs from what was written", ranges)


def _counts(folder: Path) -> list[Damage]:
    """Check the consistency of counts in files with right checksums, which detects the errors of a faulty writer."""
    try:
        store = Store(folder)
        segments = store.segments  # reads the plan, which the manifest may not name
    except ProponentError as error:
        return [Damage(MANIFEST, str(error))]
    if not store.manifest.sources:
        return [Damage(MANIFEST, "names no source of its examples")]
    found: list[Damage] = []
    for segment in segments:
        for name, problem in _segment_counts(store, segment):
            found.append(Damage(name, problem.removeprefix(f"{folder / name} ")))
    return found + list(_equal_ids(store))


def _equal_ids(store: Store) -> Iterator[Damage]:
    """Examples without an id, or with one that another example has; deleted examples do not count."""
    known: UInt64[np.ndarray, " k"] = np.empty(store.n, dtype=np.uint64)  # hashes, sorted in place
    count = 0
    for segment in store.segments:
        try:
            hashes = hashed_ids(segment)
        except DamagedError:
            return  # reported already
        if len(hashes) < int(segment.kept.sum()):
            yield Damage(store.layout.name(segment.examples.path), "contains an example without an id")
            return
        known[count : count + len(hashes)] = hashes
        count += len(hashes)
    known = known[:count]
    known.sort()
    twice = known[1:][known[1:] == known[:-1]]
    if len(twice):
        yield Damage(_second_file(store, int(twice[0])), "contains an id that another example has")


def _second_file(store: Store, wanted: int) -> str:
    """The file in which an id of this hash occurs for the second time."""
    seen, name = 0, MANIFEST
    for segment in store.segments:
        hashes = hashed_ids(segment)
        if seen < 2 and (hashes == wanted).any():
            seen, name = seen + int((hashes == wanted).sum()), store.layout.name(segment.examples.path)
    return name


def _segment_counts(store: Store, segment: Segment) -> Iterator[tuple[str, str]]:
    """The errors in a segment's files: (file, problem)."""
    layout = store.layout
    files = [layout.examples(segment.name), layout.features(segment.name)]
    yield from _tried(layout, files[0], lambda: segment.places)
    yield from _tried(layout, files[1], lambda: [segment.features(name) for name in segment.feature_names])
    for at in (one.id for one in store.plan.checkpoints):
        rows = 0
        for number in range(len(segment.bounds) - 1):
            path, held = layout.shard(at, segment.name, number), list[int]()
            yield from _tried(layout, path, lambda put=held.append, at=(at, number): put(_rows(segment, *at)))
            rows += sum(held)
        path = layout.postings(at, segment.name)
        found: list[int] = []
        yield from _tried(layout, path, lambda put=found.append, at=at: put(_postings(segment, at)))
        if found and found[0] not in {-1, rows}:
            yield layout.name(path), f"contains {found[0]} rows, and the shards contain {rows}"


def _tried(layout: Layout, path: Path, look: Callable[[], object]) -> Iterator[tuple[str, str]]:
    try:
        look()
    except DamagedError as error:
        yield layout.name(path), str(error)


def _rows(segment: Segment, at: CheckpointId, number: int) -> int:
    """Embedding rows of a shard, which is verified on opening."""
    _, arrays = segment.shard(at, number, ("rows.indptr",))
    return int(arrays["rows.indptr"][-1]) if arrays else 0


def _postings(segment: Segment, at: CheckpointId) -> int:
    """Rows of the postings, verified; -1 if there are none."""
    postings = segment.postings(at)
    if postings is None:
        return -1
    postings.owners(0, len(postings))
    return len(postings)


def _strays(names: Iterable[str], known: set[str]) -> Iterator[str]:
    for name in sorted(names):
        ours = name in known or name in {MANIFEST, PLAN, NAME} or (name.endswith(NOTE) and _owner(name) in known)
        if not ours:
            yield name + (" (temporary)" if name.endswith(TEMPORARY) else "")


def _owner(note: str) -> str:
    return note.removesuffix(NOTE)
