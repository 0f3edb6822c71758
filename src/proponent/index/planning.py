"""Plan an index: its checkpoints, the class of every row, the split of the training set into segments and shards."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from proponent.data import Examples
from proponent.errors import DataError, InputError
from proponent.gradients.layer_vectors import LayerVectors
from proponent.method import LastOfEachRun, MidRun, Steps, Term
from proponent.models import Checkpoint, Run
from proponent.store import Plan, PlannedBlock, PlannedSegment, Store
from proponent.store.layout import Layout
from proponent.store.manifest import read_json
from proponent.types import CheckpointId

SEGMENT_TOKENS = 4_000_000
"""Maximum tokens per segment: the memory needed to write its postings grows with them."""

SHARD_BYTES = 32 * 2**20
"""Target size of one shard of embedding gradients."""

SHARD_ROWS = (64, 8192)
"""Minimum and maximum number of examples per shard."""

MIDDLE = 0.3, 0.7
"""Shares of a run's steps between which `mid-run` takes checkpoints (docs/decisions/0028-fine-tuned-encoders.md)."""


@dataclass(frozen=True)
class SegmentPlan:
    """One segment of the training set."""

    planned: PlannedSegment  # name and shards
    rows: range  # its examples
    order: Int[np.ndarray, " n"]  # example (place in the segment) at each place in the shards, shortest first
    lengths: Int[np.ndarray, " n"]  # tokens of each, in that order


def has_plan(folder: Path) -> bool:
    """Whether there is an index, finished or not."""
    return Layout(folder).plan.is_file()


def stores_otherwise(folder: Path, exact: Sequence[str], path: str) -> bool:
    """Whether an existing index stores these layers as vectors or other uses of a shared table, as earlier versions."""
    if not has_plan(folder):
        return False
    plan = read_json(Layout(folder).plan, Plan)
    return plan.embedding_path != path or any(block.name in exact for block in plan.blocks)


def planned_batch_size(folder: Path) -> int | None:
    """The batch size of an existing index; None where there is none."""
    plan = Layout(folder).plan
    return read_json(plan, Plan).source.batch_size if plan.is_file() else None


def plan_segments(lengths: Int[np.ndarray, " n"], width: int, most: int, first: int) -> list[SegmentPlan]:
    """Split a training set into segments of neighbouring rows, and each segment into shards of similar length."""
    cuts: list[SegmentPlan] = []
    begin = 0
    total: Int[np.ndarray, " m"] = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    while begin < len(lengths):
        end = bisect.bisect_right(total, int(total[begin]) + SEGMENT_TOKENS) - 1
        end = min(max(end, begin + 1), begin + most, len(lengths))
        own = lengths[begin:end]
        order: Int[np.ndarray, " k"] = np.lexsort((np.arange(len(own)), own))
        size = min(max(int(SHARD_BYTES / (max(1.0, float(own.mean())) * width * 4)), SHARD_ROWS[0]), SHARD_ROWS[1])
        bounds = [*range(0, len(own), size), len(own)]
        planned = PlannedSegment(name=f"{first + len(cuts):05d}", n=len(own), shards=bounds)
        cuts.append(SegmentPlan(planned, range(begin, end), order, own[order]))
        begin = end
    return cuts


def batches(lengths: Int[np.ndarray, " n"], start: int, stop: int, size: int, *, equal: bool) -> list[tuple[int, int]]:
    """Split a range of the length-sorted order into batches."""
    cuts: list[tuple[int, int]] = []
    begin = start
    for place in range(start + 1, stop + 1):
        if place == stop or place - begin == size or (equal and lengths[place] != lengths[begin]):
            cuts.append((begin, place))
            begin = place
    return cuts


def label_numbers(run: Run, examples: Examples) -> list[int]:
    """Return the class number of every training row."""
    return run.task.label_numbers(examples, examples.name)


