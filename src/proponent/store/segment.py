"""One segment of an index, read lazily: examples, features, forms, postings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import xxhash
from jaxtyping import Bool, Int, UInt64

from proponent.data import StoredExamples
from proponent.errors import DamagedError, InputError
from proponent.labels import Labels
from proponent.store.checks import check_features, check_shard
from proponent.store.features import gather_features
from proponent.store.layout import Layout, array_name
from proponent.store.manifest import PlannedSegment
from proponent.store.mapped import MappedTensors
from proponent.store.postings import Postings, Shard
from proponent.store.rows import decode_arrays
from proponent.types import CheckpointId

OPEN_TABLES = 64
"""Segments whose files of examples stay open: memory does not grow with the number of segments."""

OPEN_POSTINGS = 512
"""Postings, over all segments and checkpoints, that stay open; each takes a file descriptor."""


def refitted_scale(at: CheckpointId, segment: str) -> str:
    """Name of the factors of a segment's examples among the arrays that a merge fitted again."""
    return f"{array_name('scale', at)}.{segment}"


@dataclass(frozen=True)
class Files:
    """File access of a segment."""

    layout: Layout  # their names
    tensors: Callable[[Path], MappedTensors]  # opens a safetensors file, verified on access
    whole: Callable[[Path], Path]  # verifies a whole file that is read by other means
    has: Callable[[Path], bool]  # whether a file exists and is finished
    checkpoints: tuple[CheckpointId, ...]
    labels: Labels  # the classes
    refit: MappedTensors | None = None  # arrays that a merge fitted again


