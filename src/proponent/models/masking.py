"""Which tokens of a text a masked language model has to guess: drawn once for every text, or the gap that a row names.

Training draws other masks in every epoch; a gradient needs one choice, which stays. It is drawn from a seed and the
text's own tokens, so that it depends neither on the order of the rows nor on what else is in the data set. The seed and
the share stand in the recipe, hence in the plan of an index.
"""

from dataclasses import dataclass

import numpy as np
import xxhash
from jaxtyping import Bool, Int

from proponent.errors import InputError
from proponent.recipe import Recipe
from proponent.types import Example


@dataclass(frozen=True)
class Masks:
    """How tokens are chosen that are masked and have to be guessed.

    Attributes:
        share: of a text's tokens, at least one; special tokens are never chosen.
        seed: of the draw.
    """

    share: float = 0.15
    seed: int = 0

    @classmethod
    def of(cls, recipe: Recipe) -> "Masks":
        """The masks of a recipe."""
        return cls(recipe.mask_share, recipe.mask_seed)

    def draw(self, ids: Int[np.ndarray, " t"], parts: Int[np.ndarray, " t"]) -> Bool[np.ndarray, " t"]:
        """Choose tokens of one text."""
        open_to_it = np.flatnonzero(parts >= 0)
        count = min(len(open_to_it), max(1, round(self.share * len(open_to_it))))
        own = xxhash.xxh3_64_intdigest(ids.astype("<i8").tobytes())
        chosen = np.zeros(len(ids), dtype=np.bool_)
        chosen[np.random.default_rng([self.seed, own]).permutation(open_to_it)[:count]] = True
        return chosen


ONE_DRAW = Masks()
"""The masks of every recipe that says nothing else."""


def filled(example: Example, mask: str) -> str:
    """The whole text of a masked language model's example: a gap is filled with the target."""
    gaps = example.text.count(mask)
    if example.target is None:
        if gaps:
            raise InputError(
                f"the example with id {example.id} has a masked token {mask} but no target: give the masked text as "
                "its target (--target, --target-column)"
            )
        return example.text
    if gaps != 1:
        raise InputError(
            f"the example with id {example.id} has a target and {gaps} gaps: write {mask} once, where the target stands"
        )
    return example.text.replace(mask, example.target)


def split_gap(
    offsets: Int[np.ndarray, "t 2"], parts: Int[np.ndarray, " t"], example: Example, mask: str
) -> tuple[Int[np.ndarray, "t 2"], Int[np.ndarray, " t"], Bool[np.ndarray, " t"]]:
    """Offsets into the filled text become offsets into text and target."""
    target = example.target or ""
    begin = example.text.index(mask)
    end = begin + len(target)
    inside = (parts >= 0) & (offsets[:, 1] > begin) & (offsets[:, 0] < end)
    after = (parts >= 0) & (offsets[:, 0] >= end) & ~inside
    moved = np.where(after[:, None], offsets + len(mask) - len(target), offsets)
    moved = np.where(inside[:, None], np.clip(offsets - begin, 0, len(target)), moved)
    return moved, np.where(inside, 1, parts), inside
