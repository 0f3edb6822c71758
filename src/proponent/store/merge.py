"""Merge the segments of one or more indexes: few large ones are searched faster. Removes deleted examples."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from proponent import disk
from proponent.errors import DamagedError
from proponent.store.bucket_changes import changing_in_bucket, sealed_mirror
from proponent.store.checksums import Checksums
from proponent.store.compatibility import joinable, refuse_other_tables
from proponent.store.deletion import changing, sweep
from proponent.store.files import finished, note_of, publish_bytes, publish_table, publish_tensors
from proponent.store.layout import Layout
from proponent.store.manifest import FORMAT, Manifest, Merging, PlannedSegment, canonical, read_json
from proponent.store.mapped import MappedTensors
from proponent.store.postings import Shard, write_postings
from proponent.store.reader import Store
from proponent.store.refit import Refit, refit_name
from proponent.store.repair import publish_manifest
from proponent.store.segment import Segment
from proponent.types import CheckpointId

SEGMENT_ROWS = 65_536
"""Maximum number of examples of a merged segment."""

SEGMENT_POSTINGS = 4_000_000
"""Maximum number of its postings, which bounds the memory of writing them."""


@dataclass(frozen=True)
class MergedSegment:
    """A planned segment."""

    planned: PlannedSegment  # its name and shards
    parts: tuple[Segment, ...]  # the source segments, in data order
    taken: tuple[tuple[tuple[int, int], ...], ...]  # per new shard, the old ones: (number of the part, shard)


def merge(
    folder: Path,
    others: Sequence[Path] = (),
    *,
    rows: int = SEGMENT_ROWS,
    waiting: Callable[[], None] | None = None,
    refit: Callable[[Sequence[Store]], Refit | None] = lambda _: None,
) -> tuple[Manifest, bool]:
    """Merge small segments into larger ones without their deleted examples, and other indexes into this one."""
    if sealed_mirror(folder) is not None:
        roots = [read_json(Layout(other).manifest, Manifest).merkle_root for other in others]
        with changing_in_bucket(folder, " ".join(["merge", str(rows), *roots])) as copy:
            return merge(copy, others, rows=rows, waiting=waiting, refit=refit)
    # `refit` fits again what depends on all examples; None if nothing changed.
    # A killed merge resumes; until it is finished the index is unchanged.
    with changing(folder, waiting) as store:
        stores = (store, *joinable(store, others))
        again = refit(stores)
        for other in stores[1:]:
            refuse_other_tables(store, other, again)
        generation = store.manifest.generation + 1
        path = store.layout.merging(generation)
        plan = _planned(stores, rows)
        held = read_json(path, Merging) if path.is_file() and finished(path) else None
        fresh = [one.planned for one in plan] != list(store.manifest.segments)
        if not fresh and again is None:
            sweep(store.layout, set(store.manifest.files))  # a merge killed after its seal leaves the old files
            return store.manifest, False
        merging = Merging(
            format=FORMAT,
            merkle_root=store.manifest.merkle_root,
            segments=[one.planned for one in plan],
            taken=[[[list(old) for old in shard] for shard in one.taken] for one in plan],
            others=[one.manifest.merkle_root for one in stores[1:]],
        )
        if held != merging:  # of an earlier state of the index, or absent
            sweep(store.layout, set(store.manifest.files))
            publish_bytes(path, [(canonical(merging.model_dump()) + "\n").encode()])
        for one in plan:
            if one.planned.name not in {segment.name for segment in store.segments}:
                _write(store, one)
        if again is not None:
            arrays = again.arrays({one.planned.name: one.parts for one in plan})
            publish_tensors(store.layout.refit(generation), arrays)
        return _seal(stores, generation, plan, again), True


def _planned(stores: Sequence[Store], rows: int) -> list[MergedSegment]:
    """Join neighbouring segments while they fit; a single segment of the index without deletions is unchanged."""
    store, groups = stores[0], list[list[Segment]]()
    for segment in [one for other in stores for one in other.segments]:
        together = [*groups[-1], segment] if groups else []
        live, postings = (
            sum(one.n - len(one.deleted) for one in together),
            sum(_postings(store, one) for one in together),
        )
        if together and live <= rows and postings <= SEGMENT_POSTINGS:
            groups[-1].append(segment)
        else:
            groups.append([segment])
    groups = [group for group in groups if any(one.n > len(one.deleted) for one in group)]
    first = 1 + max(int(segment.name) for segment in store.segments)
    joined: list[MergedSegment] = []
    for group in groups:
        whole = len(group) == 1 and not len(group[0].deleted) and group[0] in store.segments
        joined.append(_joined(group, group[0].name if whole else f"{first + len(joined):05d}", whole=whole))
    return [one for one in joined if one.planned.n]


def _postings(store: Store, segment: Segment) -> int:
    """The maximum number of postings of a segment at one checkpoint."""
    found = [segment.postings(one.id) for one in store.plan.checkpoints]
    return max((len(one) for one in found if one is not None), default=0)


def _joined(group: list[Segment], name: str, *, whole: bool) -> MergedSegment:
    """Lay out one new segment: old shards in order, small ones combined."""
    if whole:
        segment = group[0]
        planned = PlannedSegment(name=name, n=segment.n, shards=list(segment.bounds))
        return MergedSegment(planned, tuple(group), tuple(((0, shard),) for shard in range(len(segment.bounds) - 1)))
    largest = max(max(np.diff(segment.bounds).tolist(), default=0) for segment in group)
    taken: list[list[tuple[int, int]]] = []
    sizes: list[int] = []
    for number, segment in enumerate(group):
        kept = segment.kept
        for shard, (start, stop) in enumerate(zip(segment.bounds[:-1], segment.bounds[1:], strict=True)):
            live = int(kept[segment.order[start:stop]].sum())
            if not live:
                continue
            if sizes and sizes[-1] + live <= largest:
                taken[-1].append((number, shard))
                sizes[-1] += live
            else:
                taken.append([(number, shard)])
                sizes.append(live)
    bounds = [0, *np.cumsum(sizes).tolist()]
    planned = PlannedSegment(name=name, n=bounds[-1], shards=bounds)
    return MergedSegment(planned, tuple(group), tuple(map(tuple, taken)))


def _write(store: Store, one: MergedSegment) -> None:
    """Write the missing files of a new segment; its features come last."""
    layout, name = store.layout, one.planned.name
    if finished(layout.features(name)) is not None:
        return
    for at in (checkpoint.id for checkpoint in store.plan.checkpoints):
        for shard, olds in enumerate(one.taken):
            path = layout.shard(at, name, shard)
            if finished(path) is None:
                publish_tensors(path, _together([_cut(one.parts[part], at, old) for part, old in olds]))
    order = _order(one)
    columns = {
        column: _chained(one, lambda segment, column=column: _column(segment, column))
        for column in dict.fromkeys(name for segment in one.parts for name in segment.examples.names)
        if column != "place"
    }
    places = np.empty(one.planned.n, dtype=np.int32)
    places[order] = np.arange(one.planned.n, dtype=np.int32)
    if finished(layout.examples(name)) is None:
        numbers = np.asarray(columns["row"], dtype=np.int64)
        publish_table(layout.examples(name), {**columns, "row": numbers, "place": places})
    for at in (checkpoint.id for checkpoint in store.plan.checkpoints):
        path = layout.postings(at, name)
        if finished(path) is None and one.parts[0].postings(at) is not None:
            write_postings(path, one.planned.n, lambda names, at=at: _shards(layout, at, one, order, names))
    publish_tensors(layout.features(name), _features(one))


def _column(segment: Segment, name: str) -> list[Any]:
    """A column of a segment; only segments with conversations have the column of contents."""
    return segment.examples.column(name) if name in segment.examples.names else [None] * segment.n


def _cut(segment: Segment, at: CheckpointId, shard: int) -> dict[str, np.ndarray]:
    """The arrays of an old shard without its deleted examples."""
    examples, arrays = segment.shard(at, shard)
    kept = segment.kept[examples]
    cut: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        form, _, array = name.partition(".")
        if form == "meta":
            cut[name] = values[kept]
            continue
        counts = np.diff(arrays[f"{form}.indptr"])
        if array == "indptr":
            cut[name] = np.concatenate([[0], np.cumsum(counts[kept])])
        else:
            cut[name] = values[np.repeat(kept, counts)]
    return cut


def _together(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenate shards."""
    arrays: dict[str, np.ndarray] = {}
    for name in (one for one in parts[0] if all(one in other for other in parts)):  # earlier versions have fewer
        columns = [one[name] for one in parts]
        if name.endswith(".indptr"):
            arrays[name] = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(column) for column in columns]))])
        else:
            arrays[name] = np.concatenate(columns)
    return arrays


