"""Model outputs on queries: log-odds, loss, probability."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

_FEW_CLASSES = 100
"""Up to so many classes each is deleted in turn, which keeps the bits of stored retrains; beyond, it takes too long."""

Output = Literal["log-odds", "loss", "probability"]
"""The output to compare; higher is better for all of them."""


@dataclass(frozen=True)
class Outputs:
    """Outputs of one trained model on all queries."""

    log_odds: Float[np.ndarray, "q l"]  # of every class; a language model has one column, p = exp(-loss)
    loss: Float[np.ndarray, " q"]  # of the true class or the counted tokens, in nats

    @classmethod
    def of_logits(cls, logits: Float[np.ndarray, "q l"], labels: Int[np.ndarray, " q"]) -> "Outputs":
        """Compute the outputs from the logits of a classifier."""
        wide = np.asarray(logits, dtype=np.float64)
        whole = _log_sum_exp(wide)
        others = _others(wide, whole)
        return cls(wide - others, whole - wide[np.arange(len(wide)), np.asarray(labels)])

    @classmethod
    def of_losses(cls, losses: Float[np.ndarray, " q"]) -> "Outputs":
        """Compute the outputs from the losses of a language model."""
        wide = np.maximum(np.asarray(losses, dtype=np.float64), 1e-12)
        return cls((-wide - np.log(-np.expm1(-wide)))[:, None], wide)

    @property
    def probabilities(self) -> Float[np.ndarray, "q l"]:
        """Class probabilities."""
        return 1.0 / (1.0 + np.exp(-self.log_odds))

    @property
    def predicted(self) -> Int[np.ndarray, " q"]:
        """Most likely class of each query."""
        return self.log_odds.argmax(1)

    def of(self, classes: Int[np.ndarray, " q"], output: Output = "log-odds") -> Float[np.ndarray, " q"]:
        """Return one output per query; higher is better."""
        one = self.log_odds.shape[1] == 1
        odds = self.log_odds[np.arange(len(self.loss)), 0 if one else np.asarray(classes)]
        if output == "log-odds":
            return odds
        return -np.logaddexp(0.0, -odds) if output == "loss" else 1.0 / (1.0 + np.exp(-odds))


def _others(values: Float[np.ndarray, "q l"], whole: Float[np.ndarray, " q"]) -> Float[np.ndarray, "q l"]:
    """Log of the summed exponentials of all other classes."""
    if values.shape[1] <= _FEW_CLASSES:
        return np.stack([_log_sum_exp(np.delete(values, one, axis=1)) for one in range(values.shape[1])], axis=1)
    # a class below one half leaves enough of the sum; the one above it, if any, is left out
    share = np.exp(values - whole[:, None])
    others = whole[:, None] + np.log1p(-np.minimum(share, 0.5))
    for row, top in enumerate(values.argmax(1).tolist()):
        others[row, top] = _log_sum_exp(np.delete(values[row : row + 1], top, axis=1))[0]
    return others


def _log_sum_exp(values: Float[np.ndarray, "q l"]) -> Float[np.ndarray, " q"]:
    top = values.max(axis=1, keepdims=True)
    return (top + np.log(np.exp(values - top).sum(axis=1, keepdims=True)))[:, 0]
