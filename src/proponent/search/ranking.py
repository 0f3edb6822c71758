"""Both ends of a ranking, kept while scores stream past: exact, with stable ties.

A streamed score is a sum of 32-bit products and so has a bounded error. What could still be among the first k, given
that error, stays a candidate; the few candidates that are left at the end are scored again in 64 bits, one by one, and
sorted by that score and then by their place in the data. So neither threads, nor kernels, nor the batch a query is in,
nor pruning can change a ranking.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from proponent.scorer import TopKBothEnds

BLOCK = 64
"""Scores of which only the largest counts when a first bar is sought."""


@dataclass
class Counter:
    """What a search read."""

    postings_read: int = 0  # gradient rows whose products were taken
    postings_skipped: int = 0  # rows of the queries' tokens that bounds made unnecessary
    bytes_read: int = 0  # of gradient rows
    segments_skipped: int = 0  # segments of which not even the norms were read

    def add(self, other: "Counter") -> None:
        """Add up."""
        self.postings_read += other.postings_read
        self.postings_skipped += other.postings_skipped
        self.bytes_read += other.bytes_read
        self.segments_skipped += other.segments_skipped


@dataclass
class TopK:
    """Candidates for one end of a ranking."""

    k: int  # how many are wanted
    sign: float  # +1 for the largest scores, -1 for the smallest
    threshold: float = 0.0
    _examples: Int[np.ndarray, " m"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    _most: Float[np.ndarray, " m"] = field(default_factory=lambda: np.zeros(0))
    _least: Float[np.ndarray, " m"] = field(default_factory=lambda: np.zeros(0))

    def add(
        self, examples: Int[np.ndarray, " m"], scores: Float[np.ndarray, " m"], errors: Float[np.ndarray, " m"]
    ) -> None:
        """Take in scores."""
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
        """Score the candidates that are left again, and sort them."""
        scores = np.asarray([exact(example) for example in self._examples.tolist()], dtype=np.float64)
        right = self.sign * scores > 0
        examples, scores = self._examples[right], scores[right]
        order = np.lexsort((examples, -self.sign * scores))[: self.k]
        return examples[order], scores[order]


def _reached(least: Float[np.ndarray, " m"], k: int) -> float:
    """A score that k of many examples reach, from the largest of every block of them; 0 where that says nothing."""
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
        """No example whose score is smaller than this in magnitude can be among the hits."""
        return min(self.proponents.threshold, self.opponents.threshold)

    def add(
        self, examples: Int[np.ndarray, " m"], scores: Float[np.ndarray, " m"], errors: Float[np.ndarray, " m"]
    ) -> None:
        """Take in scores; see `TopK.add`."""
        self.proponents.add(examples, scores, errors)
        self.opponents.add(examples, scores, errors)

    def ranking(self, exact: Callable[[int], float]) -> TopKBothEnds:
        """Finish."""
        return TopKBothEnds(*self.proponents.ranked(exact), *self.opponents.ranked(exact))
