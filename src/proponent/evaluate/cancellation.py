"""Cancellation ratios: how much the gradients of different examples cancel, by layer.

A large ratio means strong cancellation. Yeh et al. 2022 use such a ratio to argue against late layers; Vitel and
Chhabra 2025 argue that it is not informative. Three of their forms need only gradients at one checkpoint; two also
need the change of the weights.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from proponent.errors import InputError
from proponent.evaluate.experiment import EvaluationRequest
from proponent.evaluate.report import plain_rows, report
from proponent.models.placement import host
from proponent.progress import track
from proponent.training.loop import gradient, one_thread
from proponent.training.precision import in_32_bits
from proponent.training.rerun import FRESH, RunProblem
from proponent.views.evaluation import EvaluationReport, Figure

FORMS = ("C(W)", "L2 form", "per parameter, median")
MOVED = ("over movement", "over movement, median")


@dataclass
class Cancellation:
    """Sums of one layer's gradients over the training set."""

    absolute: Float[np.ndarray, " p"] | None = field(default=None, init=False)  # sum of |g|, per parameter
    signed: Float[np.ndarray, " p"] | None = field(default=None, init=False)  # sum of g, per parameter
    norms: float = field(default=0.0, init=False)  # sum of the examples' Euclidean norms

    def add(self, gradients: Float[np.ndarray, "n p"]) -> None:
        """Add the gradients of some examples."""
        wide = np.asarray(gradients, dtype=np.float64)
        mass, total = np.abs(wide).sum(0), wide.sum(0)
        self.absolute = mass if self.absolute is None else self.absolute + mass
        self.signed = total if self.signed is None else self.signed + total
        self.norms += float(np.linalg.norm(wide, axis=1).sum())

    @property
    def l1(self) -> float:
        """C(W) = sum_i ||g_i||_1 / ||sum_i g_i||_1; 1 when all gradients agree, infinite when they cancel."""
        mass, total = self.sums()
        return _over(float(mass.sum()), float(np.abs(total).sum()))

    @property
    def l2(self) -> float:
        """sum_i ||g_i||_1 / ||sum_i g_i||_2."""
        mass, total = self.sums()
        return _over(float(mass.sum()), float(np.linalg.norm(total)))

    @property
    def per_parameter(self) -> Float[np.ndarray, " p"]:
        """sum_i |g_ip| / |sum_i g_ip| of the parameters with any gradient; may hold infinity."""
        mass, total = self.sums()
        alive = mass > 0
        with np.errstate(divide="ignore"):
            return mass[alive] / np.abs(total[alive])

    def norm(self, rate: float, moved: Float[np.ndarray, " p"]) -> float:
        """Rate * sum_i ||g_i||_2 / ||W_after - W_before||_2, the form of the first paper."""
        return _over(rate * self.norms, float(np.linalg.norm(moved)))

    def median_abs(self, rate: float, moved: Float[np.ndarray, " p"]) -> float:
        """Median over the parameters with any gradient of rate * sum_i |g_ip| / |moved_p|."""
        mass, _ = self.sums()
        alive = mass > 0
        with np.errstate(divide="ignore"):
            return float(np.median(rate * mass[alive] / np.abs(np.asarray(moved)[alive])))

    def sums(self) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
        """Both sums."""
        if self.absolute is None or self.signed is None:
            raise InputError("a cancellation ratio needs the gradient of at least one example")
        return self.absolute, self.signed


def grouped(layers: Mapping[str, Cancellation]) -> float:
    """C(W) of several layers together: numerators and denominators are summed first."""
    parts = [one.sums() for one in layers.values()]
    return _over(sum(float(mass.sum()) for mass, _ in parts), sum(float(np.abs(total).sum()) for _, total in parts))


def _over(above: float, below: float) -> float:
    return above / below if below > 0 else float("inf")


def layer_of(parameter: str) -> str:
    """The layer of a parameter: its numbered block, or the module that holds it."""
    parts = parameter.split(".")
    numbered = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts) - 2)
    return ".".join(parts[: numbered + 1]) or parameter


