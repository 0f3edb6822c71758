"""Linear datamodeling score: correlation of summed scores with outputs of models trained on random subsets.

Ilyas et al. 2022 (datamodels), Park et al. 2023 (TRAK); definitions and the noise ceiling in docs/evaluation.md.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.errors import InputError
from proponent.evaluate.intervals import DRAWS, Estimate, widened

_stats: Any = import_module("scipy.stats")  # scipy has no types

LEAST_SUBSETS = 8


def subset_masks(
    size: int, count: int, seed: int = 0, share: float = 0.5, groups: Int[np.ndarray, " n"] | None = None
) -> Bool[np.ndarray, "m n"]:
    """Draw random subsets; with groups, every subset has the same number of rows of each group."""
    generator = np.random.default_rng(seed)
    if groups is None:
        return generator.random((count, size)) < share
    if len(groups) != size:
        raise InputError(f"{len(groups)} rows have a group and the training set has {size}: give one group per row")
    masks = np.zeros((count, size), dtype=np.bool_)
    places = [np.flatnonzero(groups == one) for one in np.unique(groups)]
    for mask in masks:
        for rows in places:
            mask[generator.choice(rows, max(1, round(share * len(rows))), replace=False)] = True
    return masks


def within_groups(
    values: Float[np.ndarray, "m q"], masks: Bool[np.ndarray, "m n"], groups: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "m q"]:
    """Regress the subsets' group counts and an intercept out of every column."""
    counts = masks.astype(np.float64) @ (groups[:, None] == np.unique(groups)).astype(np.float64)
    centred = counts - counts.mean(0)
    values = values - values.mean(0)
    # The pseudo-inverse handles collinear counts: they sum to the subset size, and stratified counts are constant.
    inverse: np.ndarray = cast("Any", np.linalg).pinv(centred)
    rank = int(np.linalg.matrix_rank(centred)) if centred.any() else 0
    if len(masks) - 1 - rank < LEAST_SUBSETS:
        raise InputError(
            f"{len(masks)} subsets are too few to correct for the counts of {counts.shape[1]} groups: use at least "
            f"{rank + 1 + LEAST_SUBSETS}, fewer groups, or subsets that are stratified by group"
        )
    left = values - centred @ (inverse @ values)
    # If the counts explain a column fully, its residual is rounding error, and ranks of it would be meaningless.
    explained = np.linalg.norm(left, axis=0) <= 1e-9 * np.linalg.norm(values, axis=0)
    left[:, explained] = 0.0
    return left


def lds(
    scores: Float[np.ndarray, "q n"],
    masks: Bool[np.ndarray, "m _n"],
    outputs: Float[np.ndarray, "_m _q"],
    groups: Int[np.ndarray, " _k"] | None = None,
) -> Float[np.ndarray, " q"]:
    """Rank correlation of summed scores with outputs, per query; with groups, within them."""
    return spearman(*lds_sides(scores, masks, outputs, groups))


def lds_sides(
    scores: Float[np.ndarray, "q n"],
    masks: Bool[np.ndarray, "m _n"],
    outputs: Float[np.ndarray, "_m _q"],
    groups: Int[np.ndarray, " _k"] | None = None,
) -> tuple[Float[np.ndarray, "m q"], Float[np.ndarray, "m q"]]:
    """Both sides of the correlation: summed scores and outputs; with groups, their residuals given the counts."""
    if scores.shape != (outputs.shape[1], masks.shape[1]) or len(masks) != len(outputs):
        raise InputError(
            f"scores {scores.shape}, subsets {masks.shape} and outputs {outputs.shape} have inconsistent shapes: "
            "queries x rows, subsets x rows and subsets x queries are needed"
        )
    if len(masks) < LEAST_SUBSETS:
        raise InputError(f"{len(masks)} subsets are too few for a rank correlation: use at least {LEAST_SUBSETS}")
    if np.isnan(outputs).any():
        raise InputError("some outputs are not finite: the training function must return finite outputs")
    known = np.nan_to_num(scores)
    if groups is None:
        return masks.astype(np.float64) @ known.T, outputs
    if len(groups) != masks.shape[1]:
        raise InputError(
            f"{len(groups)} rows have a group and the subsets {masks.shape[1]} rows: give one group per row"
        )
    known = known - _group_means(known, groups)  # changes sums by group counts only; large offsets lose no digits
    return within_groups(masks.astype(np.float64) @ known.T, masks, groups), within_groups(outputs, masks, groups)


def _group_means(scores: Float[np.ndarray, "q n"], groups: Int[np.ndarray, " n"]) -> Float[np.ndarray, "q n"]:
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return np.stack([(np.bincount(place, weights=row) / sizes)[place] for row in scores])


