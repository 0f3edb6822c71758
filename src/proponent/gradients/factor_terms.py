"""Exact token x token terms of the product of two layer gradients, from the factors of both.

A layer's gradient is a sum over positions of left right^T, so the product of two gradients is a sum over pairs of
positions of (left . left')(right . right'): every token of one text and every token of the other have a term of their
own, which belongs to no other pair. No gradient is formed.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from proponent.gradients.forms import Terms, gather
from proponent.gradients.layer_hooks import Call, TokenWords
from proponent.gradients.layer_rules import Block, OneHot
from proponent.models.placement import host

Calls = Mapping[str, Sequence[Call]]
"""The calls of each layer for one example, by the name of the layer."""

Factors = Callable[[Block, Call], tuple[Float[Tensor, "n s p"], Float[Tensor, "n s q"]]]
"""Both factors of one call, for example projected."""


def factor_terms(
    blocks: Sequence[Block],
    mine: tuple[Calls, TokenWords],
    theirs: tuple[Calls, TokenWords],
    widths: tuple[int, int],
    factors: Factors | None = None,
) -> Terms:
    """Split the product of two examples' gradients over some layers into word x word terms.

    Args:
        blocks: the layers.
        mine: the calls of one example and the words of its positions.
        theirs: the same for the other example.
        widths: the numbers of words of both texts.
        factors: projects the factors of a call; None takes them as they are.

    Returns:
        Terms [w+1, x+1] in 64 bits; the last row and column belong to special tokens and pooled positions. They sum to
        the product of the gradients.
    """
    total = np.zeros((widths[0] + 1, widths[1] + 1))
    for block in blocks:
        for call in mine[0].get(block.name, ()):
            for other in theirs[0].get(block.name, ()):
                product = position_terms(block, call, other, factors)
                total += gather(product, mine[1].of(call), theirs[1].of(other), *widths)
    return total


def position_terms(block: Block, mine: Call, theirs: Call, factors: Factors | None = None) -> Float[np.ndarray, "s r"]:
    """Return the term of every position of one call with every position of another, in 64 bits."""
    if factors is None and isinstance(mine.left, OneHot) and isinstance(theirs.left, OneHot):
        left = (mine.left.ids[0][:, None] == theirs.left.ids[0][None, :]).double()
        return host(left * _product(mine.right, theirs.right))
    take = factors or _plain
    (left, right), (other_left, other_right) = take(block, mine), take(block, theirs)
    return host(_product(left, other_left) * _product(right, other_right))


def _plain(_block: Block, call: Call) -> tuple[Tensor, Tensor]:
    return call.left.full() if isinstance(call.left, OneHot) else call.left, call.right


def _product(mine: Float[Tensor, "1 s p"], theirs: Float[Tensor, "1 r p"]) -> Float[Tensor, "s r"]:
    return mine[0].to(torch.float64) @ theirs[0].to(torch.float64).T