def _order(one: MergedSegment) -> Int[np.ndarray, " n"]:
    """Example (position in the new segment) at each place in its shards."""
    numbers: list[np.ndarray] = []
    begin = 0
    for segment in one.parts:
        kept = segment.kept
        fresh = begin + np.cumsum(kept) - 1
        numbers.append(np.where(kept, fresh, -1))
        begin += int(kept.sum())
    found: list[np.ndarray] = []
    for olds in one.taken:
        for part, shard in olds:
            segment = one.parts[part]
            examples = segment.order[segment.bounds[shard] : segment.bounds[shard + 1]]
            found.append(numbers[part][examples])
    order = np.concatenate(found)
    return order[order >= 0]


def _shards(
    layout: Layout, at: CheckpointId, one: MergedSegment, order: Int[np.ndarray, " n"], names: tuple[str, ...]
) -> Iterator[Shard]:
    bounds = one.planned.shards
    for shard, (start, stop) in enumerate(pairwise(bounds)):
        path = layout.shard(at, one.planned.name, shard)
        file = MappedTensors(path, finished(path))
        yield order[start:stop], {name: file.view(name) for name in names if name in file.names}


def _chained(one: MergedSegment, column: Callable[[Segment], list[object]]) -> list[object]:
    values: list[object] = []
    for segment in one.parts:
        kept = segment.kept.tolist()
        values += [value for value, stays in zip(column(segment), kept, strict=True) if stays]
    return values


