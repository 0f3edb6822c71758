"""Case deletion and brittleness: delete top-ranked examples, retrain, measure the change.

Yeh et al. 2022 (arXiv 2202.11844), with random controls of the same class mix, paired seeds and retrain noise; see
docs/evaluation.md. Scores are arrays: this module does not depend on how they were computed.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.errors import InputError
from proponent.evaluate.intervals import Estimate, bootstrap
from proponent.training.outputs import Output, Outputs
from proponent.training.retraining import RetrainJob, Retrains

Side = Literal["helped", "hurt"]
SIDES: tuple[Side, ...] = ("helped", "hurt")
RANDOM = "random"
"""Name of the control: random rows with the class counts of a deletion, drawn anew for every method, side and k."""


def top(scores: Float[np.ndarray, " n"], k: int, side: Side) -> Int[np.ndarray, " k"]:
    """Return the k rows with the largest or the smallest score."""
    valid = np.flatnonzero(np.isfinite(scores))
    if len(valid) < k:
        raise InputError(f"{len(valid)} rows have a score, fewer than k = {k}: use a smaller --k or more data")
    signed = -scores[valid] if side == "helped" else scores[valid]
    return valid[np.lexsort((valid, signed))][:k]


def random_like(
    chosen: Int[np.ndarray, " k"], labels: Int[np.ndarray, " n"] | None, generator: np.random.Generator, size: int
) -> Int[np.ndarray, " _k"]:
    """Draw other rows with the class counts of the chosen ones; none if a class has too few others."""
    others = np.setdiff1d(np.arange(size), chosen)
    kinds = np.zeros(size, dtype=np.int64) if labels is None else labels
    drawn: list[Int[np.ndarray, " m"]] = []
    for kind, count in zip(*np.unique(kinds[chosen], return_counts=True), strict=True):
        pool = others[kinds[others] == kind]
        if len(pool) < count:
            return chosen[:0]
        drawn.append(generator.choice(pool, count, replace=False))
    return np.concatenate(drawn)


@dataclass(frozen=True)
class Deletion:
    """One planned deletion: which rows are deleted for which query."""

    method: str  # the method that ranks the rows
    side: Side  # which end of the ranking
    query: int  # position of the query
    k: int  # how many rows
    rows: Int[np.ndarray, " m"]  # their positions; empty when the deletion is skipped
    drawn_for: str | None = None  # for a random control: the method whose class counts it matches


@dataclass(frozen=True)
class DeletionPlan:
    """All deletions, fixed before any training."""

    deletions: tuple[Deletion, ...]  # every planned deletion
    seeds: tuple[int, ...]  # of the retrains; the full runs use the same seeds
    size: int  # rows of the training set
    skipped: int  # number of deletions that would leave a class without any row
    unmatched: int = 0  # number of deletions without a control: a class has too few other rows

    @property
    def jobs(self) -> list[RetrainJob]:
        """All retrains, full runs first; duplicates are listed but trained once."""
        full = [RetrainJob(np.arange(self.size), seed) for seed in self.seeds]
        return full + [
            RetrainJob.without(one.rows, self.size, seed)
            for one in self.deletions
            if len(one.rows)
            for seed in self.seeds
        ]


def plan_deletions(
    scores: Mapping[str, Float[np.ndarray, "q n"]],
    ks: Sequence[int],
    seeds: Sequence[int],
    labels: Int[np.ndarray, " n"] | None,
    *,
    queries: Sequence[int] | None = None,
    sides: Sequence[Side] = SIDES,
    seed: int = 0,
) -> DeletionPlan:
    """Plan the deletions of several methods, each with a random control of the same class counts."""
    if not scores or not ks or not seeds or min(ks) < 1:
        raise InputError("a deletion needs a method, a k of at least 1 and a seed")
    if RANDOM in scores:
        raise InputError(f"{RANDOM!r} is the name of the control of random rows: give the method another name")
    count, size = next(iter(scores.values())).shape
    made: list[Deletion] = []
    skipped = unmatched = 0
    for query in range(count) if queries is None else queries:
        for k in ks:
            for name, matrix in scores.items():
                for side in sides:
                    one = Deletion(name, side, query, k, top(matrix[query], k, side))
                    drawn = random_like(one.rows, labels, _generator(seed, one), size)
                    control = replace(one, method=RANDOM, rows=drawn, drawn_for=name)
                    if not _classes_stay(one.rows, labels):
                        one, control = _emptied(one), _emptied(control)
                        skipped += 2
                    elif not len(drawn):
                        unmatched += 1
                    made += [one, control]
    return DeletionPlan(tuple(made), tuple(seeds), size, skipped, unmatched)


def _generator(seed: int, one: Deletion) -> np.random.Generator:
    """A separate generator for the control of each deletion."""
    return np.random.default_rng([seed, one.query, one.k, zlib.crc32(one.method.encode()), SIDES.index(one.side)])


def _classes_stay(rows: Int[np.ndarray, " m"], labels: Int[np.ndarray, " n"] | None) -> Bool[np.ndarray, ""] | bool:
    if labels is None:
        return True
    left = np.bincount(labels) - np.bincount(labels[rows], minlength=int(labels.max()) + 1)
    return bool((left[np.unique(labels)] > 0).all())


def _emptied(one: Deletion) -> Deletion:
    return replace(one, rows=one.rows[:0])


@dataclass(frozen=True)
class Curve:
    """Effect of the deletions for one method and side."""

    method: str  # the method that ranks the rows
    side: Side  # which end was deleted; for a random control, the end that it matches
    ks: tuple[int, ...]  # how many rows were deleted
    changes: Float[np.ndarray, "q k"]  # f(without) - f(all), mean over the seeds; NaN where the deletion was skipped
    flips: Float[np.ndarray, "q k"]  # 1 where the deletion flips the prediction, else 0; NaN where it was skipped
    drawn_for: str | None = None  # for a random control: the method whose class counts it matches

    @property
    def by_query(self) -> Float[np.ndarray, " q"]:
        """AUC-DEL of each query: the mean over the k list; queries with a skipped deletion are excluded."""
        return self.changes[np.isfinite(self.changes).all(1)].mean(1)

    def auc(self) -> Estimate:
        """AUC-DEL: mean over the k list and the queries."""
        return bootstrap(self.by_query)

    def at(self, k: int) -> Estimate:
        """The mean change at one k."""
        column = self.changes[:, self.ks.index(k)]
        return bootstrap(column[np.isfinite(column)])

    @property
    def flips_by_k(self) -> dict[int, Float[np.ndarray, " q"]]:
        """The flipped predictions at each k."""
        return {k: self.flips[:, place] for place, k in enumerate(self.ks)}


@dataclass(frozen=True)
class DeletionResult:
    """Curves of all methods."""

    curves: tuple[Curve, ...]  # one per method and side, and one for the random control of each
    noise: float  # standard deviation over the seeds of f of the full run, mean over queries
    retrains: int  # number of trained models, full runs included
    skipped: int  # deletions that would leave a class without any row
    unmatched: int = 0  # deletions without a control: a class has too few other rows

    @property
    def sides(self) -> tuple[Side, ...]:
        """The ends of the rankings that were deleted."""
        return tuple(dict.fromkeys(one.side for one in self.curves))

    def curve(self, method: str, side: Side) -> Curve:
        """Return a curve; for the random control, the mean over the draws for all methods."""
        if method != RANDOM:
            return next(one for one in self.curves if one.method == method and one.side == side)
        draws = [one for one in self.curves if one.method == RANDOM and one.side == side]
        changes, flips = (_mean([getattr(one, name) for one in draws]) for name in ("changes", "flips"))
        return Curve(RANDOM, side, draws[0].ks, changes, flips)

    def matched(self, method: str, side: Side) -> Curve:
        """The random control with the class counts of one method and side."""
        return next(one for one in self.curves if one.drawn_for == method and one.side == side)

    def minus_random(self, method: str, side: Side) -> Float[np.ndarray, " q"]:
        """AUC-DEL of each query minus that of its random control, over queries that have both."""
        difference = (self.curve(method, side).changes - self.matched(method, side).changes).mean(1)
        return difference[np.isfinite(difference)]


def _mean(tables: Sequence[Float[np.ndarray, "q k"]]) -> Float[np.ndarray, "q k"]:
    """Mean over the tables that have a value; NaN where none has."""
    stacked = np.stack(tables)
    counts = np.isfinite(stacked).sum(0)
    return np.divide(np.nansum(stacked, axis=0), counts, out=np.full_like(stacked[0], np.nan), where=counts > 0)


def run_deletions(
    plan: DeletionPlan,
    retrains: Retrains,
    classes: Int[np.ndarray, " q"] | Literal["predicted"],
    output: Output = "log-odds",
) -> DeletionResult:
    """Retrain without the planned rows and compare with the full runs of the same seeds."""
    jobs = plan.jobs
    made = dict(zip([job.name for job in jobs], retrains.outputs(jobs, "case deletion"), strict=True))

    def kept(rows: Int[np.ndarray, " m"]) -> list[Outputs]:
        return [made[RetrainJob.without(rows, plan.size, seed).name] for seed in plan.seeds]

    full = kept(np.zeros(0, dtype=np.int64))
    before = _predicted(full)
    whose = before if isinstance(classes, str) else classes
    base = np.stack([one.of(whose, output) for one in full])
    queries = tuple(dict.fromkeys(one.query for one in plan.deletions))
    ks = tuple(dict.fromkeys(one.k for one in plan.deletions))
    tables: dict[tuple[str, Side, str | None], np.ndarray] = {}
    for one in plan.deletions:
        table = tables.setdefault((one.method, one.side, one.drawn_for), np.full((2, len(queries), len(ks)), np.nan))
        if len(one.rows):
            parts = kept(one.rows)
            change = np.mean([part.of(whose, output)[one.query] for part in parts]) - base[:, one.query].mean()
            flip = float(_predicted(parts)[one.query] != before[one.query])
            table[:, queries.index(one.query), ks.index(one.k)] = change, flip
    noise = float(base[:, list(queries)].std(0, ddof=1).mean()) if len(plan.seeds) > 1 else float("nan")
    curves = tuple(
        Curve(method, side, ks, *table, drawn_for=drawn_for) for (method, side, drawn_for), table in tables.items()
    )
    return DeletionResult(curves, noise, len({job.name for job in jobs}), plan.skipped, plan.unmatched)


def _predicted(seeds: Sequence[Outputs]) -> Int[np.ndarray, " q"]:
    """The class with the largest mean log-odds over the seeds."""
    return np.mean([one.log_odds for one in seeds], axis=0).argmax(1)


def flipped(
    plan: DeletionPlan, retrains: Retrains, method: str, side: Side = "helped"
) -> dict[int, Float[np.ndarray, " q"]]:
    """Brittleness: the predictions that flip when the top k of a ranking are deleted."""
    return run_deletions(plan, retrains, "predicted").curve(method, side).flips_by_k


def smallest_flip(flips: Mapping[int, Float[np.ndarray, " q"]]) -> list[int | None]:
    """Smallest k of the list that flips each prediction."""
    ks = sorted(flips)
    count = len(flips[ks[0]]) if ks else 0
    return [next((k for k in ks if flips[k][query] == 1.0), None) for query in range(count)]
