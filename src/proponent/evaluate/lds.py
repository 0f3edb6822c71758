"""Linear datamodeling score: correlation of summed scores with outputs of models trained on random subsets.

Ilyas et al. 2022 (datamodels), Park et al. 2023 (TRAK); definitions and the noise ceiling in docs/evaluation.md.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from proponent.errors import InputError
from proponent.evaluate.intervals import DRAWS, Estimate, widened

_stats: Any = import_module("scipy.stats")  # scipy has no types

LEAST_SUBSETS = 8


def subset_masks(size: int, count: int, seed: int = 0, share: float = 0.5) -> Bool[np.ndarray, "m n"]:
    """Draw random subsets."""
    return np.random.default_rng(seed).random((count, size)) < share


def lds(
    scores: Float[np.ndarray, "q n"], masks: Bool[np.ndarray, "m _n"], outputs: Float[np.ndarray, "_m _q"]
) -> Float[np.ndarray, " q"]:
    """Rank correlation of summed scores with outputs, query by query."""
    if scores.shape != (outputs.shape[1], masks.shape[1]) or len(masks) != len(outputs):
        raise InputError(
            f"scores {scores.shape}, subsets {masks.shape} and outputs {outputs.shape} do not belong together: "
            "queries x rows, subsets x rows and subsets x queries are needed"
        )
    if len(masks) < LEAST_SUBSETS:
        raise InputError(f"{len(masks)} subsets say nothing about a rank correlation: take at least {LEAST_SUBSETS}")
    if np.isnan(outputs).any():
        raise InputError("some outputs are not a number: the training function must give finite outputs")
    return spearman(masks.astype(np.float64) @ np.nan_to_num(scores).T, outputs)


def spearman(ours: Float[np.ndarray, "m q"], theirs: Float[np.ndarray, "m q"]) -> Float[np.ndarray, " q"]:
    """Spearman's rho of columns, ties sharing their mean rank."""
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
    """What a perfect score could reach against noisy retrains."""

    reliability: float  # mean rank correlation of two single retrains of the same subsets
    runs: int  # retrains averaged per subset
    value: float  # the root of the reliability of that average


def ceiling(outputs: Float[np.ndarray, "r m q"]) -> Ceiling:
    """Find the noise ceiling from retrains of the same subsets with independent seeds."""
    # rel_r = r rel / (1 + (r - 1) rel), and a perfect score correlates with the mean of r runs at most by sqrt(rel_r).
    runs = len(outputs)
    if runs < 2:
        raise InputError("a noise ceiling needs two retrains of every subset at least: give --seeds 2 or more")
    pairs = [spearman(outputs[one], outputs[other]).mean() for one in range(runs) for other in range(one)]
    reliability = float(np.mean(pairs))
    stepped = runs * reliability / (1 + (runs - 1) * reliability) if reliability > 0 else 0.0
    return Ceiling(reliability, runs, float(np.sqrt(max(stepped, 0.0))))


def lds_estimate(
    scores: Float[np.ndarray, "q n"],
    masks: Bool[np.ndarray, "m n"],
    outputs: Float[np.ndarray, "m q"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Mean LDS with an interval over queries and over subsets as well."""
    values = lds(scores, masks, outputs)
    sums = masks.astype(np.float64) @ np.nan_to_num(scores).T
    return widened(float(values.mean()), lds_replicates(sums, outputs, draws, seed), outputs.shape[1])


def lds_replicates(
    sums: Float[np.ndarray, "m q"], outputs: Float[np.ndarray, "m q"], draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, " r"]:
    """Mean LDS of resampled queries and subsets; the same seed resamples alike: differences are paired."""
    # Ranks are taken once, and their correlation is weighed by how often each subset was drawn: a rank correlation of
    # drawn ranks, close to ranking anew and a hundred times cheaper.
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
