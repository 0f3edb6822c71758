"""The scores of all training examples for one question, counted; what is stored with an answer, and its histogram."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from proponent.views.histogram import Histogram, ScoreBin, Threshold

MOST_BINS = 1000
"""Bins of a stored answer, which may be another's; this version makes `histogram.BINS`."""

LARGEST, LEAST = 1e300, 1e-290
"""Magnitude of a bound, and width of all bins together: a drawing needs numbers that it can divide."""


@dataclass(frozen=True, slots=True)
class ScoreCounts:
    """How many training examples have which score."""

    low: Annotated[float, "lower bound of the first bin"]
    high: Annotated[float, "upper bound of the last bin, which holds it, too"]
    counts: Annotated[tuple[int, ...], "examples in each bin, from low to high; all bins are equally wide"]
    left_out: Annotated[int, "examples without a finite score: deleted, missing, or overflowed"] = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn: a stored answer may come from somebody else."""
        if not (self.low >= -LARGEST and self.high <= LARGEST and self.high - self.low >= LEAST):
            raise ValueError(f"bins from {self.low} to {self.high} cannot be drawn")
        if not 1 <= len(self.counts) <= MOST_BINS or min(*self.counts, self.left_out, 0) < 0:
            raise ValueError(f"there must be 1 to {MOST_BINS} counts, none below 0")
        if self.total + self.left_out > 2**53:
            raise ValueError("more examples are counted than an index can have")

    @property
    def total(self) -> int:
        """Number of examples that are counted."""
        return sum(self.counts)

    @property
    def edges(self) -> tuple[float, ...]:
        """Bounds of the bins, as numpy computes them."""
        step = (self.high - self.low) / len(self.counts)
        return (*(at * step + self.low for at in range(len(self.counts))), self.high)

    def beyond(self, score: float) -> int:
        """Examples in the bin of a score and in all bins on its side of zero that are farther from zero."""
        at = bisect_right(self.edges[1:-1], score)
        return sum(self.counts[at:] if score > 0 else self.counts[: at + 1])

    def plot(self, last: Iterable[tuple[str, float]]) -> Histogram:
        """The histogram, with a line at the score of the last listed example of each side, "helped" or "hurt"."""
        edges = self.edges
        return Histogram(
            title="Scores of all training examples for this question",
            value_name="score",
            part_name="",
            bins=tuple(
                ScoreBin(low=low, high=high, count=count, part=0)
                for low, high, count in zip(edges[:-1], edges[1:], self.counts, strict=True)
            ),
            left_out=self.left_out,
            thresholds=tuple(Threshold(score, self._said(side, score)) for side, score in last),
        )

    def _said(self, side: str, score: float) -> str:
        where = f"are in the bar at this line or {'right' if score > 0 else 'left'} of it"
        return f"the last example that {side} has {score:.3g}: {self.beyond(score):,} of {self.total:,} {where}"
