"""The loss of a language model on the rows of a test set."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.errors import InputError

MOST_TOKENS = 2**31
"""Largest number of tokens of a row: a model reads far fewer."""


@dataclass(frozen=True)
class RowLosses:
    """Losses of rows that a language model was not trained on.

    Attributes:
        losses: mean loss of each row over the tokens that count, in nats; NaN where none counts, or where it is not
            finite.
        tokens: number of tokens of each row that count.
        truncated: which rows are longer than the model reads.
    """

    losses: Float[np.ndarray, " n"]
    tokens: Int[np.ndarray, " n"]
    truncated: Bool[np.ndarray, " n"]

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit together, as a stored file could hold them."""
        if {one.shape for one in (self.tokens, self.truncated)} != {(len(self.losses),)}:
            raise InputError("the losses and the rows differ in number: measure them again")
        if (self.losses < 0).any() or ((self.tokens < 0) | (self.tokens > MOST_TOKENS)).any():
            raise InputError("a loss or a number of tokens cannot be: measure them again")

    @cached_property
    def measured(self) -> Bool[np.ndarray, " n"]:
        """Which rows have a loss."""
        return np.isfinite(self.losses) & (self.tokens > 0)

    @property
    def loss(self) -> float | None:
        """Mean loss of all tokens that count, in nats; None if no row has a loss."""
        some = self.measured
        total = int(self.tokens[some].sum())
        return float((self.losses[some] * self.tokens[some]).sum() / total) if total else None

    @property
    def perplexity(self) -> float | None:
        """Exponential of the mean loss; None if no row has a loss, infinite if it is too large for a number."""
        mean = self.loss
        return None if mean is None else math.exp(mean) if mean < 700 else math.inf
