"""Gates of one on channels: derivatives of a loss by them, and losses without some channels.

The derivative by a channel's gate is the sum over tokens of its value times the gradient at it: what a first-order
Taylor expansion says the loss gains when the channel is removed.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from proponent.models.prunable import Site


@dataclass
class Gates:
    """Gates of some layers, multiplied to what the layers read."""

    sites: Sequence[Site]
    values: list[Float[Tensor, " c"]]  # of each layer
    per_example: bool = False  # one gate for each example, to have its derivative apart
    made: dict[int, Tensor] = field(default_factory=dict[int, Tensor], init=False)  # of the last pass, by layer

    @classmethod
    def open(cls, sites: Sequence[Site], *, per_example: bool = False) -> "Gates":
        """All gates at one."""
        return cls(sites, [torch.ones(one.count) for one in sites], per_example)

    @contextmanager
    def on(self, model: nn.Module) -> Generator[None]:
        """Multiply within."""
        hooks = [
            model.get_submodule(site.name).register_forward_pre_hook(partial(self._multiply, at))
            for at, site in enumerate(self.sites)
        ]
        try:
            yield
        finally:
            for one in hooks:
                one.remove()

    def gradients(self, loss: Tensor) -> list[Float[Tensor, "*b c"]]:
        """Derivatives of a loss by the gates of the last pass; 0 for layers that it did not reach."""
        places = sorted(self.made)
        made = [self.made[at] for at in places]
        found = cast("tuple[Tensor | None, ...]", torch.autograd.grad(loss, made, allow_unused=True))
        known = {
            at: one if one is not None else torch.zeros_like(self.made[at])
            for at, one in zip(places, found, strict=True)
        }
        return [known[at] for at in range(len(self.sites))]

    def _multiply(self, at: int, layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG002 # as torch calls it
        states, site = cast("Tensor", given[0]), self.sites[at]
        value = self.values[at].to(states.device)
        if self.per_example:
            value = value.expand(len(states), -1).contiguous()
        self.made[at] = gate = value.detach().requires_grad_() if torch.is_grad_enabled() else value
        wide = gate.repeat_interleave(site.width, dim=-1)
        if self.per_example:
            wide = wide.view(len(states), *(1,) * (states.dim() - 2), -1)
        return (states * wide.to(states.dtype), *given[1:])
