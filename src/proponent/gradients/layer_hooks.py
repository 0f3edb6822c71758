"""Hooks on chosen layers: each call of a layer records its input and a handle on the gradient at its output.

Layers stay connected to those before them. A layer whose output has no graph yet starts one, so the backward pass ends
at the first chosen layer. Gradients are those of the value that the layer returned, even if that value is later
changed in place.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from proponent.errors import RunError
from proponent.gradients.dry_run import Order
from proponent.gradients.layer_rules import Block, Left, OneHot, is_vector, ones_like, rms, rule_of
from proponent.models.placement import beside, in_full, is_half


class UnbatchedError(Exception):
    """A layer's input does not have one entry per example: process the examples one by one."""


@dataclass(frozen=True)
class Call:
    """Factors of a gradient from one call of a layer: the gradient is the sum over positions of left right^T."""

    left: Left  # [n s o]
    right: Float[Tensor, "n s i"]  # [n s i]
    repeat: int  # number of neighbouring positions of the call that belong to one token; 0 if positions are not tokens
    target: bool = False  # whether the positions are those of the target that a decoder predicts


@dataclass(frozen=True)
class TokenWords:
    """The words of one example, by the positions of a model's layers."""

    text: Int[np.ndarray, " t"]  # word of each token of the text; -1 for special tokens
    # word of the token that a decoder reads at each position; None for a model without a decoder
    read: Int[np.ndarray, " u"] | None = None
    predicted: Int[np.ndarray, " u"] | None = None  # word of the token that it predicts there

    def of(self, call: Call) -> Int[np.ndarray, " s"]:
        """Return the words of a call's positions."""
        # A decoder's lookup belongs to the word it reads, its other layers to the word they predict: at the first
        # position it reads a start token and predicts the first word.
        words = self.text
        if call.target:
            assert self.read is not None
            assert self.predicted is not None
            words = self.read if isinstance(call.left, OneHot) else self.predicted
        return np.repeat(words, call.repeat) if call.repeat else np.full(call.right.shape[1], -1)


@dataclass(frozen=True)
class _Seen:
    module: str
    x: Tensor
    edge: Tensor | GradientEdge
    target: bool | None


class LayerHooks:
    """The calls of chosen layers during one forward pass."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[Block],
        n: int,
        t: int,
        u: int | None = None,
        order: Order | None = None,
    ) -> None:
        self.model, self.blocks, self.n, self.t, self.u = model, blocks, n, t, u
        self._order: Order = {} if order is None else order
        self._seen: list[_Seen] = []
        self._counts = Counter[str]()

    def hook(self) -> list[Any]:
        """Attach the hooks."""
        names = dict.fromkeys(name for block in self.blocks for name in block.modules)
        return [self.model.get_submodule(name).register_forward_hook(self._see(name)) for name in names]

    def _see(self, name: str) -> Any:
        def see(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            x, target = beside(inputs[0].detach(), output), self._target(name)
            if output.requires_grad:
                self._seen.append(_Seen(name, x, get_gradient_edge(output), target))
                return None
            fresh = output.detach()
            if isinstance(module, nn.Embedding) and x.dim() == 2 and x.shape[0] == 1 < self.n:
                x = x.expand(self.n, -1)  # positions, looked up once for the whole batch
                fresh = fresh.expand(self.n, -1, -1)
            leaf = fresh.clone().requires_grad_()
            self._seen.append(_Seen(name, x, leaf, target))
            return leaf.clone()  # may be changed in place, unlike a leaf

        return see

    def _target(self, name: str) -> bool | None:
        """Whether the current call concerns the target; None if unknown."""
        if self.u is None:
            return False
        told, count = self._order.get(name, ()), self._counts[name]
        self._counts[name] += 1
        if len(set(told)) == 1:
            return told[0]
        return told[count] if count < len(told) else None

    @property
    def edges(self) -> list[Tensor | GradientEdge]:
        """The tensors and graph edges to differentiate at."""
        return [seen.edge for seen in self._seen]

    def calls(self, grads: Sequence[Tensor | None]) -> dict[str, list[Call]]:
        """Build the factors."""
        made: dict[str, list[Call]] = {block.name: [] for block in self.blocks}
        for seen, g in zip(self._seen, grads, strict=True):
            if g is None:
                continue
            module = self.model.get_submodule(seen.module)
            for block in self.blocks:
                if seen.module in block.modules:
                    made[block.name].append(self._call(module, block, seen, g))
        return made

    def _call(self, module: nn.Module, block: Block, seen: _Seen, g: Tensor) -> Call:
        rule, x = rule_of(module), seen.x
        assert rule is not None
        if block.part == "bias":
            left: Left = g.transpose(1, 2) if rule.channels_first else g
            right: Tensor = ones_like(left)
        else:
            if is_vector(rule) and not isinstance(module, nn.LayerNorm):
                self._check_norm(module, block.name, x)
            left, right = rule.weight(module, x, g)
        lefts = left.ids[..., None] if isinstance(left, OneHot) else left
        lefts, repeat = self._laid(lefts, seen.target)
        right, _ = self._laid(right, seen.target)
        laid = OneHot(lefts[..., 0], left.size) if isinstance(left, OneHot) else in_full(lefts)
        return Call(laid, in_full(right), repeat, bool(seen.target))

    def _laid(self, x: Tensor, target: bool | None) -> tuple[Tensor, int]:
        """Reshape a tensor to [n s d]; also return how many neighbouring s belong to a token (0: unknown)."""
        n, shape = self.n, x.shape
        u = self.t if self.u is None else self.u
        t = -1 if target is None else u if target else self.t
        if n == 1:
            places = [place for place in (0, 1) if len(shape) > place + 1 and shape[place] == t]
            flat = x.reshape(1, -1, shape[-1])
            return flat, flat.shape[1] // t if places and flat.shape[1] % t == 0 else 0
        if len(shape) == 2 and shape[0] == n:
            return x[:, None], 0
        if len(shape) == 2 and shape[0] in {n * self.t, n * u}:
            return x.reshape(n, shape[0] // n, -1), int(shape[0] == n * t)
        if len(shape) < 3 or shape[0] != n:
            raise UnbatchedError
        flat = x.reshape(n, -1, shape[-1])
        return flat, flat.shape[1] // t if shape[1] == t else 0

    def _check_norm(self, module: nn.Module, name: str, x: Tensor) -> None:
        """Check that an RMSNorm multiplies its normalised input by the gain or by 1 + gain; both have one gradient."""
        with torch.no_grad():
            gain, made = cast("Tensor", module.weight), cast("Tensor", module(x))
            plain = rms(module, x).to(made.dtype)
            rounded = 3e-2 if is_half(made.dtype) else 1e-3
            close = [torch.allclose(made, plain * one, rtol=rounded, atol=1e-2 * rounded) for one in (gain, 1.0 + gain)]
        if not any(close):
            raise RunError(
                f"{name} ({type(module).__name__}) does more than normalize and scale: choose --layers without it"
            )
