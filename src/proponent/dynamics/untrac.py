"""UnTrac: how much a whole corpus helped on a test set, by gradient ascent on one of them.

Isonuma and Titov 2024, "Unlearning Traces the Influential Training Data of Language Models" (arXiv 2401.15241). A
corpus whose unlearning raises the test loss has helped. UnTrac-Inv unlearns the test set and looks at the corpora, so
that one ascent serves all of them. Losses are means over tokens; a score above 0 helped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from proponent.errors import InputError
from proponent.models import Encoded
from proponent.models.adapter_modules import fixed_layer
from proponent.models.encoding import Encoder
from proponent.models.tasks.base import Task, logits_of
from proponent.models.trained_parts import trained_of

OPTIMIZERS = ("adam", "adafactor", "rmsprop", "momentum", "sgd")
_LEAST_RISE = 0.5
"""Rise of the unlearned set's loss, in nats, that is never called too large: a small loss doubles easily."""


@dataclass(frozen=True)
class AscentSettings:
    """How a set is unlearned; the defaults are those of the paper's UnTrac."""

    steps: int
    optimizer: str = "adam"
    learning_rate: float = 5e-5
    batch_size: int | None = 1  # rows of a step; None takes the whole set
    every: int = 1  # steps between two points of the curves
    limit: float = 2.0  # the ascent ends when the unlearned set's loss exceeds this many times its first one

    def check(self) -> None:
        """Refuse invalid settings."""
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"unknown optimizer {self.optimizer!r}: choose one of {', '.join(OPTIMIZERS)}")
        for name in ("steps", "every", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} of the ascent is {value}: must be at least 1")
        if not (np.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"the learning rate of the ascent is {self.learning_rate}: must be a number above 0")
        if not self.limit > 1:
            raise InputError(f"the limit of the ascent is {self.limit}: must be above 1")

    @property
    def points(self) -> tuple[int, ...]:
        """The steps after which losses are measured."""
        return (*range(0, self.steps, self.every), self.steps)


@dataclass(frozen=True)
class TextSet:
    """A corpus or a test set, as the model reads it."""

    name: str
    encoded: Sequence[Encoded]
    labels: Sequence[int]  # classes; -1 for a language model

    def __len__(self) -> int:
        return len(self.encoded)

    def batches(self, size: int) -> Iterator[Int[np.ndarray, " b"]]:
        """All rows in batches of similar length."""
        order = np.argsort([len(one.ids) for one in self.encoded], kind="stable")
        for start in range(0, len(order), size):
            yield order[start : start + size]


@dataclass(frozen=True)
class Ascent:
    """The losses while one set is unlearned."""

    steps: Int[np.ndarray, " p"]  # from 0
    losses: Float[np.ndarray, "p m"]  # of each watched set, mean over tokens
    own: Float[np.ndarray, " p"]  # of the unlearned set, the same
    stopped: str = ""  # why it ended early; empty if it did not

    def change(self, steps: int) -> Float[np.ndarray, " m"]:
        """Change of the losses after so many steps."""
        return self.losses[int(np.flatnonzero(self.steps == steps)[0])] - self.losses[0]