class Opened:
    """What is open of all segments of an index; the least recently used is closed."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.examples = lru_cache(maxsize=OPEN_TABLES)(self._examples)
        self.places = lru_cache(maxsize=OPEN_TABLES)(self._places)
        self.order = lru_cache(maxsize=OPEN_TABLES)(self._order)
        self.postings = lru_cache(maxsize=OPEN_POSTINGS)(self._postings)

    def _examples(self, segment: str, n: int) -> StoredExamples:
        found = StoredExamples(self._files.whole(self._files.layout.examples(segment)))
        if len(found) != n:
            raise DamagedError(f"{found.path} contains {len(found)} examples, not {n}: build the index again")
        return found

    def _places(self, segment: str, n: int) -> Int[np.ndarray, " n"]:
        examples = self.examples(segment, n)
        places = np.asarray(examples.column("place") or np.zeros(0, dtype=np.int64))
        if places.dtype.kind != "i" or not np.array_equal(np.sort(places), np.arange(n)):
            raise DamagedError(f"{examples.path}: its positions do not match {n} examples: build it again")
        return places.astype(np.int32)

    def _order(self, segment: str, n: int) -> Int[np.ndarray, " n"]:
        return np.argsort(self.places(segment, n)).astype(np.int32)

    def _postings(self, path: Path, n: int) -> Postings | None:
        return Postings(self._files.tensors(path), n) if self._files.has(path) else None


class Segment:
    """A part of the training set that is stored and searched as a unit."""

    def __init__(
        self,
        planned: PlannedSegment,
        offset: int,
        files: Files,
        opened: Opened,
        deleted: Int[np.ndarray, " m"],
        *,
        incomplete: bool,
    ) -> None:
        self.name, self.n, self.offset = planned.name, planned.n, offset
        self.bounds = planned.shards
        self.deleted = deleted
        self._files, self._shared, self._incomplete = files, opened, incomplete

    @property
    def examples(self) -> StoredExamples:
        """The user's data: id, row, text, text_pair, target, label, source; and the place in the shards."""
        return self._shared.examples(self.name, self.n)

    @property
    def places(self) -> Int[np.ndarray, " n"]:
        """Place in the shards of each example."""
        return self._shared.places(self.name, self.n)

    @property
    def order(self) -> Int[np.ndarray, " n"]:
        """Example of each place in the shards."""
        return self._shared.order(self.name, self.n)

    @cached_property
    def missing(self) -> tuple[int, ...]:
        """Shards that do not exist at every checkpoint; empty for a complete segment."""
        if not self._incomplete:
            return ()
        layout, has = self._files.layout, self._files.has
        return tuple(
            shard
            for shard in range(len(self.bounds) - 1)
            if not all(has(layout.shard(at, self.name, shard)) for at in self._files.checkpoints)
        )

    @cached_property
    def alive(self) -> Bool[np.ndarray, " n"]:
        """Available examples: neither skipped nor deleted nor in a missing shard."""
        alive = ~self.features("skipped")
        alive[self.deleted] = False
        for shard in self.missing:
            alive[self.order[self.bounds[shard] : self.bounds[shard + 1]]] = False
        return alive

    @property
    def kept(self) -> Bool[np.ndarray, " n"]:
        """Examples that are not deleted."""
        kept = np.ones(self.n, dtype=np.bool_)
        kept[self.deleted] = False
        return kept

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the arrays over the examples."""
        return tuple(self._gathered) if self._features is None else self._features.names

    def features(self, name: str) -> np.ndarray:
        """An array over the examples: "skipped" [n], "labels" [n], "losses" [c n], "probabilities" [n l] ..."""
        if self._features is None:
            if name.startswith("scale.") or name == "weights":
                raise InputError(
                    "this index is unfinished, and the factors of its gradients (norms, weights) are written last: run "
                    "the same `proponent index` command again to resume"
                )
            return self._gathered[name]
        refit, again = self._files.refit, f"{name}.{self.name}"
        file, held = (refit, again) if refit is not None and again in refit.names else (self._features, name)
        array = file.view(held)
        check_features(file, held, array, self.n, len(self._files.labels))
        return array

    def postings(self, at: CheckpointId) -> Postings | None:
        """Postings of a checkpoint; None if there are none, or shards are missing."""
        if self.missing:
            return None
        return self._shared.postings(self._files.layout.postings(at, self.name), self.n)

    def shards(self, at: CheckpointId, names: tuple[str, ...] | None = None) -> Iterator[Shard]:
        """Read a checkpoint's gradients in their stored form, shard by shard."""
        for shard in range(len(self.bounds) - 1):
            if shard not in self.missing:
                yield self.shard(at, shard, names)

    def shard(self, at: CheckpointId, number: int, names: tuple[str, ...] | None = None) -> Shard:
        """Read one shard in its stored form."""
        file = self._shard(at, number)
        wanted = file.names if names is None else [name for name in names if name in file.names]
        examples = self.order[self.bounds[number] : self.bounds[number + 1]]
        return examples, {name: file.view(name) for name in wanted}

    def arrays(self, at: CheckpointId, example: int) -> dict[str, np.ndarray]:
        """Read the gradients of one example without reading its shard."""
        place = int(self.places[example])
        shard = int(np.searchsorted(self.bounds, place, side="right")) - 1
        file, position = self._shard(at, shard), place - self.bounds[shard]
        taken: dict[str, np.ndarray] = {}
        for start_name in file.names:
            form, _, array = start_name.partition(".")
            if form == "meta" or array != "indptr":
                continue
            start, stop = file.view(start_name, position, position + 2).tolist()
            taken[start_name] = np.asarray([0, stop - start])
            for name in file.names:
                if name.startswith(f"{form}.") and name != start_name:
                    taken[name] = file.view(name, start, stop).copy()
        return decode_arrays(taken)

    def _shard(self, at: CheckpointId, shard: int) -> MappedTensors:
        if (at, shard) in self._opened:
            return self._files.tensors(self._opened[at, shard])
        path = self._files.layout.shard(at, self.name, shard)
        file = self._files.tensors(path)
        check_shard(file, self.bounds[shard + 1] - self.bounds[shard])
        self._opened[at, shard] = path
        return file

    @cached_property
    def _opened(self) -> dict[tuple[CheckpointId, int], Path]:
        """Shards that were checked, and their names: building the names takes longer than looking up an open file."""
        return {}

    @property
    def _features(self) -> MappedTensors | None:
        return self._files.tensors(self._features_path) if self._has_features else None

    @cached_property
    def _features_path(self) -> Path:
        return self._files.layout.features(self.name)

    @cached_property
    def _has_features(self) -> bool:
        return self._files.has(self._features_path)

    @cached_property
    def _gathered(self) -> dict[str, np.ndarray]:
        """Features of an unfinished segment, from its existing shards."""
        known = {name: number for number, name in enumerate(self._files.labels)}
        labels = [known.get(one, -1) for one in self.examples.column("label")]
        return gather_features(self.n, labels, {at: self.shards(at) for at in self._files.checkpoints})


def kept_ids(segment: Segment) -> list[str]:
    """Ids of the examples that are not deleted; those without one are left out."""
    pairs = zip(segment.examples.column("id"), segment.kept.tolist(), strict=True)
    return [one for one, kept in pairs if kept and one is not None]


def hashed_ids(segment: Segment) -> UInt64[np.ndarray, " k"]:
    """Hashes of `kept_ids`."""
    return np.fromiter((xxhash.xxh3_64_intdigest(one.encode()) for one in kept_ids(segment)), dtype=np.uint64)
