"""Refit the last layer of a classifier with an L2 penalty, before any gradient is computed."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from proponent.errors import InputError
from proponent.gradients.layer_hooks import Call
from proponent.gradients.layer_rules import Block, OneHot
from proponent.gradients.model_parts import classifier_head
from proponent.method import Gradients
from proponent.method_parts import RefitHead
from proponent.models.placement import host
from proponent.preconditioners import base
from proponent.preconditioners.base import BuildOptions, Cost, FitFacts, ModelFacts, Pass, counted
from proponent.preconditioners.batches import EACH, Arrays, Batch, Computer, LayerShape, Parts, Sums, TextBatch
from proponent.preconditioners.gauss_newton import ggn

STEPS = 100
"""Maximum number of Newton steps of a refit."""


class Fitter(base.Fitter):
    """Fits the last layer on the features of the training set."""

    def __init__(self, spec: RefitHead, method: Gradients) -> None:
        self.spec, self.method = spec, method

    def check(self, facts: ModelFacts) -> None:
        """Refuse models without classes, and layers other than the head."""
        if facts.classes is None:
            raise InputError(f"{self.method.name} refits a classification head, and this run is a language model")
        if [layer.o for layer in facts.layers] != [facts.classes]:
            raise InputError(f"{self.method.name} refits the last layer: its layers must be head, without biases")

    def passes(self, options: BuildOptions) -> tuple[Pass, ...]:
        """One pass over the texts."""
        return (Pass("features", "texts", "before"),)

    def arrays(self, layers: Sequence[LayerShape]) -> tuple[str, ...]:
        """Array names whose presence in a table means that fitting is done."""
        return ("refit",)

    def partial(self, this: Pass, batch: Batch, known: Arrays, group: Sequence[LayerShape]) -> Parts:
        """The inputs of the head, example by example."""
        assert isinstance(batch, TextBatch)
        (block,) = cast("Sequence[Block]", batch.projection.blocks)
        (call,) = cast("Sequence[Call]", batch.calls[block.name])
        assert not isinstance(call.left, OneHot)
        place = call.left.abs().sum(-1).argmax(1)  # a decoder's head reads every position; only one of them counts
        inputs = host(call.right[torch.arange(len(place), device=place.device), place]).astype(np.float64)
        yield f"{EACH}inputs", inputs
        yield f"{EACH}labels", np.asarray(batch.labels, dtype=np.int64)

    def reduce(self, this: Pass, sums: Sums, known: Arrays, group: Sequence[LayerShape]) -> Arrays:
        """Fit the layer."""
        (layer,) = group
        weight = fitted_head(sums[f"{EACH}inputs"], sums[f"{EACH}labels"], layer.o, self.spec.penalty)
        return {"refit": weight.astype(np.float32)}

    def install(self, computer: Computer, table: Arrays) -> None:
        """Replace the trained layer by the fitted one, without bias."""
        head = classifier_head(computer.model)
        with torch.no_grad():
            head.weight.copy_(torch.as_tensor(table["refit"]))
            if cast("Tensor | None", head.bias) is not None:
                head.bias.zero_()

    def describe(self, table: Arrays, facts: FitFacts) -> list[str]:
        """Describe the fit."""
        return [f"the last layer was refitted, without bias, under an L2 penalty of {self.spec.penalty:g}"]

    def cost(self, facts: ModelFacts) -> Cost:
        """A pass, and the stored layer."""
        return counted(self.passes(facts.options), sum(4 * layer.o * layer.i for layer in facts.layers))


def fitted_head(
    a: Float[np.ndarray, "n i"], labels: Int[np.ndarray, " n"], classes: int, penalty: float
) -> Float[np.ndarray, "l i"]:
    """Minimise mean cross-entropy + penalty ||W||^2 by damped Newton steps (no bias)."""
    n, i = a.shape
    weight: Float[np.ndarray, "l i"] = np.zeros((classes, i))
    truth = np.eye(classes)[labels]
    for _ in range(STEPS):
        p = _softmax(a @ weight.T)
        gradient = (p - truth).T @ a / n + 2.0 * penalty * weight
        if float(np.abs(gradient).max()) < 1e-10 * max(1.0, float(np.abs(a).max())):
            return weight
        hessian = ggn(a, p) + 2.0 * penalty * np.eye(classes * i)
        step = cast("np.ndarray", np.linalg.solve(hessian, gradient.ravel())).reshape(classes, i)
        slope, size, before = float((gradient * step).sum()), 1.0, _cost(a, truth, weight, penalty)
        while _cost(a, truth, weight - size * step, penalty) > before - 1e-4 * size * slope and size > 1e-8:
            size /= 2.0
        weight -= size * step
    raise InputError(
        f"the refit of the last layer did not converge in {STEPS} steps: choose a larger penalty, such as --set "
        "refit=0.01"
    )


def _softmax(logits: Float[np.ndarray, "n l"]) -> Float[np.ndarray, "n l"]:
    grown = np.exp(logits - logits.max(1, keepdims=True))
    return grown / grown.sum(1, keepdims=True)


def _cost(
    a: Float[np.ndarray, "n i"], truth: Float[np.ndarray, "n l"], weight: Float[np.ndarray, "l i"], penalty: float
) -> float:
    logits = a @ weight.T
    top = logits.max(1)
    spread = top + np.log(np.exp(logits - top[:, None]).sum(1))
    return float((spread - (logits * truth).sum(1)).mean() + penalty * (weight**2).sum())
