"""Both ends of a ranking, updated while scores are streamed: exact, with stable ties.

A streamed score is a sum of 32-bit products and so has a bounded error. All examples that may be among the first k,
given that error, stay candidates; the few candidates that remain at the end are scored again in 64 bits, one by one,
and sorted by that score and then in data order. So threads, kernels, the batch of a query and pruning cannot change a
ranking.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from proponent.scorer import TopKBothEnds

BLOCK = 64
"""Scores per block, of which only the maximum counts for the first threshold."""


@dataclass
class Counter:
    """Counts of what a search read."""

    postings_read: int = 0  # gradient rows that were multiplied
    postings_skipped: int = 0  # rows of the query tokens that bounds excluded
    bytes_read: int = 0  # of gradient rows
    segments_skipped: int = 0  # segments whose norms were not read either

    def add(self, other: "Counter") -> None:
        """Add up."""
        self.postings_read += other.postings_read
        self.postings_skipped += other.postings_skipped
        self.bytes_read += other.bytes_read
        self.segments_skipped += other.segments_skipped


@dataclass
class TopK:
    """Candidates for one end of a ranking."""

    k: int  # number of hits per end
    sign: float  # +1 for the largest scores, -1 for the smallest
    threshold: float = 0.0
    _examples: Int[np.ndarray, " m"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    _most: Float[np.ndarray, " m"] = field(default_factory=lambda: np.zeros(0))
    _least: Float[np.ndarray, " m"] = field(default_factory=lambda: np.zeros(0))

    def add(
        self, examples: Int[np.ndarray, " m"], scores: Float[np.ndarray, " m"], errors: Float[np.ndarray, " m"]
    ) -> None:
        """Add scores."""
        turned = self.sign * scores
        self.threshold = max(self.threshold, _reached(turned - errors, self.k))
        most = turned + errors
        kept = np.flatnonzero((most >= self.threshold) & (most > 0))
        self._examples = np.concatenate([self._examples, examples[kept]])
        self._most = np.concatenate([self._most, most[kept]])
        self._least = np.concatenate([self._least, (turned - errors)[kept]])
        if len(self._least) > self.k:
            self.threshold = max(self.threshold, float(np.partition(self._least, -self.k)[-self.k]))
        elif len(self._least) == self.k:
            self.threshold = max(self.threshold, float(self._least.min()))
        kept = self._most >= self.threshold
        self._examples, self._most, self._least = self._examples[kept], self._most[kept], self._least[kept]

    def ranked(self, exact: Callable[[int], float]) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Score the remaining candidates again, and sort them."""
        scores = np.asarray([exact(example) for example in self._examples.tolist()], dtype=np.float64)
        right = self.sign * scores > 0
        examples, scores = self._examples[right], scores[right]
        order = np.lexsort((examples, -self.sign * scores))[: self.k]
        return examples[order], scores[order]


def _reached(least: Float[np.ndarray, " m"], k: int) -> float:
    """A score that k of many examples reach, from the maximum of every block; 0 if the blocks give no bound."""
    blocks = len(least) // BLOCK
    if blocks < k:
        return 0.0
    largest = least[: blocks * BLOCK].reshape(blocks, BLOCK).max(1)
    return max(0.0, float(np.partition(largest, -k)[-k]))


class BothEnds:
    """Candidates for both ends of one query's ranking."""

    def __init__(self, k: int) -> None:
        self.proponents, self.opponents = TopK(k, 1.0), TopK(k, -1.0)

    @property
    def threshold(self) -> float:
        """No example whose score is smaller in magnitude can be among the hits."""
        return min(self.proponents.threshold, self.opponents.threshold)

    def add(
        self, examples: Int[np.ndarray, " m"], scores: Float[np.ndarray, " m"], errors: Float[np.ndarray, " m"]
    ) -> None:
        """Add scores; see `TopK.add`."""
        self.proponents.add(examples, scores, errors)
        self.opponents.add(examples, scores, errors)

    def ranking(self, exact: Callable[[int], float]) -> TopKBothEnds:
        """Return the final ranking."""
        return TopKBothEnds(*self.proponents.ranked(exact), *self.opponents.ranked(exact))
