"""Sums of scores over the training examples with one value of a column."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class GroupScores:
    """Sum of the scores of all training examples with one value of a column."""

    name: Annotated[str, "the value; empty for none"]
    n: Annotated[int, "training examples"]
    proponents: Annotated[float, "sum of the scores above zero"]
    opponents: Annotated[float, "sum of the scores below zero"]

    @property
    def total(self) -> float:
        """Sum of their scores."""
        return self.proponents + self.opponents

    @property
    def mean(self) -> float:
        """Total divided by n."""
        return self.total / max(1, self.n)