def chosen(run: Run, steps: tuple[int, ...] | None, method: Term) -> tuple[Checkpoint, ...]:
    """Choose the checkpoints of an index."""
    checkpoints = method.checkpoints
    steps = checkpoints.at if steps is None and isinstance(checkpoints, Steps) else steps
    if steps is None and isinstance(checkpoints, MidRun):
        return tuple(one for some in _by_run(run) for one in _mid_run(some, checkpoints.count))
    if steps is None:
        last = tuple(some[-1] for some in _by_run(run))
        return last if isinstance(checkpoints, LastOfEachRun) else run.checkpoints
    _refuse_missing(run, steps)
    return tuple(one for one in run.saved if one.step in steps)


def _by_run(run: Run) -> list[list[Checkpoint]]:
    """Group the checkpoints of joined runs by run."""
    runs: dict[int, list[Checkpoint]] = {}
    for one in run.checkpoints:
        runs.setdefault(one.id.run, []).append(one)
    return [*runs.values()]


def _mid_run(saved: Sequence[Checkpoint], count: int) -> list[Checkpoint]:
    """Return the checkpoints of one run that are nearest to evenly spaced points in its middle."""
    low, high = MIDDLE
    points = [low + (high - low) * (at / (count - 1) if count > 1 else 0.5) for at in range(count)]
    last = saved[-1].step
    wanted = {min(saved, key=lambda one: (abs(one.step - point * last), one.step)).step for point in points}
    return [one for one in saved if one.step in wanted]


def _refuse_missing(run: Run, steps: tuple[int, ...]) -> None:
    """Require the named steps in every run: a missing run would not contribute to the scores."""
    saved: dict[int, list[int]] = {}
    for one in run.saved:
        saved.setdefault(one.id.run, []).append(one.step)
    for number, there in saved.items():
        missing = next((step for step in steps if step not in there), None)
        if missing is not None:
            of, home = CheckpointId(number, missing), ", ".join(map(str, run.joined or (run.path,)))
            raise InputError(f"no checkpoint at {of} in {home}: it has {', '.join(map(str, there))}")


def known_ids(store: Store, examples: Examples) -> list[str]:
    """Return the ids that an index already contains."""
    fresh = set(examples.ids)
    known: list[str] = []
    for segment in store.segments:
        gone = set(segment.deleted.tolist())
        known += [one for place, one in enumerate(segment.examples.column("id")) if one in fresh and place not in gone]
    return known


def refuse_ids(known: list[str], folder: Path, examples: Examples) -> None:
    """Refuse to append rows whose ids an index already contains."""
    if known:
        raise DataError(
            f"{len(known)} ids of {examples.name} are in {folder} already ({', '.join(known[:5])}): choose a column "
            "with unique ids with --id-column, or delete the old rows first"
        )


def shard_of(text: str | None) -> tuple[int, int] | None:
    """Parse the share of the shards that this process computes."""
    if text is None:
        return None
    left, slash, right = text.partition("/")
    if slash and left.isdigit() and right.isdigit() and int(left) < int(right):
        return int(left), int(right)
    raise InputError(f"--shard {text!r}: give i/N with i from 0 to N - 1, such as 0/4")


def refuse_empty_share(text: str | None, cuts: Sequence[SegmentPlan]) -> None:
    """Refuse a share without any shard, before anything is computed for it."""
    share, count = shard_of(text), sum(len(one.planned.shards) - 1 for one in cuts)
    if share is not None and share[0] >= count:
        held = "is 1 shard" if count == 1 else f"are {count} shards"
        raise InputError(f"--shard {text}: there {held} to share, so this share is empty: leave --shard out")


def planned_blocks(layers: LayerVectors | None) -> list[PlannedBlock]:
    """Describe chosen layers for the plan of an index."""
    if layers is None:
        return []
    shapes = layers.projection.shapes
    return [
        PlannedBlock(name=one.name, o=one.o, i=one.i, kept_o=shapes[one.name][0], kept_i=shapes[one.name][1])
        for one in layers.choice.blocks
    ]
