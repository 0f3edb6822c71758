"""Read an index without torch and without the model: plan, examples, forms and postings, segment by segment."""

import bisect
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from proponent.data import from_json
from proponent.errors import DamagedError, InputError
from proponent.labels import Labels
from proponent.store.checksums import Checksums, sums_of_file
from proponent.store.door import ANY, DOOR, refuse_links
from proponent.store.files import finished
from proponent.store.layout import Layout, array_name, no_index
from proponent.store.manifest import (
    FORMAT,
    Manifest,
    Plan,
    PlannedSegment,
    former_lines,
    merkle_root,
    read_json,
)
from proponent.store.mapped import TRANSIENT, MappedTensors
from proponent.store.mirror import mirror_of
from proponent.store.names import refuse_name
from proponent.store.refit import refit_name, refitted_table
from proponent.store.segment import Files, Opened, Segment
from proponent.types import CheckpointId, Example

OPEN_FILES = 256
"""Mapped files that stay open."""

_SPARED = ("forms/", "postings/")
"""Folders in which `allow_missing` accepts missing files."""


class Counts(NamedTuple):
    """Numbers of examples in an index; missing ones are in shards that are not on disk."""

    examples: int  # available in rankings
    deleted: int  # their bytes stay until the index is merged
    skipped: int  # without a finite loss or gradient, except deleted ones


