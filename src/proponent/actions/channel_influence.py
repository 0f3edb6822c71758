"""Influence of channels on the loss: how much it would change without each of them, and how reliable the order is.

Lai, Xiang and Shen 2021, "Inf-CP" (arXiv 2112.02521): a channel's influence by back-propagation, as a mean over many
batches. Cheng, Zhang and Shi 2024, "IFSO" (arXiv 2308.06755): a mixed second derivative. The paper of the first gives
no formulas that we could read, so the orders here are derived from its abstract:

- first: mean over batches of the absolute derivative of the batch's loss by a gate of one on the channel
- square: the same with squares
- second: - g + H / 2, with g the mean derivative and H the Gauss-Newton term of the gate
- mixed: derivative by the gates of the movement of the weights that the gates ask for, divided by the weight decay
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from proponent.errors import InputError
from proponent.gradients.channel_gates import Gates
from proponent.models.placement import host
from proponent.models.prunable import Site

Order = Literal["first", "square", "second", "mixed"]
ORDERS = get_args(Order)
_STEP = 0.01
"""Length of the movements of finite differences."""


@runtime_checkable
class Losses(Protocol):
    """The loss of each of some training examples."""

    def losses(self, model: nn.Module, rows: Int[np.ndarray, " m"]) -> Float[Tensor, " m"]:
        """With labels as they are."""
        ...

    def sampled(self, model: nn.Module, rows: Int[np.ndarray, " m"], seed: int) -> Float[Tensor, " m"]:
        """With labels sampled from the model."""
        ...


@dataclass(frozen=True)
class ChannelInfluence:
    """Influence of the channels of each layer; the smallest are removed first."""

    sites: tuple[Site, ...]
    values: tuple[Float[np.ndarray, " c"], ...]
    halves: (
        tuple[tuple[Float[np.ndarray, " c"], ...], tuple[Float[np.ndarray, " c"], ...]] | None
    )  # of two halves of the batches

    def overlap(self, share: float) -> float | None:
        """Part of the channels to be kept that two halves of the batches agree on; None for one batch."""
        if self.halves is None:
            return None
        both = [
            (set(one.tolist()), set(other.tolist()))
            for one, other in zip(*(kept(half, share) for half in self.halves), strict=True)
        ]
        return sum(len(one & other) for one, other in both) / sum(len(one) for one, _ in both)


def kept(values: Sequence[Float[np.ndarray, " c"]], share: float) -> list[Int[np.ndarray, " k"]]:
    """The channels that stay when a share with the smallest values is removed, as many in every layer."""
    count = max(1, round((1 - share) * len(values[0])))
    return [np.sort(np.argsort(-one, kind="stable")[:count]) for one in values]


def channel_influence(
    model: nn.Module,
    sites: Sequence[Site],
    problem: Losses,
    batches: Sequence[Int[np.ndarray, " b"]],
    order: Order = "first",
    *,
    weight_decay: float = 0.01,
) -> ChannelInfluence:
    """Measure the influence of each channel on the loss of some batches of training rows.

    Args:
        model: in evaluation mode; it stays as it is.
        sites: the layers (`proponent.models.prunable.sites_of`).
        problem: the loss of training rows.
        batches: positions of training rows; at least 30 for a reliable order.
        order: first, square, second or mixed.
        weight_decay: divides the mixed form.

    Returns:
        One number per channel, and the numbers of both halves of the batches.

    Raises:
        InputError: unknown order, no layer, no batch.

    Source:
        Derived from arXiv 2112.02521; mixed: arXiv 2308.06755.
    """
    if order not in ORDERS:
        raise InputError(f"unknown order {order!r}: choose one of {', '.join(ORDERS)}")
    if not sites or not batches:
        raise InputError("channels are measured by at least one layer and one batch")
    frozen = {name: one.requires_grad for name, one in model.named_parameters()}
    try:
        model.requires_grad_(requires_grad=order == "mixed")
        each = [
            _measured(model, sites, problem, batch, order, weight_decay, seed) for seed, batch in enumerate(batches)
        ]
    finally:
        for name, one in model.named_parameters():
            one.requires_grad = frozen[name]
    whole = _combined(each, order)
    halves = None if len(each) < 2 else (_combined(each[::2], order), _combined(each[1::2], order))
    return ChannelInfluence(tuple(sites), whole, halves)


@dataclass(frozen=True)
class _Batch:
    """What one batch says of each layer's channels."""

    first: list[Float[np.ndarray, " c"]]
    second: list[Float[np.ndarray, " c"]] | None = None


