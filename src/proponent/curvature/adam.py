"""Turn gradients by what the optimizer knows of the loss surface: Adam's second moments.

The product of two gradients is divided once by sqrt(v + epsilon): to first order what an Adam step on the training
example does to the query's loss, up to momentum and the place of epsilon. The query side is turned, so that an index
keeps plain gradients.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float

from proponent.gradients.forms import Rows


@dataclass(frozen=True)
class SecondMoment:
    """A diagonal preconditioner for embedding gradients.

    Attributes:
        v: second moment of every coordinate of the table.
        epsilon: added under the root.
        source: where v comes from, in words.
    """

    v: Float[np.ndarray, "v d"]
    epsilon: float
    source: str

    @cached_property
    def inverse_root(self) -> Float[np.ndarray, "v d"]:
        """1 / sqrt(v + epsilon), coordinate by coordinate."""
        return (1.0 / np.sqrt(self.v + np.float32(self.epsilon))).astype(np.float32)


@dataclass
class MeanSquares:
    """Estimate the second moment from the training set: the mean over its examples of the squared row gradients.

    Attributes:
        vocabulary: rows of the table.
        width: columns of the table.
    """

    vocabulary: int
    width: int
    _total: Float[np.ndarray, "v d"] = field(init=False)
    _seen: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._total = np.zeros((self.vocabulary, self.width), dtype=np.float32)

    def add(self, rows: Rows) -> None:
        """Take in a batch."""
        totals = rows.merged(by_word=False)
        batch = np.asarray([0, len(totals.ids)])  # as if it were one example: sums the squares of equal tokens
        squares = replace(totals, indptr=batch, rows=totals.rows**2).merged(by_word=False)
        self._total[squares.ids] += squares.rows
        self._seen += len(rows)

    def fitted(self, epsilon: float) -> SecondMoment:
        """Finish."""
        return SecondMoment(
            self._total / max(self._seen, 1), epsilon, "estimated: mean squared row gradient over the training set"
        )
