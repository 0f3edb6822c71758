"""Hooks on chosen layers: every call of a layer is seen, with its input and a handle on the gradient at its output.

No layer is cut off from what comes before it. A layer whose output has no graph yet starts one, so that the backward
pass ends at the first of the chosen layers. Gradients are taken at the value that the layer returned, whatever is done
to it in place afterwards.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from whence.errors import RunError
from whence.layers.rules import Block, Left, OneHot, is_vector, ones_like, rms, rule_of


class UnbatchedError(Exception):
    """A layer was called on something that is not one entry per example: examples must be taken one by one."""


@dataclass(frozen=True)
class Call:
    """Factors of a gradient from one call of a layer: the gradient is the sum over positions of left right^T.

    Attributes:
        left: [n s o].
        right: [n s i].
        repeat: how many neighbouring positions of the call belong to one token; 0 when positions are no tokens.
    """

    left: Left
    right: Float[Tensor, "n s i"]
    repeat: int


@dataclass(frozen=True)
class _Seen:
    module: str
    x: Tensor
    edge: Tensor | GradientEdge


class Taps:
    """The calls of chosen layers during one forward pass.

    Args:
        model: the model.
        blocks: what is scored.
        n: examples of the batch.
        t: positions of the batch, padding included; another number than n, unless that is 1.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[Block], n: int, t: int) -> None:
        self.model, self.blocks, self.n, self.t = model, blocks, n, t
        self._seen: list[_Seen] = []

    def hook(self) -> list[Any]:
        """Hang up the hooks.

        Returns:
            Handles that remove them.
        """
        names = dict.fromkeys(name for block in self.blocks for name in block.modules)
        return [self.model.get_submodule(name).register_forward_hook(self._see(name)) for name in names]

    def _see(self, name: str) -> Any:
        def see(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            x = inputs[0].detach()
            if output.requires_grad:
                self._seen.append(_Seen(name, x, get_gradient_edge(output)))
                return None
            fresh = output.detach()
            if isinstance(module, nn.Embedding) and x.dim() == 2 and x.shape[0] == 1 < self.n:
                x = x.expand(self.n, -1)  # positions, looked up once for the whole batch
                fresh = fresh.expand(self.n, -1, -1)
            leaf = fresh.clone().requires_grad_()
            self._seen.append(_Seen(name, x, leaf))
            return leaf.clone()  # may be changed in place, which a leaf may not

        return see

    @property
    def edges(self) -> list[Tensor | GradientEdge]:
        """Where gradients are to be taken."""
        return [seen.edge for seen in self._seen]

    def calls(self, grads: Sequence[Tensor | None]) -> dict[str, list[Call]]:
        """Make the factors.

        Args:
            grads: gradients at the edges; None where the loss does not depend on a call.

        Returns:
            Calls by name of the block; a block that was never called has none.

        Raises:
            UnbatchedError: a layer was called on something that is not one entry per example.
            RunError: a normalisation does not normalise as it is named.
        """
        made: dict[str, list[Call]] = {block.name: [] for block in self.blocks}
        for seen, g in zip(self._seen, grads, strict=True):
            if g is None:
                continue
            module = self.model.get_submodule(seen.module)
            for block in self.blocks:
                if seen.module in block.modules:
                    made[block.name].append(self._call(module, block, seen.x, g))
        return made

    def _call(self, module: nn.Module, block: Block, x: Tensor, g: Tensor) -> Call:
        rule = rule_of(module)
        assert rule is not None
        if block.part == "bias":
            left: Left = g.transpose(1, 2) if rule.channels_first else g
            right: Tensor = ones_like(left)
        else:
            if is_vector(rule) and not isinstance(module, nn.LayerNorm):
                self._check_norm(module, block.name, x)
            left, right = rule.weight(module, x, g)
        lefts = left.ids[..., None] if isinstance(left, OneHot) else left
        lefts, repeat = self._laid(lefts)
        right, _ = self._laid(right)
        return Call(OneHot(lefts[..., 0], left.size) if isinstance(left, OneHot) else lefts, right, repeat)

    def _laid(self, x: Tensor) -> tuple[Tensor, int]:
        """Lay a tensor out as [n s d]; also say how many neighbouring s belong to a token (0: unknown)."""
        n, t, shape = self.n, self.t, x.shape
        if n == 1:
            places = [place for place in (0, 1) if len(shape) > place + 1 and shape[place] == t]
            flat = x.reshape(1, -1, shape[-1])
            return flat, flat.shape[1] // t if places and flat.shape[1] % t == 0 else 0
        if len(shape) == 2 and shape[0] == n:
            return x[:, None], 0
        if len(shape) == 2 and shape[0] == n * t:
            return x.reshape(n, t, -1), 1
        if len(shape) < 3 or shape[0] != n:
            raise UnbatchedError
        flat = x.reshape(n, -1, shape[-1])
        return flat, flat.shape[1] // t if shape[1] == t else 0

    def _check_norm(self, module: nn.Module, name: str, x: Tensor) -> None:
        """An RMSNorm multiplies the normalised input with its gain, or with one plus it; the gradient is the same."""
        with torch.no_grad():
            gain, made = cast("Tensor", module.weight), cast("Tensor", module(x))
            plain = rms(module, x)
            close = [torch.allclose(made, plain * one, rtol=1e-3, atol=1e-5) for one in (gain, 1.0 + gain)]
        if not any(close):
            raise RunError(f"{name} ({type(module).__name__}) does more than normalise and scale: leave it out")


def _note(called: set[str], name: str, _module: nn.Module, _inputs: object) -> None:
    called.add(name)


def bypassed(model: nn.Module, size: int) -> frozenset[str]:
    """Find layers whose weight the model uses without calling the layer: hooks see nothing of their gradient.

    Args:
        model: evaluation mode, every parameter frozen.
        size: of its vocabulary.

    Returns:
        Names of the layers.
    """
    modules = cast("Iterable[tuple[str, Any]]", model.named_modules())
    named = [(name, one) for name, one in modules if rule_of(one) is not None]
    called: set[str] = set()
    handles = [one.register_forward_pre_hook(partial(_note, called, name)) for name, one in named]
    ids = torch.arange(4)[None] % size + min(4, size - 4)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    reached = {id(one.weight) for name, one in named if name in called}
    rest = {name: cast("Tensor", one.weight) for name, one in named if id(one.weight) not in reached}
    if not rest:
        return frozenset()
    try:
        for weight in rest.values():
            weight.requires_grad = True
        with torch.enable_grad():
            total = cast("Any", model)(**inputs).logits.sum()
        grads = torch.autograd.grad(total, list(rest.values()), allow_unused=True) if total.requires_grad else ()
    finally:
        for weight in rest.values():
            weight.requires_grad = False
    taken = cast("tuple[Tensor | None, ...]", grads)
    return frozenset(name for name, grad in zip(rest, taken, strict=False) if grad is not None)
