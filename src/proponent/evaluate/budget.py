"""The size of an evaluation for a budget of minutes, and its expected intervals, reported before it starts."""

from dataclasses import dataclass

import numpy as np

from proponent.errors import InputError
from proponent.evaluate.intervals import NORMAL, student

LEAST_SUBSETS = 20
LEAST_POINTS = 5
SHARED = 0.05
"""Correlation between queries of the error of a rank correlation: all queries share the drawn subsets.

Measured on AG News (60 queries, 60 subsets: half-width .065)."""


@dataclass(frozen=True)
class LdsSize:
    """Size of an LDS evaluation."""

    subsets: int  # random halves
    seeds: int  # retrains per subset
    half_width: float  # expected half-width of the interval of one method's LDS
    minutes: float  # expected time

    @property
    def said(self) -> str:
        """The plan in one line."""
        return (
            f"{self.subsets} random halves x {self.seeds} seeds = {self.subsets * self.seeds} retrains, about "
            f"{self.minutes:.1f} min; the error of an LDS is about +-{self.half_width:.2f}"
        )


def lds_size(
    minutes: float | None,
    seconds: float,
    queries: int,
    *,
    workers: int = 1,
    seeds: int = 2,
    subsets: int | None = None,
    interval: float | None = None,
) -> LdsSize:
    """Choose the size of an LDS evaluation, at least as large as the asked half-width of the interval needs."""
    each = seconds * seeds / 60 / workers
    needed = LEAST_SUBSETS if interval is None else max(LEAST_SUBSETS, _halves(interval, queries))
    count = subsets if subsets is not None else max(60, needed) if minutes is None else min(200, int(minutes / each))
    way = f"--subsets {needed}" if subsets is not None else f"--budget {max(1.0, np.ceil(needed * each)):.0f}"
    if count < LEAST_SUBSETS:
        raise InputError(
            f"{count} subsets are too few: an LDS over fewer than {LEAST_SUBSETS} subsets cannot be distinguished "
            f"from zero; one retrain takes {seconds:.1f} s, so give {way} or more"
        )
    width = _half_width(count, queries)
    if interval is not None and count < needed:
        raise InputError(
            f"{count} random halves are too few for an interval of +-{interval:g}: they give about +-{width:.2f}, and "
            f"about {needed} would do ({way}, about {needed * each:.0f} min), or more queries"
        )
    return LdsSize(count, seeds, width, count * each)


def _half_width(subsets: int, queries: int) -> float:
    """The expected half-width of the interval of one method's LDS."""
    return float(NORMAL / np.sqrt(subsets - 1) * np.sqrt(SHARED + (1 - SHARED) / queries))


def _halves(interval: float, queries: int) -> int:
    """Subsets that give an interval of this half-width."""
    return 1 + int(np.ceil((NORMAL / interval) ** 2 * (SHARED + (1 - SHARED) / queries)))


@dataclass(frozen=True)
class DeletionSize:
    """Size of a case deletion."""

    points: int  # number of queries
    ks: tuple[int, ...]  # numbers of deleted rows
    seeds: int  # retrains per deletion
    retrains: int  # total number of retrains
    half_width: float  # expected half-width of a mean change, from retrain noise alone; NaN for one seed
    minutes: float  # expected time

    @property
    def said(self) -> str:
        """The plan in one line."""
        noise = f"retrain noise alone gives each change an error of about +-{self.half_width:.2f}"
        if not np.isfinite(self.half_width):
            noise = "the retrain noise is unknown with one seed (use --seeds 2)"
        return (
            f"{self.points} queries x k = {', '.join(map(str, self.ks))} x {self.seeds} seeds = {self.retrains} "
            f"retrains, half of them for matched random rows, about {self.minutes:.1f} min; {noise}"
        )


def deletion_size(
    minutes: float | None,
    seconds: float,
    noise: float,
    queries: int,
    methods: int,
    ks: tuple[int, ...],
    *,
    workers: int = 1,
    seeds: int = 3,
    sides: int = 2,
) -> DeletionSize:
    """Choose the size of a case deletion: the budget sets the number of queries."""
    each = len(ks) * sides * 2 * methods * seeds  # random rows for each
    per_point = each * seconds / 60 / workers
    if queries < LEAST_POINTS:
        raise InputError(f"{queries} queries are too few: give {LEAST_POINTS} or more (--points, a longer --queries)")
    points = queries if minutes is None else min(queries, int(minutes / per_point))
    if points < LEAST_POINTS:
        raise InputError(
            f"{points} queries are too few: with {methods} methods, {len(ks)} k and {seeds} seeds one query takes "
            f"{each} retrains of {seconds:.1f} s; give --budget {np.ceil(LEAST_POINTS * per_point):.0f} or more, "
            "fewer methods or fewer k, or use --metric lds, whose retrains serve every method"
        )
    width = student(points - 1) * noise * np.sqrt(2 / seeds / points)
    return DeletionSize(points, ks, seeds, points * each, float(width), points * per_point)
