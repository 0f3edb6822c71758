"""Losses of predicted tokens in blocks of positions, so that the logits of all positions are never held at once.

A block's logits give the losses of its tokens and the gradients of these losses at the head's input. A token's loss
depends on its own position only, so the backward pass multiplies these gradients by what it gets for each token: exact
for every function of the tokens' losses, and the body of the model runs backward once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from proponent.models.placement import beside, full_dtype, host, in_full
from proponent.models.tasks.base import TokenTerms, sample_labels

BLOCK_BYTES = 32 * 2**20
"""Maximum bytes of the logits of one block; a few copies of them exist at a time."""

Shares = list[Float[np.ndarray, "_ _"]]
"""Probabilities of some tokens at the counted positions of each example."""

Head = Callable[[Float[Tensor, "m d"]], Float[Tensor, "m v"]]


@dataclass(frozen=True)
class _Block:
    """One block of positions: its hidden states to the losses of its tokens."""

    head: Head
    label: Callable[[slice, Tensor], Int[Tensor, " b"]]  # what the positions predict, given their logits
    see: Callable[[slice, Tensor, Tensor], None]  # receives logits and their log-sum-exp

    def losses(self, cut: slice, hidden: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        logits = in_full(self.head(hidden))
        labels = self.label(cut, logits.detach())
        losses = functional.cross_entropy(logits, labels, reduction="none")
        self.see(cut, logits.detach(), losses.detach() + logits.detach().gather(1, labels[:, None])[:, 0])
        return losses


class _InBlocks(torch.autograd.Function):
    """Losses of tokens as a function of the head's input."""

    @staticmethod
    def forward(ctx: Any, hidden: Float[Tensor, "m d"], block: _Block, size: int) -> Float[Tensor, " m"]:
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        losses = hidden.new_empty(len(hidden), dtype=full_dtype(hidden.dtype))
        for start in range(0, len(hidden), size):
            cut = slice(start, start + size)
            if slopes is None:
                losses[cut] = block.losses(cut, hidden[cut])
                continue
            with torch.enable_grad():
                own = hidden[cut].detach().requires_grad_()
                found = block.losses(cut, own)
                (slopes[cut],) = torch.autograd.grad(found.sum(), own)
            losses[cut] = found.detach()
        ctx.save_for_backward(*([] if slopes is None else [slopes]))
        return losses

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _scaled(ctx, *grad_outputs)


@once_differentiable  # the slopes are constants to a second backward pass, which would be wrong
def _scaled(ctx: Any, grad: Float[Tensor, " m"]) -> tuple[Tensor, None, None]:
    (slopes,) = ctx.saved_tensors
    return slopes * grad[:, None].to(slopes.dtype), None, None


def losses_in_blocks(
    hidden: Float[Tensor, "m u d"],
    head: Head,
    vocabulary: int,
    terms: TokenTerms,
    wanted: Sequence[Int[np.ndarray, " _"]] | None = None,
) -> tuple[Float[Tensor, " n"], Shares | None]:
    """Losses of examples, with their graph; also the probabilities of the tokens `wanted` of each row (m rows)."""
    counted = beside(terms.counted, hidden)
    target = beside(terms.target, hidden)[counted]
    uniform = None if terms.uniform is None else beside(terms.uniform, hidden)[counted]
    owners = host(counted.nonzero()[:, 0])
    parts: list[Shares] = [[] for _ in range(len(counted))]

    def label(cut: slice, logits: Tensor) -> Tensor:
        return target[cut] if uniform is None else sample_labels(logits, uniform[cut])

    def see(cut: slice, logits: Tensor, total: Tensor) -> None:
        if wanted is None:
            return
        present: list[int] = np.unique(owners[cut]).tolist()
        for example in present:
            own = torch.as_tensor(owners[cut] == example, device=logits.device)
            picked = logits[own][:, torch.as_tensor(wanted[example], device=logits.device)].float()
            share = host((picked - total[own, None].float()).exp())
            parts[example].append(share)

    size = max(1, BLOCK_BYTES // (vocabulary * full_dtype(hidden.dtype).itemsize))
    run = cast("Callable[..., Tensor]", cast("Any", _InBlocks).apply)
    token = run(hidden[counted], _Block(head, label, see), size)
    each = token.new_zeros(counted.shape).masked_scatter(counted, token)
    shares = None if wanted is None else [_stacked(one, len(ids)) for one, ids in zip(parts, wanted, strict=True)]
    return terms.combine(beside(each, terms.counted)), shares


def _stacked(parts: Shares, width: int) -> Float[np.ndarray, "t w"]:
    return np.concatenate(parts) if parts else np.zeros((0, width), dtype=np.float32)
