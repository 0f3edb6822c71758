"""Tail-patch: one training step on one proponent from the final checkpoint; does the target become likelier?

Chang et al. 2024 (arXiv 2410.17413). Stands between retraining and no training; random rows are the control, and
the step size belongs to the figure.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from proponent.errors import InputError
from proponent.training.loop import Problem, gradient, one_thread


def tail_patch(
    problem: Problem,
    model: nn.Module,
    proponents: Sequence["Sequence[int] | Int[np.ndarray, ' k']"],
    classes: Int[np.ndarray, " q"],
    rate: float,
    moments: Mapping[str, np.ndarray] | None = None,
    epsilon: float = 1e-8,
) -> Float[np.ndarray, "q k"]:
    """Take one step on each proponent, measure, and take it back."""
    if len({len(one) for one in proponents}) > 1:
        raise InputError("every query needs equally many proponents")
    model.eval().requires_grad_(requires_grad=True)
    kept = {name: one.detach().clone() for name, one in model.named_parameters()}
    with one_thread():
        before = problem.outputs(model).of(classes, "probability")
        if len(before) != len(proponents):
            raise InputError(f"{len(before)} queries came with {len(proponents)} lists of proponents")
        changes = np.zeros((len(proponents), len(proponents[0]) if len(proponents) else 0))
        after: dict[int, np.ndarray] = {}
        for row in sorted({int(row) for one in proponents for row in one}):
            _patch(problem, model, row, rate, moments, epsilon)
            after[row] = problem.outputs(model).of(classes, "probability")
            with torch.no_grad():
                for name, one in model.named_parameters():
                    one.copy_(kept[name])
    for query, rows in enumerate(proponents):
        changes[query] = [100.0 * (after[int(row)][query] - before[query]) for row in rows]
    return changes


def _patch(
    problem: Problem, model: nn.Module, row: int, rate: float, moments: Mapping[str, np.ndarray] | None, epsilon: float
) -> None:
    """One step, in evaluation mode: dropout would add noise to a single step."""
    named = dict(model.named_parameters())
    grads = gradient(problem, model, row)
    with torch.no_grad():
        for name, grad in grads.items():
            turned = grad
            if moments is not None and name in moments:
                turned = grad / (torch.as_tensor(moments[name]).sqrt() + epsilon)
            named[name].sub_(turned, alpha=rate)
