"""Pairs of answers: the gradient of a pair is that of its two rows, which lie next to each other in a batch."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from jaxtyping import Int
from torch import Tensor

from proponent.gradients.capture import Captured
from proponent.gradients.layer_hooks import Call
from proponent.gradients.layer_rules import OneHot
from proponent.models import Encoded


def joined_pairs(captured: Captured) -> Captured:
    """Make one example of the two rows of each pair; losses are those of pairs already."""
    calls = captured.calls
    return replace(
        captured,
        inputs=None,
        rows=None if captured.rows is None else captured.rows.joined(2),
        outer=None if captured.outer is None else captured.outer.joined(2),
        pooled=None if captured.pooled is None else captured.pooled.reshape(-1, 2, captured.pooled.shape[1]).mean(1),
        calls=None if calls is None else {name: [_joined(one) for one in some] for name, some in calls.items()},
    )


def _joined(call: Call) -> Call:
    """The positions of both rows, one after the other: a layer's gradient is a sum over positions."""
    left = call.left
    joined = OneHot(_side_by_side(left.ids), left.size) if isinstance(left, OneHot) else _side_by_side(left)
    return replace(call, left=joined, right=_side_by_side(call.right))


def _side_by_side(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0] // 2, 2 * x.shape[1], *x.shape[2:])


def pair_words(one: Encoded) -> Int[np.ndarray, " t"]:
    """The words of both rows, each padded to the longer one."""
    width = max(len(side.ids) for side in one.sides)
    return np.concatenate([np.pad(side.words, (0, width - len(side.ids)), constant_values=-1) for side in one.sides])


def slices_by_kind(encoded: Sequence[Encoded]) -> list[slice]:
    """Split a batch so that each part has pairs only, or none."""
    kinds = [one.rejected is not None for one in encoded]
    edges = [0, *(at for at in range(1, len(kinds)) if kinds[at] != kinds[at - 1]), len(kinds)]
    return [slice(start, stop) for start, stop in pairwise(edges)]
