"""Hessian-vector products of a model's loss on chosen parameters, by double backward."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from proponent.gradients.layer_rules import Block
from proponent.models.placement import beside

Loss = Callable[[], Float[Tensor, ""]]
"""Computes a loss with its graph."""


class Hessian:
    """Derivatives of losses with respect to layer parameters, in the layout of layer vectors: [o i], row by row.

    Args:
        model: evaluation mode (dropout off), every parameter frozen.
        blocks: the layers.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[Block]) -> None:
        self.blocks = tuple(blocks)
        modules = [model.get_submodule(block.modules[0]) for block in self.blocks]
        self._parameters = [
            cast("nn.Parameter", getattr(module, block.part))
            for module, block in zip(modules, self.blocks, strict=True)
        ]
        self._turned = [
            type(module).__name__ == "Conv1D" and block.part == "weight"
            for module, block in zip(modules, self.blocks, strict=True)
        ]
        self.size = sum(block.size for block in self.blocks)

    @contextmanager
    def open(self) -> Generator[None]:
        """Enable double backward; the other methods work within this context."""
        for one in self._parameters:
            one.requires_grad = True
        try:
            # fused attention kernels have no second derivative
            with cast("Any", sdpa_kernel)(SDPBackend.MATH):
                yield
        finally:
            for one in self._parameters:
                one.requires_grad = False

    def gradient(self, loss: Loss) -> Float[Tensor, " p"]:
        """Compute a gradient."""
        with torch.enable_grad():
            return self._flat(self._taken(loss(), keep=False)).detach()

    def products(self, loss: Loss, v: Float[Tensor, "q p"]) -> Float[Tensor, "q p"]:
        """Multiply vectors by the Hessian of a loss."""
        v = v.to(self._parameters[0].device)
        with torch.enable_grad():
            flat = self._flat(self._taken(loss(), keep=True))
            if not flat.requires_grad:  # linear in the parameters
                return torch.zeros_like(v)
            rows = [self._second(flat, row, keep=at + 1 < len(v)) for at, row in enumerate(v)]
        return torch.stack(rows).detach()

    def _taken(self, loss: Tensor, *, keep: bool) -> tuple[Tensor | None, ...]:
        found = torch.autograd.grad(loss, self._parameters, create_graph=keep, allow_unused=True)
        return cast("tuple[Tensor | None, ...]", found)

    def _second(self, flat: Tensor, v: Tensor, *, keep: bool) -> Tensor:
        found = torch.autograd.grad(flat, self._parameters, v, retain_graph=keep, allow_unused=True)
        return self._flat(cast("tuple[Tensor | None, ...]", found))

    def _flat(self, grads: Sequence[Tensor | None]) -> Tensor:
        parts = [
            one.new_zeros(block.size) if grad is None else (grad.T if turned else grad).reshape(-1)
            for block, one, grad, turned in zip(self.blocks, self._parameters, grads, self._turned, strict=True)
        ]
        return torch.cat([beside(one, parts[0]) for one in parts])
