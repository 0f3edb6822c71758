"""Notes on the checkpoints of an index: too few of them, or only the last one."""

from collections.abc import Iterator, Sequence

from proponent.method import EmbeddingRows, Gradients, MidRun, Term
from proponent.models import Checkpoint, Run

FEW = 5
"""A build of rows by direction with fewer checkpoints per run says that more are better (docs/log.md)."""


def too_few(method: Term, run: Run, checkpoints: Sequence[Checkpoint]) -> Iterator[str]:
    """Say what a lack of checkpoints costs a method."""
    if not isinstance(method, Gradients):
        return
    runs = {one.id.run for one in checkpoints}
    directed = isinstance(method.gradient, EmbeddingRows) and method.gradient.direction is not None
    if directed and len(checkpoints) < FEW * len(runs):
        yield (
            f"checkpoints used: {len(checkpoints)}; {method.name} works best with about ten checkpoints per run "
            "(proponent train --checkpoints 10, proponent.Recorder(checkpoints=10))"
        )
    last = {one.id.run: one.id for one in run.checkpoints}
    ends = sorted(one for one in runs if [each.id for each in checkpoints if each.id.run == one] == [last[one]])
    if isinstance(method.checkpoints, MidRun) and ends:
        whose = "the run has" if len(last) == 1 else f"{len(ends)} of {len(last)} runs have"
        yield (
            f"{whose} only the last checkpoint, whose scores were worse than those of earlier ones in measurements "
            "(LDS within class .29 against .39 on SST-2): keep four (proponent train, "
            "proponent.Recorder(checkpoints=4))"
        )
