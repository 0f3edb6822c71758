"""Label noise: planted labels and verified label errors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from proponent.errors import DataError
from proponent.types import Example


def plant(examples: Sequence[Example], share: float, seed: int = 0) -> tuple[list[Example], Bool[np.ndarray, " n"]]:
    """Give some rows another label, drawn uniformly from the other classes."""
    classes = {str(one.label): one.label for one in examples if one.label is not None}
    if len(classes) < 2 or any(one.label is None for one in examples):
        raise DataError("label noise can only be planted where every row has one of at least two labels")
    generator = np.random.default_rng(seed)
    wrong = np.zeros(len(examples), dtype=np.bool_)
    wrong[generator.choice(len(examples), round(share * len(examples)), replace=False)] = True
    made: list[Example] = []
    for one, flip in zip(examples, wrong.tolist(), strict=True):
        others = [classes[name] for name in sorted(classes) if name != str(one.label)]
        made.append(replace(one, label=others[int(generator.integers(len(others)))]) if flip else one)
    return made, wrong


def wrong_labels(examples: Sequence[Example], truth: Mapping[str, str]) -> Bool[np.ndarray, " n"]:
    """Compare given labels with true ones."""
    wrong = np.asarray([truth.get(one.id, str(one.label)) != str(one.label) for one in examples])
    if not wrong.any() or wrong.all():
        raise DataError(f"{int(wrong.sum())} of {len(wrong)} labels differ from the truth column: nothing to find")
    return wrong
