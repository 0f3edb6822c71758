"""Progress of an index build, from file names and notes on disk only; no shard is read."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from proponent.store.files import finished, note_of
from proponent.store.layout import Layout
from proponent.store.manifest import Plan, PlannedSegment, read_json
from proponent.types import CheckpointId


@dataclass(frozen=True)
class StepDone:
    """Finished work at one checkpoint."""

    id: CheckpointId  # of the checkpoint
    done: int  # examples with stored gradients


@dataclass(frozen=True)
class BuildProgress:
    """Progress of a build."""

    method: str  # name of the method
    data: str  # name of the data set
    n: int  # planned examples
    steps: tuple[StepDone, ...]  # finished work per checkpoint
    rate: float  # examples (times checkpoints) per second between the first and the last finished shard; 0 before two
    seconds_left: float | None  # at that rate, for the gradients; None without a rate
    idle: float | None  # seconds since the last finished shard; None before the first
    free_bytes: int  # space left on the disk
    joined: int  # segments whose postings are written at every checkpoint
    segments: int  # planned segments

    @property
    def done(self) -> int:
        """Finished examples, summed over the checkpoints."""
        return sum(one.done for one in self.steps)

    @property
    def share(self) -> float:
        """Share of the gradients that is finished, 0 to 1."""
        return self.done / max(1, self.n * len(self.steps))


def watch(folder: Path, now: float) -> BuildProgress:
    """Read the progress of an unfinished index."""
    layout = Layout(folder)
    plan = read_json(layout.plan, Plan)
    source = plan.source
    times: list[tuple[float, int]] = []
    steps: list[StepDone] = []
    for checkpoint in plan.checkpoints:
        found = [one for segment in source.segments for one in _shards(layout, segment, checkpoint.id)]
        times += found
        steps.append(StepDone(checkpoint.id, sum(count for _, count in found)))
    times.sort()
    spent = times[-1][0] - times[0][0] if len(times) > 1 else 0.0
    rate = sum(count for _, count in times[1:]) / spent if spent > 0 else 0.0
    left = source.n * len(steps) - sum(one.done for one in steps)
    joined = sum(
        all(finished(layout.postings(one.id, segment.name)) is not None for one in plan.checkpoints)
        for segment in source.segments
    )
    return BuildProgress(
        method=plan.method.name,
        data=source.data,
        n=source.n,
        steps=tuple(steps),
        rate=rate,
        seconds_left=left / rate if rate else None,
        idle=max(0.0, now - times[-1][0]) if times else None,
        free_bytes=shutil.disk_usage(folder).free,
        joined=joined,
        segments=len(source.segments),
    )


def _shards(layout: Layout, segment: PlannedSegment, at: CheckpointId) -> list[tuple[float, int]]:
    """When each finished shard was finished, and its number of examples."""
    found: list[tuple[float, int]] = []
    for shard in range(len(segment.shards) - 1):
        path = layout.shard(at, segment.name, shard)
        try:
            when = note_of(path).stat().st_mtime
        except OSError:
            continue
        found.append((when, segment.shards[shard + 1] - segment.shards[shard]))
    return found
