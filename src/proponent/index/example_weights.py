"""Example weights in an index: the gradient of an example counts as often as its loss did in the training."""

from collections.abc import Iterator

import numpy as np

from proponent.data import Examples
from proponent.method import Baseline, Retaken, Term
from proponent.models import Run
from proponent.models.example_weights import weight_column
from proponent.preconditioners.base import preconditioners_of


def weight_notes(run: Run, examples: Examples, method: Term) -> Iterator[str]:
    """Describe the weights of a training set; nothing without weights."""
    weights, column = examples.weights, examples.columns.weight
    if weights is None:
        return
    if isinstance(method, Baseline):
        yield f"the weights of column {column} do not count: {method.name} uses no gradients"
        return
    size = float(weights.sum() ** 2 / np.square(weights).sum())
    yield (
        f"each training gradient counts by the weight of its example (column {column}): {weights.min():.3g} to "
        f"{weights.max():.3g}, effective sample size {size:,.0f} of {len(weights):,}"
    )
    if weight_column(run) is None:
        yield f"{run.path} has no record of a training with weights: the weights are those that you name"
    if isinstance(method, Retaken) or preconditioners_of(method) or method.prepare:
        yield f"{method.name}: matrices, document frequencies and heads are fitted to the training set without weights"