def measure_cancellation(request: EvaluationRequest) -> EvaluationReport:
    """Cancellation ratios of every layer at the last checkpoint of a run, over its training set."""
    request.check()
    run, examples = in_32_bits(request.run), request.train
    last = run.checkpoints[-1]
    problem = RunProblem(run, examples, (), FRESH, run.length(request.max_length))
    model = run.load(last).requires_grad_(requires_grad=True)
    layers: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        layers.setdefault(layer_of(name), []).append(name)
    with one_thread():
        rows = _affordable(problem, model, layers, request)
        request.say(f"will compute the gradients of {len(rows)} of {len(examples)} examples one by one; no retraining")
        sums = {layer: Cancellation() for layer in layers}
        for row in track(rows.tolist(), total=len(rows), label="gradients", unit="examples", quiet=request.quiet):
            for layer, gradient in _gradients(problem, model, layers, row).items():
                sums[layer].add(gradient[None])
    rate, moved = last.learning_rate, _movement(request, model, layers)
    figures = {layer: _figures(one, rate, moved.get(layer)) for layer, one in sums.items()}
    facts = [("all layers together", f"{grouped(sums):.3f}"), ("examples", str(len(rows)))]
    facts += [("checkpoint", str(last.id)), ("learning rate", f"{rate:.3g}")]
    notes = ["a dash means that the layer has no gradient or that the divisor is zero"]
    if not moved:
        notes.append("the two ratios over the movement of the weights need a run with at least two checkpoints")
    return report(
        "cancellation",
        f"Cancellation over {len(rows):,} training examples",
        "sum of the gradients' absolute values over the absolute value of their sum, per layer (weights and biases): "
        "1 means no cancellation, a large ratio means strong cancellation; the ratio describes layers and does not "
        "measure the quality of a score",
        FORMS + (MOVED if moved else ()),
        plain_rows(figures, {}, {}),
        facts=facts,
        notes=notes,
    )


def _affordable(
    problem: RunProblem, model: nn.Module, layers: Mapping[str, Sequence[str]], request: EvaluationRequest
) -> Int[np.ndarray, " m"]:
    """All rows, or as many random rows as the budget allows."""
    size = len(problem.train)
    if request.budget is None:
        return np.arange(size)
    begin = time.perf_counter()
    _gradients(problem, model, layers, 0)
    count = min(size, max(1, int(60 * request.budget / (time.perf_counter() - begin))))
    return np.sort(np.random.default_rng(request.seed).choice(size, count, replace=False))


def _gradients(
    problem: RunProblem, model: nn.Module, layers: Mapping[str, Sequence[str]], row: int
) -> dict[str, Float[np.ndarray, " _"]]:
    """One example's gradient, per layer."""
    found = gradient(problem, model, np.asarray([row]))
    whole = {name: found.get(name, torch.zeros_like(one)) for name, one in model.named_parameters()}
    return _flat(whole, layers)


def _flat(
    tensors: Mapping[str, torch.Tensor], layers: Mapping[str, Sequence[str]]
) -> dict[str, Float[np.ndarray, " _"]]:
    return {
        layer: np.concatenate([host(tensors[name]).astype(np.float64).ravel() for name in names])
        for layer, names in layers.items()
    }


def _movement(
    request: EvaluationRequest, model: nn.Module, layers: Mapping[str, Sequence[str]]
) -> dict[str, Float[np.ndarray, " _"]]:
    """Difference between the weights of the last two checkpoints, per layer; empty for a single checkpoint."""
    if len(request.run.checkpoints) < 2:
        return {}
    after = _flat(dict(model.named_parameters()), layers)
    before = _flat(dict(in_32_bits(request.run).load(request.run.checkpoints[-2]).named_parameters()), layers)
    return {layer: after[layer] - before[layer] for layer in layers}


def _figures(sums: Cancellation, rate: float, moved: Float[np.ndarray, " p"] | None) -> list[Figure]:
    forms = FORMS if moved is None else FORMS + MOVED
    if not sums.sums()[0].any():
        return [Figure(name, None) for name in forms]
    values = [sums.l1, sums.l2, float(np.median(sums.per_parameter))]
    if moved is not None:
        values += [sums.norm(rate, moved), sums.median_abs(rate, moved)]
    return [Figure(name, value if np.isfinite(value) else None) for name, value in zip(forms, values, strict=True)]