def _measured(
    model: nn.Module,
    sites: Sequence[Site],
    problem: Losses,
    batch: Int[np.ndarray, " b"],
    order: Order,
    weight_decay: float,
    seed: int,
) -> _Batch:
    if order == "mixed":
        return _Batch(_mixed(model, sites, problem, batch, weight_decay))
    plain = _derivatives(model, sites, problem, batch)
    if order != "second":
        return _Batch(plain)
    gates = Gates.open(sites, per_example=True)
    with gates.on(model):
        sampled = gates.gradients(problem.sampled(model, batch, seed).sum())
    return _Batch(plain, [host((one.double() ** 2).mean(0)) for one in sampled])


def _derivatives(
    model: nn.Module, sites: Sequence[Site], problem: Losses, batch: Int[np.ndarray, " b"]
) -> list[Float[np.ndarray, " c"]]:
    """Derivatives of the mean loss of a batch by the gates."""
    gates = Gates.open(sites)
    with gates.on(model):
        return [host(one).astype(np.float64) for one in gates.gradients(problem.losses(model, batch).mean())]


def _combined(each: Sequence[_Batch], order: Order) -> tuple[Float[np.ndarray, " c"], ...]:
    """Over batches."""
    layers = [np.stack([one.first[at] for one in each]) for at in range(len(each[0].first))]
    if order in ("first", "mixed"):
        return tuple(np.abs(one).mean(0) for one in layers)
    if order == "square":
        return tuple((one**2).mean(0) for one in layers)
    curves = [np.mean([cast("Any", one.second)[at] for one in each], axis=0) for at in range(len(layers))]
    return tuple(-one.mean(0) + curve / 2 for one, curve in zip(layers, curves, strict=True))


def _mixed(
    model: nn.Module, sites: Sequence[Site], problem: Losses, batch: Int[np.ndarray, " b"], weight_decay: float
) -> list[Float[np.ndarray, " c"]]:
    """Two central differences: of weight gradients along all gates, of gate gradients along the weights' movement."""
    step = _STEP / sum(one.count for one in sites) ** 0.5
    ends = [_weight_gradients(model, sites, problem, batch, 1.0 + sign * step) for sign in (1, -1)]
    moved = {name: (one - ends[1][name]) / (2 * step * weight_decay) for name, one in ends[0].items()}
    length = float(torch.sqrt(torch.stack([(one**2).sum() for one in moved.values()]).sum()))
    if length == 0:
        return [np.zeros(one.count) for one in sites]
    size = _STEP / length
    sides: list[list[np.ndarray]] = []
    for sign in (1, -1):
        with _moved(model, moved, sign * size):
            sides.append(_derivatives(model, sites, problem, batch))
    return [(one - other) / (2 * size) for one, other in zip(*sides, strict=True)]


def _weight_gradients(
    model: nn.Module, sites: Sequence[Site], problem: Losses, batch: Int[np.ndarray, " b"], value: float
) -> dict[str, Tensor]:
    gates = Gates.open(sites)
    gates.values = [one * value for one in gates.values]
    named = {name: one for name, one in model.named_parameters() if one.requires_grad}
    with gates.on(model):
        loss = problem.losses(model, batch).mean()
        found = cast("tuple[Tensor | None, ...]", torch.autograd.grad(loss, list(named.values()), allow_unused=True))
    return {name: one for name, one in zip(named, found, strict=True) if one is not None}


@contextmanager
def _moved(model: nn.Module, direction: dict[str, Tensor], size: float) -> Generator[None]:
    """Weights moved along a direction, and restored bit for bit."""
    named = dict(model.named_parameters())
    before = {name: named[name].detach().clone() for name in direction}
    try:
        with torch.no_grad():
            for name, one in direction.items():
                named[name].add_(one, alpha=size)
        yield
    finally:
        with torch.no_grad():
            for name, one in before.items():
                named[name].copy_(one)


def losses_without(
    model: nn.Module,
    sites: Sequence[Site],
    channels: Sequence[tuple[int, int]],
    loss: Callable[[nn.Module], float],
) -> Iterator[float]:
    """The loss without each of some channels (layer, channel), one at a time: the truth for an order of channels."""
    for at, channel in channels:
        gates = Gates.open(sites)
        gates.values[at][channel] = 0.0
        with gates.on(model), torch.inference_mode():
            yield loss(model)
