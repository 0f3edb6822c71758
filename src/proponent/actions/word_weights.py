"""Example weights under which no word tells the label, fitted to the z-statistics of words."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from proponent.actions.word_labels import WordTable
from proponent.errors import InputError
from proponent.progress import track


@dataclass(frozen=True)
class Weighting:
    """How example weights are fitted: Adam on v, with weights n * softmax(v)."""

    beta: float = 1e-3  # penalty of uneven weights: factor of the mean of (w - 1)^2
    steps: int = 400
    rate: float = 0.05

    def check(self) -> None:
        """Refuse settings that cannot work."""
        if not (np.isfinite(self.beta) and self.beta >= 0):
            raise InputError(f"--beta {self.beta}: must be a number of at least 0, such as 0.001")
        if self.steps < 1:
            raise InputError(f"--steps {self.steps}: must be at least 1")


DEFAULT = Weighting()


def reweight(table: WordTable, settings: Weighting = DEFAULT, *, quiet: bool = True) -> Float[np.ndarray, " n"]:
    """Fit one weight per example, at least 0 and 1 in the mean, so that no word tells the label.

    Minimises mean z^2 + beta * mean (w - 1)^2 by Adam on v, with w = n * softmax(v). The share of each label is kept: a
    word in all examples, whose z is taken against the shares of the plain data, is counted as one more word.

    Args:
        table: the words.
        settings: penalty, steps and rate.
        quiet: no progress on stderr.

    Returns:
        The weights.

    Raises:
        InputError: the settings are invalid, or the weights collapsed onto a few examples.
    """
    settings.check()
    size = len(table.given)
    v, mean, square = np.zeros(size), np.zeros(size), np.zeros(size)
    every = _with_all(table)
    prior = table.prior()
    label = "fitting example weights"
    for step in track(range(1, settings.steps + 1), total=settings.steps, label=label, unit="steps", quiet=quiet):
        w = _softmax(v)
        by_weight = _slope(every, w, prior, settings.beta)
        slope = w * (by_weight - (w @ by_weight) / size)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        v -= settings.rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    w = _softmax(v)
    if not np.isfinite(w).all() or effective_size(w) < max(2.0, 0.01 * size):
        raise InputError(
            f"the weights collapsed: {int((w > 0.01).sum())} of {size} rows carry nearly all of them, the others are "
            "at their bound 0: raise --beta, or --min-count, so that fewer words are balanced"
        )
    return w


def _softmax(v: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    raised = np.exp(v - v.max())
    return len(v) * raised / raised.sum()


def _with_all(table: WordTable) -> WordTable:
    """The table with one more word that every example holds."""
    size = len(table.given)
    rows = np.concatenate([table.rows, np.arange(size)])
    words = np.concatenate([table.words, np.full(size, len(table))])
    return replace(table, names=(*table.names, ("", "")), rows=rows, words=words)


def _slope(
    table: WordTable, w: Float[np.ndarray, " n"], plain: Float[np.ndarray, " l"], beta: float
) -> Float[np.ndarray, " n"]:
    """Derivative of the objective by every weight; the last word of the table is that of all examples."""
    prior = np.clip(table.prior(w), 1e-6, 1 - 1e-6)
    target = np.repeat(prior[None], len(table), axis=0)
    target[-1] = plain
    sums, root = table.sums(w), np.sqrt(table.counts)[:, None]
    total = np.maximum(sums.sum(1, keepdims=True), 1e-12)
    shares, variance = sums / total, target * (1 - target)
    z = (shares - target) * root / np.sqrt(variance)
    by_z = 2 * z / z.size
    by_share = by_z * root / np.sqrt(variance)
    by_sum = (by_share - (by_share * shares).sum(1, keepdims=True)) / total
    by_prior = (-by_share - by_z * z * (1 - 2 * target) / (2 * variance))[:-1].sum(0)  # the last target is fixed
    made = np.bincount(table.rows, weights=by_sum[table.words, table.given[table.rows]], minlength=len(w))
    # the prior divides by the sum of the weights, which is fixed at n
    return made + by_prior[table.given] / len(w) + 2 * beta * (w - 1) / len(w)


def effective_size(weights: Float[np.ndarray, " n"]) -> float:
    """Effective sample size: (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / (weights**2).sum())