def _features(one: MergedSegment) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name in one.parts[0].feature_names:
        if not all(name in segment.feature_names for segment in one.parts):
            continue  # segments of earlier versions have fewer
        axis = 1 if name == "losses" else 0
        parts = [np.compress(segment.kept, segment.features(name), axis=axis) for segment in one.parts]
        arrays[name] = np.concatenate(parts, axis=axis)
    return arrays


def _seal(stores: Sequence[Store], generation: int, plan: list[MergedSegment], again: Refit | None) -> Manifest:
    store, manifest, layout = stores[0], stores[0].manifest, stores[0].layout
    gone = {segment.name for segment in store.segments} - {one.planned.name for one in plan}
    replaced = {manifest.deleted} | ({refit_name(manifest.files)} if again is not None else set[str | None]())
    files: dict[str, Checksums] = {
        name: sums
        for name, sums in manifest.files.items()
        if name not in replaced and not any(f"/seg-{segment}" in name for segment in gone)
    }
    written = [*_paths(store, plan), layout.merging(generation)]
    written += [] if again is None else [layout.refit(generation)]
    for path in written:
        sums = finished(path)
        if sums is None:
            raise DamagedError(f"{path} disappeared while the index was merged: run `proponent merge` again")
        files[layout.name(path)] = sums
    deleted = [{one for segment in other.segments for one in _ids(segment)} for other in stores]
    notes = [note for other in stores for note in other.manifest.notes] if again is None else again.notes
    merged = manifest.model_copy(
        update={
            "generation": generation,
            "files": files,
            "sources": [one for other in stores for one in other.manifest.sources],
            "segments": [one.planned for one in plan],
            "deleted": "",
            "skipped": [
                one
                for other, ids in zip(stores, deleted, strict=True)
                for one in other.manifest.skipped
                if one.id not in ids
            ],
            "notes": list(dict.fromkeys(notes)),
        }
    )
    publish_manifest(layout, merged)
    for path in written:
        disk.remove(note_of(path))
    sweep(layout, set(files))
    return merged.sealed()


def _ids(segment: Segment) -> list[str]:
    if not len(segment.deleted):
        return []
    ids = segment.examples.column("id")
    return [ids[place] for place in segment.deleted.tolist()]


def _paths(store: Store, plan: list[MergedSegment]) -> list[Path]:
    """Files of the new segments."""
    layout, found = store.layout, list[Path]()
    for one in plan:
        name = one.planned.name
        if name in {segment.name for segment in store.segments}:
            continue
        found += [layout.examples(name), layout.features(name)]
        for at in (checkpoint.id for checkpoint in store.plan.checkpoints):
            found += [layout.shard(at, name, shard) for shard in range(len(one.taken))]
            if one.parts[0].postings(at) is not None:
                found.append(layout.postings(at, name))
    return found