class Unlearner:
    """A model in evaluation mode that is unlearned from the same weights again and again."""

    def __init__(self, model: nn.Module, encoder: Encoder, task: Task, batch: int = 16) -> None:
        self.model, self._encoder, self._task, self._batch = model.eval(), encoder, task, batch
        adapter, fixed = trained_of(model), fixed_layer(model)
        if fixed is not None:
            raise InputError(
                f"the adapter changes {fixed} by DoRA, or by factors or rows of a table: these are computed when "
                "the model is loaded, and do not follow an ascent; merge it into its base (merge_and_unload) first"
            )
        names = None if adapter is None else adapter.names
        named = cast("Any", model).named_parameters(remove_duplicate=False)
        trained: dict[str, nn.Parameter] = {}
        for name, one in named:  # a tied table once, by whatever name it was trained
            if (names is None or name in names) and all(one is not other for other in trained.values()):
                trained[name] = one
        for one in trained.values():
            one.requires_grad = True
        self._trained = trained
        if not all(bool(torch.isfinite(one).all()) for one in self._trained.values()):
            raise InputError("some weights of the run are not finite: its training diverged, and nothing is unlearned")
        self._start = {name: one.detach().clone() for name, one in self._trained.items()}

    def reset(self) -> None:
        """Return to the trained weights, bit for bit."""
        with torch.no_grad():
            for name, one in self._trained.items():
                one.copy_(self._start[name])

    def loss(self, texts: TextSet, rows: Int[np.ndarray, " m"] | None = None) -> float:
        """Mean loss of the tokens of some rows; of all by default."""
        chosen = texts if rows is None else _part(texts, rows)
        total, count = 0.0, 0.0
        with torch.inference_mode():
            for batch in chosen.batches(self._batch):
                found, counted = self._summed(chosen, batch)
                total, count = total + float(found), count + counted
        return total / count

    def gradient(self, texts: TextSet, rows: Int[np.ndarray, " m"] | None = None) -> dict[str, Tensor]:
        """Gradient of the mean loss by every trained parameter, left in `.grad` as well."""
        chosen = texts if rows is None else _part(texts, rows)
        self.model.zero_grad(set_to_none=True)
        count = 0.0
        for batch in chosen.batches(self._batch):
            found, counted = self._summed(chosen, batch)
            cast("Any", found).backward()
            count += counted
        found = {name: one.grad for name, one in self._trained.items() if one.grad is not None}
        for one in found.values():
            one.div_(count)
        return found

    def ascend(
        self,
        unlearned: TextSet,
        watched: Sequence[TextSet],
        settings: AscentSettings,
        seed: int = 0,
        passed: Callable[[], object] = lambda: None,
    ) -> Ascent:
        """Unlearn one set from the trained weights, and watch the losses of others; `passed` is called at each step."""
        self.reset()
        optimizer = _optimizer(list(self._trained.values()), settings)
        generator = np.random.default_rng(seed)
        sample = generator.permutation(len(unlearned))[: max(4 * self._batch, settings.batch_size or 0)]
        steps, losses, own, stopped = [0], [self._losses(watched)], [self.loss(unlearned, sample)], ""
        batches = _drawn(len(unlearned), settings.batch_size, generator)
        for step in range(1, settings.steps + 1):
            self.gradient(unlearned, next(batches))
            cast("Any", optimizer).step()
            passed()
            if step not in settings.points:
                continue
            steps.append(step)
            losses.append(self._losses(watched))
            own.append(self.loss(unlearned, sample))
            stopped = _why_stopped(own, losses[-1], settings.limit)
            if stopped:
                break
        self.reset()
        return Ascent(np.asarray(steps), np.asarray(losses), np.asarray(own), stopped)

    def _losses(self, watched: Sequence[TextSet]) -> list[float]:
        return [self.loss(one) for one in watched]

    def _summed(self, texts: TextSet, rows: Int[np.ndarray, " b"]) -> tuple[Tensor, float]:
        """Sum of the losses of a batch, and the number of tokens (or texts) in it."""
        places: list[int] = rows.tolist()
        batch = self._encoder.collate([texts.encoded[at] for at in places], [texts.labels[at] for at in places])
        objective = self._task.objective(batch, "sum")
        return objective.losses(logits_of(self.model(**batch.inputs))).sum(), objective.count


def common_steps(ascents: Sequence[Ascent]) -> int:
    """The last step at which every ascent was still measured and none had left the linear region."""
    last = min(int(one.steps[-2 if one.stopped else -1]) for one in ascents)
    if last == 0:
        names = "; ".join(sorted({one.stopped for one in ascents if one.stopped}))
        raise InputError(
            f"no step stays near the trained weights ({names}): lower the learning rate, or measure more often"
        )
    return last


def set_products(
    unlearner: Unlearner, corpora: Sequence[TextSet], tests: Sequence[TextSet]
) -> tuple[Float[np.ndarray, "c t"], Float[np.ndarray, "c t"]]:
    """GradDot and GradCos of whole sets: products of mean gradients, and their cosines; keeps those of all tests."""
    unlearner.reset()
    kept = [{name: one.clone() for name, one in unlearner.gradient(test).items()} for test in tests]
    norms = [_product(one, one) ** 0.5 for one in kept]
    dots = np.zeros((len(corpora), len(tests)))
    cosines = np.zeros_like(dots)
    for row, corpus in enumerate(corpora):
        own = unlearner.gradient(corpus)
        norm = _product(own, own) ** 0.5
        for column, other in enumerate(kept):
            dots[row, column] = _product(own, other)
            cosines[row, column] = dots[row, column] / max(norm * norms[column], np.finfo(np.float64).tiny)
    return dots, cosines


def _product(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return sum(float((one.double() * second[name].double()).sum()) for name, one in first.items() if name in second)


def _part(texts: TextSet, rows: Int[np.ndarray, " m"]) -> TextSet:
    places: list[int] = rows.tolist()
    return TextSet(texts.name, [texts.encoded[at] for at in places], [texts.labels[at] for at in places])


def _drawn(count: int, size: int | None, generator: np.random.Generator) -> Iterator[Int[np.ndarray, " b"]]:
    """Batches without end: every row once, then again in another order."""
    while True:
        order = generator.permutation(count)
        for start in range(0, count, size or count):
            yield order[start : start + (size or count)]


def _why_stopped(own: Sequence[float], losses: Sequence[float], limit: float) -> str:
    """Why an ascent must end; empty if it may go on."""
    if not np.isfinite([own[-1], *losses]).all():
        return "a loss is no longer a number"
    if own[-1] > max(limit * own[0], own[0] + _LEAST_RISE):
        return f"the unlearned set's loss rose from {own[0]:.3g} to {own[-1]:.3g}"
    return ""


def _optimizer(parameters: list[nn.Parameter], settings: AscentSettings) -> torch.optim.Optimizer:
    """A fresh optimizer that ascends, without decay or clipping."""
    rate = settings.learning_rate
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, maximize=True)
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(parameters, lr=rate, maximize=True)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=rate, maximize=True)
    return torch.optim.SGD(
        parameters, lr=rate, momentum=0.9 if settings.optimizer == "momentum" else 0.0, maximize=True
    )
