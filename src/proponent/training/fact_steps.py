"""Steps of models of facts in closed form: the loss against drawn classes touches few rows, and numpy is enough.

The gradients are those of autograd (the tests compare them), and the optimizers those of torch on the touched rows.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int
from torch import nn

from proponent.models.factorization import class_token
from proponent.models.placement import host
from proponent.training.loop import InPlace, TrainingLoop
from proponent.training.schedule import Settings, Step

Matrix = Float[np.ndarray, "k d"]


@dataclass(frozen=True)
class TouchedRows:
    """A gradient of some rows of the table."""

    ids: Int[np.ndarray, " k"]  # distinct
    values: Matrix


class RowOptimizer(InPlace):
    """SGD, or Adam of the touched rows only, on the table itself; one count of steps for all rows, as in torch."""

    def __init__(self, inner: InPlace, settings: Settings, table: Matrix) -> None:
        self.inner, self._settings, self.table = inner.inner, settings, table
        self._first, self._second = np.zeros_like(table), np.zeros_like(table)
        self._count = 0

    def apply(self, state: nn.Module, gradient: Any, step: Step) -> nn.Module:
        """Apply the gradient of some rows."""
        rate, found = float(step.rates[0]), cast("TouchedRows", gradient)
        for group in self.inner.param_groups:
            group["lr"] = rate
        self._count += 1
        if self._settings.optimizer == "sgd":
            self.table[found.ids] -= np.float32(rate) * found.values
            return state
        (beta, other), ids = self._settings.betas, found.ids
        first = self._first[ids] + np.float32(1 - beta) * (found.values - self._first[ids])
        second = self._second[ids] + np.float32(1 - other) * (found.values**2 - self._second[ids])
        self._first[ids], self._second[ids] = first, second
        size = rate * (1 - other**self._count) ** 0.5 / (1 - beta**self._count)
        self.table[ids] -= np.float32(size) * first / (np.sqrt(second) + np.float32(self._settings.epsilon))
        return state


@dataclass(frozen=True)
class FactLoop(TrainingLoop):
    """Trains a model of facts against drawn classes, one fact per step."""

    def optimizer(self, model: nn.Module) -> InPlace:
        """The optimizer of the table."""
        table = host(cast("Any", model).model.words.weight)  # shares its memory, as the model is on the CPU
        return RowOptimizer(super().optimizer(model), self.settings, table)

    def gradient(self, model: nn.Module, step: Step) -> Any:
        """Gradient of the loss of one fact: softmax over its class and the drawn ones."""
        problem, fact = cast("Any", self.problem), cast("Any", model)
        (row,) = step.rows.tolist()
        ids, classes = problem.facts[0][row], problem.drawn(fact, step.rows)[0] + (class_token(fact.config, 0) or 0)
        table = host(fact.model.words.weight)
        return touched(table, host(ids), host(classes), turned=fact.config.factorization == "complex")


def touched(table: Matrix, pair: Int[np.ndarray, " 2"], tails: Int[np.ndarray, " c"], *, turned: bool) -> TouchedRows:
    """Gradient of the cross-entropy of the first tail among all, by every row that it reads."""
    head, relation, others = table[pair[0]], table[pair[1]], table[tails]
    query = _product(head, relation) if turned else head * relation
    logits = others @ query
    share = np.exp(logits - logits.max())
    share /= share.sum()
    share[0] -= 1
    down = share @ others
    ends = (_conjugate(down, relation), _conjugate(down, head)) if turned else (down * relation, down * head)
    values = np.concatenate([np.stack(ends), share[:, None] * query])
    ids, places = np.unique(np.concatenate([pair, tails]), return_inverse=True)
    summed = np.zeros((len(ids), table.shape[1]), dtype=table.dtype)
    np.add.at(summed, places, values)
    return TouchedRows(ids, summed)


def _product(first: Float[np.ndarray, " d"], second: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
    """Product of complex numbers: real parts, then imaginary parts."""
    half = len(first) // 2
    (a, b), (c, d) = (first[:half], first[half:]), (second[:half], second[half:])
    return np.concatenate([a * c - b * d, a * d + b * c])


def _conjugate(down: Float[np.ndarray, " d"], other: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
    """Product with the conjugate of the second: the derivative of the product."""
    half = len(other) // 2
    return _product(down, np.concatenate([other[:half], -other[half:]]))


def steps_in_closed_form(settings: Settings, negatives: int) -> bool:
    """Whether a training can be done by these steps."""
    return negatives > 0 and settings.optimizer != "adamw" and settings.clip is None and not settings.momentum