def spearman(ours: Float[np.ndarray, "m q"], theirs: Float[np.ndarray, "m q"]) -> Float[np.ndarray, " q"]:
    """Spearman's rho of columns; ties share their mean rank."""
    first, second = _standard(ranks(ours)), _standard(ranks(theirs))
    return (first * second).sum(0)


def ranks(values: Float[np.ndarray, "m *q"]) -> Float[np.ndarray, "m *q"]:
    """Ranks of columns from 1; equal values share their mean rank."""
    return np.asarray(_stats.rankdata(values, axis=0), dtype=np.float64)


def _standard(values: Float[np.ndarray, "m q"]) -> Float[np.ndarray, "m q"]:
    centred = values - values.mean(0)
    norms = np.sqrt((centred**2).sum(0))
    return np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 1e-12)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Upper bound for the LDS of a perfect score against noisy retrains."""

    reliability: float  # mean rank correlation of two single retrains of the same subsets
    runs: int  # retrains averaged per subset
    value: float  # the root of the reliability of their average
    low: float = -np.inf  # ends of its 95 % interval over queries and subsets; 0 where the reliability may be 0
    high: float = np.inf

    @property
    def known(self) -> bool:
        """Whether the interval excludes zero; otherwise a share of the ceiling means nothing."""
        return self.low > 0


def ceiling(
    outputs: Float[np.ndarray, "r m q"],
    masks: Bool[np.ndarray, "m n"] | None = None,
    groups: Int[np.ndarray, " n"] | None = None,
) -> Ceiling:
    """Estimate the noise ceiling from retrains of the same subsets with independent seeds; with groups, within them."""
    # rel_r = r rel / (1 + (r - 1) rel); a perfect score correlates with the mean of r runs at most by sqrt(rel_r).
    runs = len(outputs)
    if runs < 2:
        raise InputError("a noise ceiling needs at least two retrains of every subset: give --seeds 2 or more")
    if groups is not None:
        if masks is None:
            raise InputError("a noise ceiling within groups also needs the subsets: pass masks")
        outputs = np.stack([within_groups(one, masks, groups) for one in outputs])
    pairs = [(outputs[one], outputs[other]) for one in range(runs) for other in range(one)]
    reliability = float(np.mean([spearman(*pair).mean() for pair in pairs]))
    draws = np.mean([lds_replicates(*pair) for pair in pairs], axis=0)  # equal seeds: the pairs share their draws
    spread = widened(reliability, draws, int(outputs.shape[2]))
    value, low, high = (_averaged(one, runs) for one in (reliability, spread.low, spread.high))
    return Ceiling(reliability, runs, value, low, high)


def _averaged(reliability: float, runs: int) -> float:
    """The root of the reliability of an average of runs, from that of one."""
    if reliability <= 0:
        return 0.0
    return 1.0 if np.isinf(reliability) else float(np.sqrt(runs * reliability / (1 + (runs - 1) * reliability)))


def lds_estimate(
    scores: Float[np.ndarray, "q n"],
    masks: Bool[np.ndarray, "m n"],
    outputs: Float[np.ndarray, "m q"],
    *,
    groups: Int[np.ndarray, " n"] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Mean LDS with an interval over queries and subsets; with groups, within them."""
    sums, outputs = lds_sides(scores, masks, outputs, groups)
    return widened(
        float(spearman(sums, outputs).mean()), lds_replicates(sums, outputs, draws, seed), int(outputs.shape[1])
    )


def lds_replicates(
    sums: Float[np.ndarray, "m q"], outputs: Float[np.ndarray, "m q"], draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, " r"]:
    """Mean LDS of resampled queries and subsets; equal seeds resample equally, so that differences are paired."""
    # Ranks are computed once, and their correlation is weighted by how often each subset was drawn. This is close to
    # ranking each draw anew, and a hundred times cheaper.
    first, second = ranks(sums), ranks(outputs)
    generator = np.random.default_rng(seed)
    count, queries = len(outputs), int(outputs.shape[1])
    found = np.empty(draws)
    for draw in range(draws):
        drawn = generator.integers(count, size=count)
        weight = np.bincount(drawn, minlength=count) / count
        chosen = generator.integers(queries, size=queries)
        found[draw] = _weighed(first, second, weight)[chosen].mean()
    return found


def _weighed(
    first: Float[np.ndarray, "m q"], second: Float[np.ndarray, "m q"], weight: Float[np.ndarray, " m"]
) -> Float[np.ndarray, " q"]:
    one, other = first - weight @ first, second - weight @ second
    scale = np.sqrt((weight @ one**2) * (weight @ other**2))
    return np.divide(weight @ (one * other), scale, out=np.zeros(len(scale)), where=scale > 1e-12)