class Store:
    """An index on disk."""

    def __init__(self, folder: Path, *, partial: bool = False, allow_missing: bool = False) -> None:
        self.folder = folder
        self.layout = Layout(folder)
        self._mirror = mirror_of(folder)
        if not self.layout.plan.is_file():
            raise InputError(no_index(folder))
        self.sealed = self.layout.manifest.is_file()
        if not self.sealed and not partial:
            read_json(self.layout.plan, Plan)  # an unfinished index of a newer version says so first
            raise InputError(
                f"the index at {folder} is unfinished: run the same `proponent index` command again to resume; or "
                "use the finished part with --partial (partial=True)"
            )
        self.allow_missing = allow_missing or not self.sealed
        self._whole: set[Path] = set()
        self.plan, self.manifest = self._read()
        self._open = lru_cache(maxsize=OPEN_FILES)(self._mapped)
        if self.sealed:
            self._check()
        else:
            refuse_links(folder)
        if former := former_lines(self.layout.plan):
            notes = list(dict.fromkeys([*self.manifest.notes, *former]))
            self.manifest = self.manifest.model_copy(update={"notes": notes})
        self.segments = self._segments()
        self.n = sum(segment.n for segment in self.segments)
        if not self.n:
            raise InputError(f"the index at {folder} has no data yet: run the same `proponent index` again")

    @property
    def features(self) -> "Features":
        """Arrays over all examples, by name; of the last checkpoint if they differ by checkpoint."""
        plan = self.plan
        always = {"skipped", "labels", "losses"}
        always |= {"probabilities", "mean_probabilities"} if plan.labels else set[str]()
        always |= {array_name("scale", one.id) for one in plan.checkpoints} if plan.scales_train else set[str]()
        always |= {"weights"} if plan.weighted else set[str]()
        return Features(self.segments, always)

    @property
    def examples(self) -> "TokenTable":
        """Columns over all examples, by name, in data order."""
        return TokenTable(self)

    @property
    def alive(self) -> np.ndarray:
        """Available examples: neither skipped nor deleted nor missing; boolean [n]."""
        return np.concatenate([segment.alive for segment in self.segments])

    @cached_property
    def counts(self) -> Counts:
        """Numbers of available and unavailable examples."""
        gone = sum(len(segment.deleted) for segment in self.segments)
        skipped = 0
        for segment in self.segments:
            bad = segment.features("skipped").copy()
            bad[segment.deleted] = False
            skipped += int(bad.sum())
        return Counts(int(self.alive.sum()), gone, skipped)

    def scale(self, at: CheckpointId) -> np.ndarray:
        """The factor of each training example's gradient."""
        return self.features[array_name("scale", at)] if self.plan.scales_train else np.ones(self.n)

    @property
    def coverage(self) -> float:
        """Share of the planned examples that is on disk; 1 for a complete index."""
        planned = sum(segment.n for source in self.manifest.sources for segment in source.segments)
        planned = self.n if self.sealed else planned
        lost = sum(
            segment.bounds[shard + 1] - segment.bounds[shard] for segment in self.segments for shard in segment.missing
        )
        return (self.n - lost) / planned

    def locate(self, example: int) -> tuple[Segment, int]:
        """Locate an example."""
        segment = self.segments[bisect.bisect_right(self.segments, example, key=lambda one: one.offset) - 1]
        return segment, example - segment.offset

    def take(self, name: str, examples: Int[np.ndarray, " m"]) -> list[Any]:
        """Read one column of some examples, without reading other rows."""
        found: list[Any] = [None] * len(examples)
        for segment, at in self._by_segment(examples):
            values = segment.examples.take(name, examples[at] - segment.offset)
            for place, value in zip(at.tolist(), values, strict=True):
                found[place] = value
        return found

    def lengths(self, examples: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
        """Count the characters of some examples' texts without storing the texts."""
        found: Int[np.ndarray, " m"] = np.zeros(len(examples), dtype=np.int64)
        for segment, at in self._by_segment(examples):
            found[at] = segment.examples.lengths("text", examples[at] - segment.offset)
        return found

    def _by_segment(self, examples: Int[np.ndarray, " m"]) -> Iterator[tuple[Segment, Int[np.ndarray, " k"]]]:
        for segment in self.segments:
            at = np.flatnonzero((examples >= segment.offset) & (examples < segment.offset + segment.n))
            if len(at):
                yield segment, at

    def row(self, example: int) -> dict[str, Any]:
        """The displayed fields of an example."""
        segment, place = self.locate(example)
        found = segment.examples.row(place)
        found.setdefault("source", None)
        if self.plan.labels:
            found["predicted"] = _predicted(segment.features("probabilities")[place], self.plan.labels)
        return {"predicted": None} | found | {"loss": float(segment.features("losses")[-1, place])}

    def example(self, place: int) -> Example:
        """One training example in its original form."""
        held = self.row(place)
        if held.get("content") is not None:
            return Example(
                str(held["id"]), int(held["row"]), label=held.get("label"), content=from_json(str(held["content"]))
            )
        texts = (str(held["text"]), held.get("label"), held.get("text_pair"), held.get("target"))
        return Example(str(held["id"]), int(held["row"]), *texts)

    def shards(self, at: CheckpointId) -> Iterator[tuple[Int[np.ndarray, " m"], dict[str, np.ndarray]]]:
        """Read a checkpoint's forms, shard by shard, in 32-bit floats."""
        from proponent.store.rows import decode_arrays

        for segment in self.segments:
            for places, arrays in segment.shards(at):
                yield segment.offset + places, decode_arrays(arrays)

    def table(self, at: CheckpointId) -> dict[str, np.ndarray]:
        """Read the table that a checkpoint's products need."""
        return self._open(self.layout.table(at)).all() | refitted_table(self.refit, at)

    @property
    def refit(self) -> MappedTensors | None:
        """Arrays that a merge fitted again, in place of those of tables and features."""
        name = refit_name(self.manifest.files)
        return None if name is None else self._open(self.folder / name)

    def _read(self) -> tuple[Plan, Manifest]:
        plan = read_json(self.layout.plan, Plan)
        if self.sealed:
            return plan, read_json(self.layout.manifest, Manifest)
        begun = [
            one for one in plan.source.segments if finished(self.layout.examples(one.name)) and self._any(plan, one)
        ]
        empty = Manifest(
            format=FORMAT,
            merkle_root="",
            files={},
            sources=[plan.source],
            segments=begun,
            skipped=[],
            notes=[],
            seconds={},
        )
        return plan, empty

    def _any(self, plan: Plan, segment: PlannedSegment) -> bool:
        """Whether any shard of an unfinished segment exists at every checkpoint."""
        return any(
            all(finished(self.layout.shard(one.id, segment.name, shard)) for one in plan.checkpoints)
            for shard in range(len(segment.shards) - 1)
        )

    def _segments(self) -> tuple[Segment, ...]:
        files = Files(
            self.layout,
            self._open,
            self._checked,
            self._has,
            tuple(one.id for one in self.plan.checkpoints),
            self.plan.labels,
            self.refit,
        )
        deleted, opened = self._deleted(), Opened(files)
        found: list[Segment] = []
        offset = 0
        for planned in self.manifest.segments:
            own = deleted[(deleted >= offset) & (deleted < offset + planned.n)] - offset
            found.append(Segment(planned, offset, files, opened, own, incomplete=self.allow_missing))
            offset += planned.n
        return tuple(found)

    def _deleted(self) -> Int[np.ndarray, " m"]:
        if not self.manifest.deleted:
            return np.zeros(0, dtype=np.int64)
        if self.manifest.deleted not in self.manifest.files:
            raise DamagedError(f"{self.layout.manifest} refers to missing tombstones: build the index again")
        return self._open(self.folder / self.manifest.deleted).view("deleted").astype(np.int64)

    def _check(self) -> None:
        """Run the cheap checks: the seal, the plan, and that every file exists, is a file, and has its size."""
        files = self.manifest.files
        sealed = self.manifest.digest == self.manifest.own_digest() and self.manifest.merkle_root == merkle_root(files)
        if not sealed:
            raise DamagedError(
                f"{self.layout.manifest} differs from what was written (its digest differs): build it again"
            )
        self._checked(self.layout.plan)
        for name, sums in files.items():
            problem = refuse_name(self.folder, name) or _problem(self.folder / name, sums)
            if problem and not (self.allow_missing and name.startswith(_SPARED)):
                raise DamagedError(f"{self.folder / name} {problem}: {self._way_out(name)}")

    def _way_out(self, name: str) -> str:
        """How to restore a missing file, and how to continue without it."""
        one = self.manifest.generation == 1  # else one run and one data set do not recreate it
        again = "run the same `proponent index` command again with --repair" if one else "build the index again"
        without = " (or continue without it: `proponent explain --allow-missing`, allow_missing=True)"
        return f"restore it, or {again}" + (without if name.startswith(_SPARED) else "")

    def _sums(self, path: Path) -> Checksums | None:
        return self.manifest.files.get(self.layout.name(path)) if self.sealed else finished(path)

    def _has(self, path: Path) -> bool:
        sums = self._sums(path)
        return sums is not None and _problem(path, sums) is None

    def _mapped(self, path: Path) -> MappedTensors:
        sums = self._sums(path)
        if sums is None and not self.sealed:
            raise InputError(f"{path} is not there yet: run the same `proponent index` command again to resume")
        if sums is None:
            raise DamagedError(f"{path} is not part of the index: build it again")
        if self._mirror is None:
            return MappedTensors(path, sums)
        remote = self._mirror.file(path)
        remote.refuse_removed()
        return MappedTensors(path, sums, remote.fill)

    def _checked(self, path: Path) -> Path:
        """Check a whole file against its checksums before its first use."""
        if path not in self._whole:
            sums = self._sums(path)
            if self._mirror is not None and sums is not None:
                self._mirror.fetch(path, sums)
            try:
                right = sums is not None and sums_of_file(path) == sums
            except OSError as error:
                if error.errno in TRANSIENT:
                    raise
                right = False
            if not right:
                raise DamagedError(f"{path} differs from what was written: restore it, or build the index again")
            self._whole.add(path)
        return path


class Features(Mapping[str, np.ndarray]):
    """Arrays over the examples of several segments, concatenated on access."""

    def __init__(self, segments: tuple[Segment, ...], always: Collection[str]) -> None:
        self._segments, self._always = segments, always

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self:
            raise KeyError(name)
        parts = [segment.features(name) for segment in self._segments]
        return np.concatenate(parts, axis=1 if name == "losses" else 0)

    def __contains__(self, name: object) -> bool:
        return name in self._always or all(name in segment.feature_names for segment in self._segments)

    def __iter__(self) -> Iterator[str]:
        return iter(self._segments[0].feature_names)

    def __len__(self) -> int:
        return len(self._segments[0].feature_names)


class TokenTable(Mapping[str, list[Any]]):
    """Columns over the examples of an index, read on access."""

    NAMES = ("id", "row", "text", "text_pair", "target", "content", "label", "source", "predicted", "loss")

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self.NAMES:
            raise KeyError(name)
        if name == "loss":
            return self._store.features["losses"][-1].tolist()
        labels = self._store.plan.labels
        if name == "predicted":
            if not labels:
                return [None] * self._store.n
            return [_predicted(one, labels) for one in self._store.features["probabilities"]]
        parts = [
            segment.examples.column(name) if name in segment.examples.names else [None] * segment.n
            for segment in self._store.segments
        ]
        return [value for part in parts for value in part]

    def __contains__(self, name: object) -> bool:
        return name in self.NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(self.NAMES)

    def __len__(self) -> int:
        return len(self.NAMES)


def _problem(path: Path, sums: Checksums) -> str | None:
    try:
        size = DOOR.check(path, most=ANY)
    except DamagedError as error:
        return str(error).removeprefix(f"{path} ").partition(":")[0]
    except OSError as error:
        if error.errno in TRANSIENT:
            raise
        return "is missing"
    return None if size == sums.size else f"has {size} bytes, not {sums.size}"


def _predicted(row: np.ndarray, labels: Labels) -> str | None:
    """The likeliest class; None if the model's output is not finite."""
    return labels.name(int(row.argmax())) if np.isfinite(row).all() else None
