"""The training loop of the built-in retrainers: small, deterministic, and the same for every model.

One thread trains one model, so that the order of summation does not depend on the number of processes.
"""

import json
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor, nn

from proponent.errors import InputError
from proponent.models.placement import device_of
from proponent.training.outputs import Outputs
from proponent.training.schedule import Settings, Step, advance, hashed
from proponent.types import Example


@runtime_checkable
class Problem(Protocol):
    """The objects of a training: a model, its examples and its queries."""

    @property
    def identity(self) -> str:
        """Model, data and queries, as text."""
        ...

    @property
    def hashes(self) -> UInt64[np.ndarray, " n"]:
        """Hashes of the ids of the training set."""
        ...

    def fresh(self, seed: int) -> nn.Module:
        """A model with its initial weights, in training mode."""
        ...

    def losses(self, model: nn.Module, rows: Int[np.ndarray, " m"]) -> Float[Tensor, " m"]:
        """Loss of each of some training examples."""
        ...

    def outputs(self, model: nn.Module) -> Outputs:
        """Outputs on all queries, in evaluation mode."""
        ...


@runtime_checkable
class EditableProblem(Problem, Protocol):
    """A training whose rows are texts."""

    def edited(self, rows: Mapping[int, Example]) -> Problem:
        """The same with other texts of these rows, which keep their ids and with them their places in the order."""
        ...


Watch = Callable[[nn.Module, torch.optim.Optimizer, int], None]
"""Called with model, optimizer, and the finished pass or step (from 0)."""


@dataclass(frozen=True)
class TrainingLoop:
    """A retrainer: a problem trained by this loop."""

    problem: Problem
    settings: Settings
    steps: int | None = None  # of a training on any subset; None: as many as its epochs have
    numbered: bool = False  # steps keep their numbers where a whole batch is deleted

    @property
    def size(self) -> int:
        """Number of rows of the whole training set."""
        return len(self.problem.hashes)

    @property
    def identity(self) -> str:
        """Everything that the outputs depend on."""
        length = "" if self.steps is None else f"steps {self.steps}\n"
        length += "steps keep their numbers\n" if self.numbered else ""
        return f"{self.problem.identity}\nplain loop 1 {json.dumps(asdict(self.settings), sort_keys=True)}\n{length}"

    def __call__(self, rows: Int[np.ndarray, " m"], seed: int) -> Outputs:
        """Train."""
        with one_thread():
            return self.problem.outputs(self.fit(rows, seed))

    def edited(self, rows: Mapping[int, Example]) -> "TrainingLoop":
        """Replace the texts of some rows.

        Args:
            rows: new texts by position.

        Returns:
            The training, with the same order and random draws.

        Raises:
            InputError: the problem does not consist of texts.
        """
        if not isinstance(self.problem, EditableProblem):
            raise InputError(f"{type(self.problem).__name__} has no texts that could be replaced")
        return replace(self, problem=self.problem.edited(rows))

    def fit(
        self,
        rows: Int[np.ndarray, " m"],
        seed: int,
        watch: Watch | None = None,
        at: Collection[int] = (),
        around: "Around | None" = None,  # replaces the optimizer by one that sees every step
    ) -> nn.Module:
        """Train and return the model; `watch` is called after the steps `at` (from 1), or after each pass."""
        kept = np.zeros(self.size, dtype=np.bool_)
        kept[rows] = True
        with one_thread():
            model = self.problem.fresh(seed)
            optimizer = self.optimizer(model)
            optimizer = optimizer if around is None else around(model, optimizer)
            device = device_of(model)
            steps = hashed(self.problem.hashes, kept, seed, self.settings, self.steps, numbered=self.numbered)
            for epoch, passed in groupby(steps, lambda step: step.epoch):
                for step in passed:
                    advance(model, step, self.gradient, optimizer, device)
                    if watch is not None and step.number + 1 in at:
                        watch(model, optimizer.inner, step.number)
                if watch is not None and not at:
                    watch(model, optimizer.inner, epoch)
        if not all(bool(torch.isfinite(one).all()) for one in model.parameters()):
            raise InputError(
                f"training on {len(rows)} rows with seed {seed} diverged: weights are not finite; "
                "lower the learning rate"
            )
        return model.eval()

    def optimizer(self, model: nn.Module) -> "InPlace":
        """The optimizer of a training."""
        return InPlace(model, self.settings)

    def gradient(self, model: nn.Module, step: Step) -> dict[str, Tensor]:
        """Gradient of a step."""
        return gradient(self.problem, model, step.rows)


def gradient(problem: Problem, model: nn.Module, rows: Int[np.ndarray, " m"]) -> dict[str, Tensor]:
    """Gradient of the mean loss of some rows by every parameter with a gradient; also left in `.grad`."""
    model.zero_grad(set_to_none=True)
    cast("Any", problem.losses(model, rows).mean()).backward()
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


class InPlace:
    """A torch optimizer, which changes the given model in place."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        self.inner, self._clip = _optimizer(model, settings), settings.clip

    def apply(self, state: nn.Module, gradient: dict[str, Tensor], step: Step) -> nn.Module:  # noqa: ARG002
        """Apply the gradients in `.grad`."""
        for group in self.inner.param_groups:
            group["lr"] = float(step.rates[0])
        if self._clip is not None:
            nn.utils.clip_grad_norm_(state.parameters(), self._clip)
        cast("Any", self.inner).step()
        return state


Around = Callable[[nn.Module, InPlace], InPlace]
"""Called with a model and its optimizer; returns the optimizer that is used in its place."""


@contextmanager
def one_thread() -> Generator[None]:
    """Compute on one thread, so that sums are computed in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    norms = {
        id(one) for module in model.modules() if "norm" in type(module).__name__.lower() for one in module.parameters()
    }
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    plain = [one for name, one in named if id(one) in norms or "bias" in name.rsplit(".", 1)[-1]]
    spared = {id(one) for one in plain}
    groups = [
        {"params": [one for _, one in named if id(one) not in spared], "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "lazy-adam":
        return _LazyAdam(
            [one for _, one in named], lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon
        )
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, fused=True)


class _LazyAdam(torch.optim.SparseAdam):
    """Adam that moves only rows with a gradient, and only their moments."""

    def step(self, closure: Any = None) -> Any:
        """Apply one step."""
        for group in self.param_groups:
            for one in group["params"]:
                if one.grad is not None and not one.grad.is_sparse:
                    one.grad = _rows_of(one.grad)
        return cast("Any", super()).step(closure)


def _rows_of(gradient: Tensor) -> Tensor:
    """The rows that hold anything, as a sparse tensor."""
    ids = gradient.reshape(len(gradient), -1).ne(0).any(1).nonzero()
    rows = {"indices": ids.T, "values": gradient[ids[:, 0]], "size": gradient.shape}
    return cast("Any", torch).sparse_coo_tensor(**rows, is_coalesced=True, check_invariants=False)
