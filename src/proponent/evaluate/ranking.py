"""Rankings with a known answer: planted noise, real label errors, passages that state a fact. No training.

Ties are never resolved in anyone's favour: every figure is the mean over all orders of tied rows, unless its
docstring says otherwise.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.errors import InputError
from proponent.evaluate.lds import ranks

Measure = Callable[[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]], float]
"""Maps values and sought rows to a figure of the ranking."""


@dataclass(frozen=True)
class _Groups:
    """Rows by descending value, ties grouped: cumulative numbers of rows and of sought rows."""

    rows: Float[np.ndarray, " g"]
    found: Float[np.ndarray, " g"]

    def within(self, first: float) -> float:
        """Expected number of sought rows among the first rows."""
        return float(np.interp(first, np.concatenate([[0.0], self.rows]), np.concatenate([[0.0], self.found])))


def _check(values: Float[np.ndarray, " n"], sought: Bool[np.ndarray, " n"]) -> None:
    if np.shape(values) != np.shape(sought) or np.isnan(values).any():
        raise InputError("a ranking needs one finite value for every row: leave skipped rows out")
    if not np.any(sought) or np.all(sought):
        raise InputError("a ranking needs both rows to find and other rows")


def _groups(values: Float[np.ndarray, " n"], sought: Bool[np.ndarray, " n"]) -> _Groups:
    _check(values, sought)
    _, inverse = np.unique(-np.asarray(values, dtype=np.float64), return_inverse=True)
    sizes, hits = np.bincount(inverse), np.bincount(inverse, weights=np.asarray(sought, dtype=np.float64))
    return _Groups(np.cumsum(sizes).astype(np.float64), np.cumsum(hits))


def ndr(scores: Float[np.ndarray, " n"], noisy: Bool[np.ndarray, " n"], share: float) -> float:
    """Noise detection rate: share of the noisy rows among the lowest scores (Vitel and Chhabra 2025)."""
    groups = _groups(-np.asarray(scores, dtype=np.float64), noisy)
    return groups.within(np.floor(share * len(scores) + 1e-9)) / float(np.sum(noisy))


def auc_ndr(scores: Float[np.ndarray, " n"], noisy: Bool[np.ndarray, " n"]) -> float:
    """Area under the noise detection rate, scaled so that a perfect ranking has exactly 1."""
    # Trapezoidal rule from 0 rows to all, divided by m_clean + m_noise / 2.
    groups, noise = _groups(-np.asarray(scores, dtype=np.float64), noisy), float(np.sum(noisy))
    rows, found = np.concatenate([[0.0], groups.rows]), np.concatenate([[0.0], groups.found])
    area = float((np.diff(rows) * (found[1:] + found[:-1]) / 2).sum()) / noise
    return area / (len(noisy) - noise / 2)


def roc_auc(suspicion: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]) -> float:
    """Probability that a wrong label is more suspicious than a correct one; ties count half."""
    _check(suspicion, wrong)
    # Mann-Whitney: the rank sum of the wrong labels, minus its value when they all come last.
    bad, total = float(np.sum(wrong)), float(ranks(np.asarray(suspicion, dtype=np.float64))[np.asarray(wrong)].sum())
    return (total - bad * (bad + 1) / 2) / (bad * (len(wrong) - bad))


def average_precision(suspicion: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]) -> float:
    """Precision at each distinct value, weighted by the recall that it adds; ties count together."""
    groups = _groups(suspicion, wrong)
    gained = np.diff(np.concatenate([[0.0], groups.found])) / groups.found[-1]
    return float((gained * groups.found / groups.rows).sum())


def precision_at(suspicion: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"], k: int) -> float:
    """Share of wrong labels among the k most suspicious."""
    if not 1 <= k <= len(wrong):
        raise InputError(f"k is {k}, but there are {len(wrong)} rows")
    return _groups(suspicion, wrong).within(float(k)) / k


def bootstrap_rows(
    measure: Measure, values: Float[np.ndarray, " n"], sought: Bool[np.ndarray, " n"], draws: int = 300, seed: int = 0
) -> tuple[float, float]:
    """Resample sought and other rows separately, and return a 95 % interval."""
    return _resampled_ends(lambda rows, at: measure(values[rows], at), np.asarray(sought), draws, seed)


def bootstrap_gap(
    measure: Measure,
    ours: Float[np.ndarray, " n"],
    theirs: Float[np.ndarray, " n"],
    sought: Bool[np.ndarray, " n"],
    draws: int = 300,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the same interval for the difference of two rankings of the same rows."""
    return _resampled_ends(
        lambda rows, at: measure(ours[rows], at) - measure(theirs[rows], at), np.asarray(sought), draws, seed
    )


def _resampled_ends(
    statistic: Callable[[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]], float],
    sought: Bool[np.ndarray, " n"],
    draws: int,
    seed: int,
) -> tuple[float, float]:
    found = [statistic(rows, sought[rows]) for rows in _resampled(sought, draws, seed)]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _resampled(sought: Bool[np.ndarray, " n"], draws: int, seed: int) -> Iterator[Int[np.ndarray, " n"]]:
    generator = np.random.default_rng(seed)
    inside, outside = np.flatnonzero(sought), np.flatnonzero(~sought)
    for _ in range(draws):
        yield np.concatenate([generator.choice(inside, len(inside)), generator.choice(outside, len(outside))])


def first_gold(scores: Float[np.ndarray, " n"], gold: "Sequence[int] | Int[np.ndarray, ' g']") -> float:
    """Expected rank of the first gold passage, from 1."""
    if len(gold) == 0:
        raise InputError("a query without a gold passage cannot be traced: leave it out")
    best = float(np.max(np.asarray(scores)[gold]))
    above, tied = int(np.sum(scores > best)), int(np.sum(scores == best))
    golds = int(np.sum(np.asarray(scores)[gold] == best))
    return above + (tied + 1) / (golds + 1)


def reciprocal_ranks(
    scores: Float[np.ndarray, "q n"], gold: Sequence["Sequence[int] | Int[np.ndarray, ' g']"]
) -> Float[np.ndarray, " q"]:
    """1 / rank of the first gold passage; their mean is the MRR."""
    return np.asarray([1.0 / first_gold(row, one) for row, one in zip(scores, gold, strict=True)])


def recalls(
    scores: Float[np.ndarray, "q n"], gold: Sequence["Sequence[int] | Int[np.ndarray, ' g']"], k: int
) -> Float[np.ndarray, " q"]:
    """Recall@k: |top k and gold| / min(k, |gold|), the mean over all orders of tied rows."""
    found: list[float] = []
    for row, one in zip(scores, gold, strict=True):
        sought = np.zeros(len(row), dtype=np.bool_)
        sought[np.asarray(one, dtype=np.int64)] = True
        found.append(_groups(row, sought).within(float(min(k, len(row)))) / min(k, len(one)))
    return np.asarray(found)
