"""Which tokens a masked language model must predict: one fixed choice for every text.

Training draws new masks in every epoch. Here the choice depends only on a seed and the text's own tokens, neither on
the order of the rows nor on other rows of the data set.
"""

from dataclasses import dataclass

import numpy as np
import xxhash
from jaxtyping import Bool, Int

from proponent.method import MaskedLoss, Term


@dataclass(frozen=True)
class Masks:
    """How the masked tokens are chosen."""

    share: float = 0.15  # share of a text's tokens, at least one token; special tokens are never chosen
    seed: int = 0  # seed of the draw

    @classmethod
    def of(cls, method: Term) -> "Masks":
        """The masks of a method."""
        objective = method.objective
        return cls(objective.share, objective.seed) if isinstance(objective, MaskedLoss) else cls()

    def draw(self, ids: Int[np.ndarray, " t"], parts: Int[np.ndarray, " t"]) -> Bool[np.ndarray, " t"]:
        """Choose the tokens of one text."""
        open_to_it = np.flatnonzero(parts >= 0)
        count = min(len(open_to_it), max(1, round(self.share * len(open_to_it))))
        own = xxhash.xxh3_64_intdigest(ids.astype("<i8").tobytes())
        chosen = np.zeros(len(ids), dtype=np.bool_)
        chosen[np.random.default_rng([self.seed, own]).permutation(open_to_it)[:count]] = True
        return chosen


ONE_DRAW = Masks()
"""The default masks of a method."""
