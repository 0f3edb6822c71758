"""The plain training loop of the built-in retrainers: small, deterministic, and the same for every model.

The data order and the dropout of every step are drawn from (seed, epoch, step), so that a deletion changes nothing but
the batches that it touches. One thread trains one model: sums are then taken in one order, on any number of processes.
"""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt64
from torch import Tensor, nn

from proponent.errors import InputError
from proponent.training.data_order import batches
from proponent.training.outputs import Outputs


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of a training.

    Attributes:
        epochs: passes over the subset.
        batch_size: examples per step.
        learning_rate: highest rate.
        optimizer: adamw (decoupled weight decay) or sgd.
        momentum: of sgd.
        betas: of adamw.
        epsilon: of adamw.
        weight_decay: on all weights but biases and norms, as the Trainer does.
        schedule: constant, or linear to zero after the warm-up.
        warmup: steps of linear warm-up.
        clip: largest norm of the whole gradient; None for none.
        keep_places: leave holes where examples are deleted, instead of moving up what follows.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear"] = "constant"
    warmup: int = 0
    clip: float | None = None
    keep_places: bool = False


@runtime_checkable
class Problem(Protocol):
    """What is trained: a model, its examples and its queries."""

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


Watch = Callable[[nn.Module, torch.optim.Optimizer, int], None]
"""Is shown model, optimizer and epoch (from 0) after each pass."""


@dataclass(frozen=True)
class TrainingLoop:
    """A retrainer: a problem trained by the plain loop.

    Attributes:
        problem: model, data, queries.
        settings: hyper-parameters.
    """

    problem: Problem
    settings: Settings

    @property
    def size(self) -> int:
        """Rows of the whole training set."""
        return len(self.problem.hashes)

    @property
    def identity(self) -> str:
        """Everything that the outputs depend on."""
        return f"{self.problem.identity}\nplain loop 1 {json.dumps(asdict(self.settings), sort_keys=True)}\n"

    def __call__(self, rows: Int[np.ndarray, " m"], seed: int) -> Outputs:
        """Train."""
        with one_thread():
            return self.problem.outputs(self.fit(rows, seed))

    def fit(self, rows: Int[np.ndarray, " m"], seed: int, watch: Watch | None = None) -> nn.Module:
        """Train, and give the model."""
        settings, kept = self.settings, np.zeros(self.size, dtype=np.bool_)
        kept[rows] = True
        with one_thread():
            model = self.problem.fresh(seed)
            optimizer = _optimizer(model, settings)
            total, step = settings.epochs * _steps(kept, settings), 0
            for epoch in range(settings.epochs):
                for batch in batches(
                    self.problem.hashes, kept, seed, epoch, settings.batch_size, keep_places=settings.keep_places
                ):
                    cast("Any", torch).manual_seed(_step_seed(seed, step))
                    _rate(optimizer, settings, step, total)
                    _step(model, optimizer, self.problem.losses(model, batch).mean(), settings)
                    step += 1
                if watch is not None:
                    watch(model, optimizer, epoch)
        if not all(bool(torch.isfinite(one).all()) for one in model.parameters()):
            raise InputError(
                f"training on {len(rows)} rows with seed {seed} diverged: weights are not finite; "
                "lower the learning rate"
            )
        return model.eval()


def gradient(problem: Problem, model: nn.Module, row: int) -> dict[str, Tensor]:
    """Gradient of one example's loss by every parameter that it reaches."""
    named = {name: one for name, one in model.named_parameters() if one.requires_grad}
    loss = problem.losses(model, np.asarray([row])).sum()
    found = cast("tuple[Tensor | None, ...]", torch.autograd.grad(loss, list(named.values()), allow_unused=True))
    return {name: one for name, one in zip(named, found, strict=True) if one is not None}


@contextmanager
def one_thread() -> Generator[None]:
    """Compute on one thread, so that sums are taken in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _steps(kept: Bool[np.ndarray, " n"], settings: Settings) -> int:
    count = len(kept) if settings.keep_places else int(kept.sum())
    return -(-count // settings.batch_size)


def _step_seed(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step * 7919 + 1) % 2**63


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, settings: Settings) -> None:
    optimizer.zero_grad(set_to_none=True)
    cast("Any", loss).backward()
    if settings.clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    cast("Any", optimizer).step()


def _rate(optimizer: torch.optim.Optimizer, settings: Settings, step: int, total: int) -> None:
    """The rate of a step, by the rule of the Trainer's schedules."""
    factor = 1.0
    if step < settings.warmup:
        factor = step / max(1, settings.warmup)
    elif settings.schedule == "linear":
        factor = max(0.0, (total - step) / max(1, total - settings.warmup))
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * factor


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
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, fused=True)
