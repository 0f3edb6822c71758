"""Which tokens of a text a masked language model has to guess: one choice for every text, which stays.

Training draws other masks in every epoch. The choice depends on a seed and the text's own tokens alone, neither on the
order of the rows nor on what else is in the data set.
"""

from dataclasses import dataclass

import numpy as np
import xxhash
from jaxtyping import Bool, Int

from proponent.method import MaskedLoss, Term


@dataclass(frozen=True)
class Masks:
    """How tokens are chosen that are masked and have to be guessed."""

    share: float = 0.15  # of a text's tokens, at least one; special tokens are never chosen
    seed: int = 0  # of the draw

    @classmethod
    def of(cls, method: Term) -> "Masks":
        """The masks of a method."""
        objective = method.objective
        return cls(objective.share, objective.seed) if isinstance(objective, MaskedLoss) else cls()

    def draw(self, ids: Int[np.ndarray, " t"], parts: Int[np.ndarray, " t"]) -> Bool[np.ndarray, " t"]:
        """Choose tokens of one text."""
        open_to_it = np.flatnonzero(parts >= 0)
        count = min(len(open_to_it), max(1, round(self.share * len(open_to_it))))
        own = xxhash.xxh3_64_intdigest(ids.astype("<i8").tobytes())
        chosen = np.zeros(len(ids), dtype=np.bool_)
        chosen[np.random.default_rng([self.seed, own]).permutation(open_to_it)[:count]] = True
        return chosen


ONE_DRAW = Masks()
"""The masks of every method that says nothing else."""
