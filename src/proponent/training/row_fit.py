"""How well a trained model fits the rows that it was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from proponent.models import Run
from proponent.models.run_record import FRESH
from proponent.training.rerun import RunProblem
from proponent.types import Example

MOST_ROWS = 1000
"""Rows that are looked at; drawn if there are more."""


@dataclass(frozen=True)
class RowFit:
    """Loss and accuracy at the last checkpoint."""

    rows: int  # that were looked at
    loss: float  # mean over the rows, in nats: of the label, or of the mean counted token
    accuracy: float | None  # share of rows whose label is the likeliest class; None of a language model


def row_fit(run: Run, examples: Sequence[Example]) -> RowFit:
    """Measure loss and accuracy on at most MOST_ROWS rows, without dropout.

    Args:
        run: a classifier or a language model.
        examples: its training set.

    Returns:
        The figures.

    Raises:
        InputError: rows that the run cannot read.
    """
    chosen = np.random.default_rng(0).permutation(len(examples))[:MOST_ROWS]
    rows = [examples[int(at)] for at in np.sort(chosen)]
    problem = RunProblem(run, rows, rows, FRESH, run.length(None))
    found = problem.outputs(run.load(run.checkpoints[-1]))
    right = found.predicted == problem.query_labels if run.task.labels else None
    return RowFit(len(rows), float(found.loss.mean()), None if right is None else float(right.mean()))
