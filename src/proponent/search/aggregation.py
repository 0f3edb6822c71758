"""Aggregate the scores of many layers and many queries into one number per training example.

Vitel and Chhabra 2025 (arXiv 2511.04715): mean, rank and vote. Which queries count (all, or those that the model
predicts correctly) is a separate choice here, the same for all three rules.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.errors import InputError

How = Literal["mean", "rank", "vote"]
RULES: tuple[How, ...] = ("mean", "rank", "vote")


class Votes:
    """Aggregates scores voter by voter: a voter is one layer (or checkpoint) and one query. Scores are not stored."""

    # Ranks are counted from 0 per voter: the number of training examples with a smaller score. Ties are ranked in data
    # order, so the result does not depend on the machine.

    def __init__(self, how: How, k: float, n: int) -> None:
        if not 0 < k <= max(n, 1):
            raise InputError(f"k is {k:g}: give a share of the {n} training examples up to 1, or a number of them")
        self.how, self.voters = how, 0
        self.first = k * n if k <= 1 else k
        self._total = np.zeros(n)

    def add(self, scores: Float[np.ndarray, "v n"]) -> None:
        """Add some voters."""
        self.voters += len(scores)
        if self.how == "mean":
            self._total += scores.sum(0)
        elif self.how == "rank":
            self._total += _ranks(scores).sum(0)
        else:
            self._total -= np.maximum(self.first - _ranks(scores), 0.0).sum(0)

    def result(self) -> Float[np.ndarray, " n"]:
        """Return the result."""
        if not self.voters:
            raise InputError("no queries are left to aggregate: the model predicts none of them correctly")
        return self._total.copy() if self.how == "vote" else self._total / self.voters


def aggregate(
    scores: Float[np.ndarray, "g q n"],
    how: How = "mean",
    *,
    k: float = 0.2,
    queries: Bool[np.ndarray, " q"] | None = None,
) -> Float[np.ndarray, " n"]:
    """Aggregate scores; see `Votes`."""
    votes = Votes(how, k, scores.shape[2])
    for layer in scores:
        votes.add(layer if queries is None else layer[queries])
    return votes.result()


def _ranks(scores: Float[np.ndarray, "v n"]) -> Int[np.ndarray, "v n"]:
    order = np.argsort(scores, axis=1, kind="stable")
    return np.argsort(order, axis=1, kind="stable")  # the inverse of a permutation is its own order
