"""Join the scores of many layers and many validation examples into one number per training example.

Vitel and Chhabra 2025 (arXiv 2511.04715): mean, rank and vote. Which validation examples count (all, or those that
the model predicts correctly) is a choice of its own here, for all three rules alike.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.errors import InputError

How = Literal["mean", "rank", "vote"]
RULES: tuple[How, ...] = ("mean", "rank", "vote")


def aggregate(
    scores: Float[np.ndarray, "g q n"],
    how: How = "mean",
    *,
    k: float = 0.2,
    queries: Bool[np.ndarray, " q"] | None = None,
) -> Float[np.ndarray, " n"]:
    """Aggregate scores; the lowest are the most suspicious.

    Ranks are counted from 0 per layer and query: the number of training examples with a smaller score; equal scores are
    taken in data order, so the result does not depend on the machine.

    Args:
        scores: of layers g, queries q and training examples n.
        how: mean of the scores; mean of the ranks; or votes: minus the sum of max(k - rank, 0).
        k: how many of the lowest ranks vote, a share of n up to 1, or a number of examples above 1.
        queries: which queries count; None counts all.

    Returns:
        One number per training example.

    Raises:
        InputError: no query counts, or k is not above 0.
    """
    chosen = scores if queries is None else scores[:, queries]
    if chosen.shape[1] == 0:
        raise InputError("no query is left to aggregate over: the model predicts none of them correctly")
    if k <= 0:
        raise InputError(f"k is {k}: give a share of the training set, or a number of examples")
    if how == "mean":
        return chosen.mean((0, 1))
    ranks = _ranks(chosen)
    if how == "rank":
        return ranks.mean((0, 1))
    first = k * scores.shape[2] if k <= 1 else k
    return -np.maximum(first - ranks, 0.0).sum((0, 1))


def _ranks(scores: Float[np.ndarray, "g q n"]) -> Int[np.ndarray, "g q n"]:
    order = np.argsort(scores, axis=2, kind="stable")
    return np.argsort(order, axis=2, kind="stable")  # the inverse of a permutation is its own order
