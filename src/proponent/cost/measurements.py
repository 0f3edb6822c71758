"""Measurements behind a forecast: batches through the model, files written to disk, memory."""

import hashlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from proponent.data import Examples
from proponent.disk import remove, scratch_folder, unwritable_named
from proponent.gradients.computer import GradientComputer
from proponent.gradients.gradient import Gradient
from proponent.models import Encoder
from proponent.models.placement import shown_bytes
from proponent.processes import memory
from proponent.store import RowKind
from proponent.store.files import publish_tensors
from proponent.store.postings import Shard, write_postings
from proponent.store.rows import encode_arrays

PUBLISHED = 48 * 2**20
"""Bytes written to measure the speed of the disk."""

HELD = 24 * 2**20
"""Maximum bytes of measured gradients that are held for the measurements of shards and postings."""

SCATTERED = 24 * 2**20
"""Bytes of rows converted to postings to measure the cost."""


@dataclass(frozen=True)
class Point:
    """One measured batch."""

    padded: int  # positions of the batch, padding included
    tokens: int  # tokens of its examples
    passing: float  # seconds of forward, backward and forms
    encoding: float  # seconds of tokenizing
    rows: int  # gradient rows stored
    wide: int  # bytes of its forms in 32-bit floats
    kept: int  # bytes of its forms as stored in a shard


@dataclass(frozen=True)
class Disk:
    """Cost of files on the disk of the future index, fsync and checksums included."""

    file: float  # seconds per file
    byte: float  # seconds per byte
    hashed: float  # seconds per byte that is only hashed


@dataclass(frozen=True)
class Scatter:
    """Cost of converting shards to postings."""

    put: float  # seconds per token of each shard
    byte: float  # seconds per byte of the postings


def timed(work: Callable[[], object]) -> float:
    """Measure the seconds of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak_during(work: Callable[[], object]) -> int | None:
    """Measure the peak memory of a call; None if the system does not report it."""
    seen, done = [memory()], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max((one for one in (*seen, memory()) if one is not None), default=None)


class DevicePeak:
    """Peak memory of GPUs from its making on; nothing on other devices."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._cards = [one for one in devices if one.startswith("cuda")]
        self.absent = not self._cards
        self._held = [torch.cuda.memory_allocated(one) for one in self._cards]
        self._peaks = self._held
        for one in self._cards:
            torch.cuda.reset_peak_memory_stats(one)

    def stop(self) -> None:
        """Read the peaks."""
        self._peaks = [torch.cuda.max_memory_allocated(one) for one in self._cards]

    def of(self, share: float) -> tuple[int | None, tuple[str, ...]]:
        """The peak in bytes of a pass with such a share of the measured positions; of several, which has how much."""
        found = [int(held + (peak - held) * share) for held, peak in zip(self._held, self._peaks, strict=True)]
        if len(found) < 2:
            return next(iter(found), None), ()
        named = ", ".join(f"{one} {shown_bytes(size)}" for one, size in zip(self._cards, found, strict=True))
        return max(found), (f"peak memory of the GPUs: {named}",)


def size(arrays: dict[str, np.ndarray]) -> int:
    """Return the total bytes of some arrays."""
    return sum(one.nbytes for one in arrays.values())


class Bench:
    """One loaded checkpoint that measures batches."""

    def __init__(
        self, work: GradientComputer, encoder: Encoder, examples: Examples, labels: list[int], kind: RowKind
    ) -> None:
        self.points: list[Point] = []
        self._work, self._encoder, self._examples, self._labels = work, encoder, examples, labels
        self._kind: RowKind = kind
        self._gradients: list[Gradient] = []

    def measure(self, rows: Int[np.ndarray, " k"], *, warm: bool = False) -> None:
        """Measure one batch."""
        began = time.perf_counter()
        encoded = self._encoder.encode([self._examples[int(row)] for row in rows])
        between = time.perf_counter()
        passed = self._work.train(encoded, [self._labels[int(row)] for row in rows])
        ended = time.perf_counter()
        if warm:
            return
        beside = [passed.losses, passed.bad, passed.probabilities, passed.pooled]
        meta = sum(one.nbytes for one in beside if one is not None)
        arrays, lengths = passed.gradient.pack(), [one.length for one in encoded]
        if sum(one.wide for one in self.points) < HELD:
            self._gradients.append(passed.gradient)
        self.points.append(
            Point(
                padded=len(rows) * max(lengths),
                tokens=sum(lengths),
                passing=ended - between,
                encoding=between - began,
                rows=0 if passed.gradient.rows is None else len(passed.gradient.rows.ids),
                wide=meta + size(arrays),
                kept=meta + size(encode_arrays(arrays, self._kind)),
            )
        )

    def shard(self) -> tuple[dict[str, np.ndarray], float]:
        """Lay out some of the measured gradients as a stored shard."""
        arrays: dict[str, np.ndarray] = {}
        spent = timed(lambda: arrays.update(Gradient.stack(self._gradients).pack()))
        wide = max(1, size(arrays))
        spent += timed(lambda: arrays.update(encode_arrays(arrays, self._kind)))
        return arrays, spent / wide


