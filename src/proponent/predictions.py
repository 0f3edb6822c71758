"""What a classifier predicts for the rows of a test set, judged by the labels that the rows have."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.errors import InputError, LabelError
from proponent.labels import Labels
from proponent.types import Label

NO_LABEL, NO_CLASS = -1, -2
"""The truth of a row without a label, and of one whose label is no class of the model."""


@dataclass(frozen=True)
class Truth:
    """The labels of a test set as classes of a model.

    Attributes:
        classes: number of each row's class; `NO_LABEL` or `NO_CLASS` where there is none.
        unknown: labels that are no class of the model, and how many rows have them; the most frequent first.
    """

    classes: Int[np.ndarray, " n"]
    unknown: Mapping[str, int]

    @classmethod
    def of(cls, labels: Sequence[Label | None], known: Labels) -> "Truth":
        """Read labels as users write them: names, or numbers of classes."""
        numbers: dict[Label | None, int] = {None: NO_LABEL}
        for label in dict.fromkeys(labels):
            try:
                numbers[label] = NO_LABEL if label is None else known.number(label)
            except LabelError:
                numbers[label] = NO_CLASS
        classes = np.fromiter((numbers[label] for label in labels), dtype=np.int64, count=len(labels))
        counts = Counter(str(label) for label in labels if numbers[label] == NO_CLASS)
        return cls(classes, dict(counts.most_common()))


@dataclass(frozen=True)
class Predictions:
    """Predicted and true classes of the rows of a test set; rows without a class are predicted but not judged.

    Attributes:
        names: the classes, in order.
        predicted: number of the predicted class of each row.
        chances: probability of the predicted class, 0 to 1.
        truth: number of the true class; below 0 where there is none.
    """

    names: tuple[str, ...]
    predicted: Int[np.ndarray, " n"]
    chances: Float[np.ndarray, " n"]
    truth: Int[np.ndarray, " n"]

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit together, as a stored file could hold them."""
        count = len(self.predicted)
        if {len(self.chances), len(self.truth)} != {count}:
            raise InputError("the predictions and the rows differ in number: predict again")
        if count and not (self.predicted.min() >= 0 and self.predicted.max() < len(self.names)):
            raise InputError("a prediction is no class of the model: predict again")

    @cached_property
    def judged(self) -> Bool[np.ndarray, " n"]:
        """Which rows have a true class."""
        return self.truth >= 0

    @cached_property
    def wrong(self) -> Bool[np.ndarray, " n"]:
        """Which rows are predicted wrongly."""
        return self.judged & (self.predicted != self.truth)

    @property
    def accuracy(self) -> float | None:
        """Share of the judged rows that are predicted rightly, 0 to 1; None if no row is judged."""
        return 1 - int(self.wrong.sum()) / int(self.judged.sum()) if self.judged.any() else None

    @property
    def confusion(self) -> Int[np.ndarray, "l l"]:
        """Number of judged rows by true class (first axis) and predicted class (second axis)."""
        width = len(self.names)
        cells = self.truth[self.judged] * width + self.predicted[self.judged]
        return np.bincount(cells, minlength=width * width).reshape(width, width)
