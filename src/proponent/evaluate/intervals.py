"""Figures with intervals: bootstrap over test points, and over subsets."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float

from proponent.errors import InputError

_special: Any = import_module("scipy.special")  # scipy has no types

DRAWS = 1000
"""Bootstrap draws."""

LEAST_SETS = 4
"""Sets without which a correlation over sets has no interval."""

NORMAL = float(_special.ndtri(0.975))
"""The 97.5 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float  # the figure
    low: float  # lower end
    high: float  # upper end
    points: int  # number of test points

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data."""
        return {"value": self.value, "low": self.low, "high": self.high, "points": self.points}


def bootstrap(
    values: Float[np.ndarray, " q"],
    statistic: Callable[[Float[np.ndarray, " q"]], float] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Bootstrap the mean (or another statistic) over test points."""
    # Percentile interval, widened about the estimate by the root of q/(q-1) and by the ratio of Student's quantile to
    # the normal quantile: the plain percentile interval of a mean is too narrow for few points.
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0 or not np.isfinite(values).all():
        raise InputError("an interval needs at least one test point, and finite values")
    generator = np.random.default_rng(seed)
    chosen = generator.integers(len(values), size=(draws, len(values)))
    if statistic is None:
        value, found = float(values.mean()), values[chosen].mean(axis=1)
    else:
        value, found = statistic(values), np.asarray([statistic(values[one]) for one in chosen])
    return widened(value, found, len(values))


def widened(value: float, found: Float[np.ndarray, " r"], points: int) -> Estimate:
    """Build an interval from bootstrap replicates."""
    if points < 2:
        return Estimate(value, -np.inf, np.inf, points)
    low, high = (float(end) for end in np.quantile(found, [0.025, 0.975]))
    factor = student(points - 1) / NORMAL * (points / (points - 1)) ** 0.5
    return Estimate(value, value - factor * (value - low), value + factor * (high - value), points)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    return float(_special.stdtrit(freedom, 0.975))


def paired(
    ours: Float[np.ndarray, " q"], theirs: Float[np.ndarray, " q"], *, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Bootstrap the difference of two methods over the same test points."""
    return bootstrap(np.asarray(ours) - np.asarray(theirs), draws=draws, seed=seed)


def ratio(
    ours: Float[np.ndarray, " q"], theirs: Float[np.ndarray, " q"], *, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Bootstrap the ratio of two methods' means over the same test points."""
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    chosen = np.random.default_rng(seed).integers(len(ours), size=(draws, len(ours)))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = ours[chosen].mean(1) / theirs[chosen].mean(1)
        value = float(ours.mean() / theirs.mean())
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(ours))


def fisher(value: float, sets: int) -> Estimate:
    """A correlation over some sets with the interval of Fisher's z."""
    if sets < LEAST_SETS:
        return Estimate(value, -np.inf, np.inf, sets)
    centre, half = float(np.arctanh(np.clip(value, -1 + 1e-12, 1 - 1e-12))), NORMAL / (sets - 3) ** 0.5
    return Estimate(value, float(np.tanh(centre - half)), float(np.tanh(centre + half)), sets)


def mean_fisher(values: Float[np.ndarray, " t"], sets: int) -> Estimate:
    """The mean of correlations of several test sets; its interval is that of one, for test sets share their sets."""
    return fisher(float(values.mean()), sets)