def measure_disk(folder: Path) -> Disk:
    """Publish files of an index, small and large, and remove them."""
    data = np.random.default_rng(0).bytes(PUBLISHED)
    array = np.frombuffer(data, dtype=np.uint8)
    small = [timed(partial(publish_tensors, folder / f"small-{i}", {"x": array[:64]})) for i in range(5)]
    file = sorted(small)[2]
    large = timed(partial(publish_tensors, folder / "large", {"x": array}))
    remove(folder / "large")
    hashing = timed(lambda: hashlib.sha256(data).digest())
    return Disk(file, max(0.0, large - file) / PUBLISHED, hashing / PUBLISHED)


def measure_scatter(folder: Path, arrays: dict[str, np.ndarray], disk: Disk) -> Scatter:
    """Convert a shard to postings, once whole and once in the shape of many small shards."""
    tokens = len(np.unique(arrays["rows.ids"]))
    parts = min(64, max(2, SCATTERED // max(1, arrays["rows.rows"].nbytes)))
    names = [name for name in arrays if name.startswith("rows.")]
    counts = np.tile(np.diff(arrays["rows.indptr"]), parts)
    whole = {name: np.concatenate([arrays[name]] * parts) for name in names if name != "rows.indptr"}
    whole["rows.indptr"] = np.concatenate([[0], np.cumsum(counts)])

    def shards(pieces: list[dict[str, np.ndarray]], wanted: tuple[str, ...]) -> Iterator[Shard]:
        for piece in pieces:
            places = np.arange(len(piece["rows.indptr"]) - 1)
            yield places, {name: piece[name] for name in wanted if name in piece}

    one = timed(lambda: write_postings(folder / "one", len(counts), partial(shards, [whole])))
    many = timed(lambda: write_postings(folder / "many", len(counts), partial(shards, [arrays] * parts)))
    written = (folder / "one").stat().st_size
    for name in ("one", "many"):
        remove(folder / name)
    put = max(0.0, many - one) / max(1, tokens * (parts - 1))
    return Scatter(put, max(0.0, one - disk.file - tokens * put) / written)


def distinct(ids: Int[np.ndarray, " k"], rows: Float[np.ndarray, " s"], most: int) -> Float[np.ndarray, " s"]:
    """Predict the number of distinct tokens in shards: it grows as a power of the number of rows."""
    half, whole = len(np.unique(ids[: len(ids) // 2])), len(np.unique(ids))
    power = min(1.0, max(0.0, float(np.log2(whole / half)))) if half else 1.0
    return np.minimum(most, whole * (rows / max(1, len(ids))) ** power)


def extrapolate(points: Sequence[tuple[float, float]], to: Float[np.ndarray, " b"]) -> Float[np.ndarray, " b"]:
    """Extrapolate a cost from measured batches to others: non-decreasing, and linear between two points."""
    levels: list[tuple[float, int]] = []
    ordered = sorted(points)
    for _, cost in ordered:
        levels.append((cost, 1))
        # decreasing neighbours are noise around their mean
        while len(levels) > 1 and levels[-2][0] > levels[-1][0]:
            (low, many), (high, more) = levels.pop(), levels.pop()
            levels.append(((low * many + high * more) / (many + more), many + more))
    sizes = np.asarray([one for one, _ in ordered], dtype=np.float64)
    costs = np.repeat([cost for cost, _ in levels], [many for _, many in levels])
    return np.interp(to, sizes, costs) * np.maximum(to / sizes[-1], 1.0) * np.minimum(to / sizes[0], 1.0)


@contextmanager
def index_scratch(folder: Path) -> Generator[Path]:
    """Create a folder on the disk of the future index, and remove it afterwards."""
    home = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir())
    with ExitStack() as stack:
        with unwritable_named(home):
            made = stack.enter_context(scratch_folder(home, ".proponent-plan-"))
        yield made
