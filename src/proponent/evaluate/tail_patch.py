"""Tail-patch: one training step on one proponent from the final checkpoint; does the target become more likely?

Chang et al. 2024 (arXiv 2410.17413). A compromise between retraining and no training. Random rows are the control;
the figure depends on the step size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from proponent.errors import InputError
from proponent.models.trained_parts import free_trained, trained_of
from proponent.training.loop import Problem, gradient, one_thread
from proponent.training.schedule import Step, advance


def tail_patch(
    problem: Problem,
    model: nn.Module,
    proponents: Sequence["Sequence[int] | Int[np.ndarray, ' k']"],
    classes: Int[np.ndarray, " q"],
    rate: float,
    moments: Mapping[str, np.ndarray] | None = None,
    epsilon: float = 1e-8,
) -> Float[np.ndarray, "q k"]:
    """Take one step on each proponent, measure, and undo it."""
    if len({len(one) for one in proponents}) > 1:
        raise InputError("every query needs the same number of proponents")
    free_trained(model.eval(), trained_of(model))
    kept = {name: one.detach().clone() for name, one in model.named_parameters()}
    with one_thread():
        before = problem.outputs(model).of(classes, "probability")
        if len(before) != len(proponents):
            raise InputError(f"{len(before)} queries came with {len(proponents)} lists of proponents")
        changes = np.zeros((len(proponents), len(proponents[0]) if len(proponents) else 0))
        after: dict[int, np.ndarray] = {}
        for row in sorted({int(row) for one in proponents for row in one}):
            # Evaluation mode, nothing random: dropout would add noise to a single step.
            step = Step(0, np.asarray([row]), np.asarray([rate]))
            advance(model, step, lambda model, step: gradient(problem, model, step.rows), _Frozen(moments, epsilon))
            after[row] = problem.outputs(model).of(classes, "probability")
            with torch.no_grad():
                for name, one in model.named_parameters():
                    one.copy_(kept[name])
    model.zero_grad(set_to_none=True)
    for query, rows in enumerate(proponents):
        changes[query] = [100.0 * (after[int(row)][query] - before[query]) for row in rows]
    return changes


@dataclass(frozen=True)
class _Frozen:
    """Plain gradient descent; with second moments, Adam with constant moments."""

    moments: Mapping[str, np.ndarray] | None
    epsilon: float

    def apply(self, state: nn.Module, gradient: dict[str, Tensor], step: Step) -> nn.Module:
        """Update the weights in place."""
        named, moments = dict(state.named_parameters()), self.moments or {}
        with torch.no_grad():
            for name, one in gradient.items():
                known = torch.as_tensor(moments[name], device=one.device) if name in moments else None
                root = None if known is None else known.sqrt() + self.epsilon
                named[name].sub_(one if root is None else one / root, alpha=float(step.rates[0]))
        return state
