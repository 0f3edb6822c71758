"""The method replay: the exact derivative of an output through the recorded training, by example and by word.

Nothing is stored between queries: the training is replayed, compared with the saved weights, differentiated, and
tested by retraining with changed weights of a few examples. If this test shows that the training is not smooth, no
examples are ranked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, get_args

import numpy as np

from proponent.data import Examples
from proponent.dynamics.derivative import Derivative, Smoothness
from proponent.dynamics.loops import LoopScores, Query
from proponent.dynamics.replay_engine import Curvature, Replay
from proponent.errors import InputError, RunError
from proponent.index.planning import label_numbers
from proponent.models import Run

TRIED = 3
"""Number of examples whose weight is changed to test whether training is smooth."""

CAVEAT = (
    "A score is the exact derivative of the query's loss with respect to the weight of a training example in this "
    "one training run, with fixed initial weights, data order and random draws. Removing an example completely is a "
    "larger change than a derivative describes."
)
NOTES = (
    "a word's share is the derivative with respect to a factor on its embedding during training, and a score is the "
    "derivative with respect to a factor on the example's loss: the shares need not sum to the score",
    "initial weights, data order and random draws are those of this one run: do not compare these scores with "
    "figures averaged over seeds",
)


APPROXIMATE = {
    "fisher": "with each batch's empirical Fisher matrix in place of its Hessian",
    "none": "without the effect of a change on the gradients of later steps",
}
APPROXIMATE_CAVEAT = (
    "A score approximates the derivative of the query's loss with respect to the weight of a training example in this "
    "one training run, with fixed initial weights, data order and random draws; the method replay computes it exactly."
)


@dataclass(frozen=True)
class ReplayResult:
    """A training that was replayed, differentiated and tested."""

    deviation: float  # of the replayed weights, relative to how far training moved them
    derivative: Derivative
    smoothness: Smoothness  # tested with the first query

    def description(self) -> str:
        """Describe how far the derivative can be trusted, in one line."""
        one = self.smoothness
        return (
            f"smoothness {one.ratio:.3f} (observed change over predicted change, for {len(one.rows)} examples with "
            f"weights 1 % up and down; 1 is smooth), relative error {one.error:.2g}; the replayed final weights "
            f"differ from the saved weights by {self.deviation:.1e}"
        )


def replayed(
    run: Run,
    examples: Examples,
    queries: Sequence[Query],
    *,
    curvature: Curvature = "exact",
    max_length: int | None = None,
    quiet: bool = False,
) -> ReplayResult:
    """Replay a run and differentiate some outputs."""
    work = Replay(run, list(examples), label_numbers(run, examples), max_length=max_length, quiet=quiet)
    deviation = work.deviation()
    found = work.derivative(queries, curvature)
    rows = np.argsort(-np.abs(found.scores[0]), kind="stable")[:TRIED].tolist()
    return ReplayResult(deviation, found, work.smoothness(queries[0], found, rows))


def scores(
    run: Run,
    examples: Examples,
    queries: Sequence[Query],
    *,
    curvature: str = "exact",
    max_length: int | None = None,
    quiet: bool = False,
) -> LoopScores:
    """Score the training set, unless its training is not smooth; `unroll` approximates the curvature of later steps."""
    if curvature not in get_args(Curvature):
        raise InputError(f"curvature {curvature!r}: choose one of {', '.join(get_args(Curvature))}")
    how = cast("Curvature", curvature)
    found = replayed(run, examples, queries, curvature=how, max_length=max_length, quiet=quiet)
    smoothness, derivative = found.smoothness, found.derivative
    if curvature != "exact":
        used = f"every recorded step was replayed, {APPROXIMATE[curvature]}"
        return LoopScores(derivative.scores, used, found.description(), NOTES, APPROXIMATE_CAVEAT, derivative.of_words)
    if not smoothness.smooth:
        raise RunError(
            f"the training of {run.path} is not smooth: changing the weights of examples by 1 % changes the output "
            f"{smoothness.ratio:.3g} times as much as the derivative predicts (relative error "
            f"{smoothness.error:.2g}), so the ranking would be noise: train with a larger --adam-epsilon (1e-3), a "
            "smaller --learning-rate, or smooth activations (gelu), or use a method with an index"
        )
    used = "every recorded step was replayed"
    return LoopScores(derivative.scores, used, found.description(), NOTES, CAVEAT, derivative.of_words)
