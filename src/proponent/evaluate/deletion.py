"""Case deletion and brittleness: delete top-ranked examples, retrain, measure the change.

Yeh et al. 2022 (arXiv 2202.11844), with random controls of the same class mix, paired seeds and retrain noise; see
docs/evaluation.md. Scores come as arrays: nothing here knows how they were made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
"""Name of the control: k random rows with the classes of the rows that the first method would delete, never skipped."""


def top(scores: Float[np.ndarray, " n"], k: int, side: Side) -> Int[np.ndarray, " k"]:
    """Find the k rows of largest or of smallest score."""
    valid = np.flatnonzero(np.isfinite(scores))
    if len(valid) < k:
        raise InputError(f"{len(valid)} rows have a score, fewer than k = {k}: give smaller --k or more data")
    signed = -scores[valid] if side == "helped" else scores[valid]
    return valid[np.lexsort((valid, signed))][:k]


def random_like(
    chosen: Int[np.ndarray, " k"], labels: Int[np.ndarray, " n"] | None, generator: np.random.Generator, size: int
) -> Int[np.ndarray, " k"]:
    """Draw rows with the same classes as some chosen ones."""
    if labels is None:
        return generator.choice(size, len(chosen), replace=False)
    drawn = [
        generator.choice(np.flatnonzero(labels == one), count, replace=False)
        for one, count in zip(*np.unique(labels[chosen], return_counts=True), strict=True)
    ]
    return np.concatenate(drawn)


@dataclass(frozen=True)
class Deletion:
    """One deletion of the plan: which rows go for which query."""

    method: str  # whose ranking
    side: Side  # which end of it
    query: int  # position of the query
    k: int  # how many rows
    rows: Int[np.ndarray, " m"]  # their positions; empty when the deletion is skipped because a class would vanish


@dataclass(frozen=True)
class DeletionPlan:
    """What is deleted, settled before anything is trained."""

    deletions: tuple[Deletion, ...]  # all of them
    seeds: tuple[int, ...]  # of the retrains; the full run is trained with the same ones
    size: int  # rows of the training set
    skipped: int  # how many deletions would leave a class without any row

    @property
    def jobs(self) -> list[RetrainJob]:
        """Every retrain, the full runs first; equal ones stand several times and are trained once."""
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
    """Plan the deletions of several methods, and the random control at every k."""
    if not scores or not ks or not seeds or min(ks) < 1:
        raise InputError("a deletion needs a method, a k of at least 1 and a seed")
    if RANDOM in scores:
        raise InputError(f"{RANDOM!r} is the name of the control of random rows: give the method another name")
    count, size = next(iter(scores.values())).shape
    chosen = range(count) if queries is None else queries
    made: list[Deletion] = []
    for query in chosen:
        for k in ks:
            firsts = {side: top(next(iter(scores.values()))[query], k, side) for side in sides}
            generator = np.random.default_rng([seed, query, k])
            made.append(Deletion(RANDOM, "helped", query, k, random_like(firsts[sides[0]], labels, generator, size)))
            for name, matrix in scores.items():
                made += [Deletion(name, side, query, k, top(matrix[query], k, side)) for side in sides]
    kept = [one if _classes_stay(one.rows, labels) else _emptied(one) for one in made]
    return DeletionPlan(tuple(kept), tuple(seeds), size, sum(len(one.rows) == 0 for one in kept))


def _classes_stay(rows: Int[np.ndarray, " m"], labels: Int[np.ndarray, " n"] | None) -> Bool[np.ndarray, ""] | bool:
    if labels is None:
        return True
    left = np.bincount(labels) - np.bincount(labels[rows], minlength=int(labels.max()) + 1)
    return bool((left[np.unique(labels)] > 0).all())


def _emptied(one: Deletion) -> Deletion:
    return Deletion(one.method, one.side, one.query, one.k, one.rows[:0])


@dataclass(frozen=True)
class Curve:
    """What deletion did, for one method and side."""

    method: str  # whose ranking
    side: Side  # which end was deleted; the random control has one
    ks: tuple[int, ...]  # how many rows were deleted
    changes: Float[np.ndarray, "q k"]  # f(without) - f(all), mean over the seeds; NaN where the deletion was skipped
    flips: Float[np.ndarray, "q k"]  # 1 where the deletion flips the prediction, else 0; NaN where it was skipped

    @property
    def by_query(self) -> Float[np.ndarray, " q"]:
        """AUC-DEL of each query: the mean over the k list; queries with a skipped deletion are left out."""
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
        """Which predictions flip at each k."""
        return {k: self.flips[:, place] for place, k in enumerate(self.ks)}


@dataclass(frozen=True)
class DeletionResult:
    """Curves of all methods."""

    curves: tuple[Curve, ...]  # one per method and side
    noise: float  # standard deviation over the seeds of f of the full run, mean over queries
    retrains: int  # how many models stand behind the curves, the full ones included
    skipped: int  # deletions that would leave a class without any row

    def curve(self, method: str, side: Side) -> Curve:
        """Find a curve."""
        wanted = "helped" if method == RANDOM else side
        return next(one for one in self.curves if one.method == method and one.side == wanted)


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
    tables: dict[tuple[str, Side], np.ndarray] = {}
    for one in plan.deletions:
        table = tables.setdefault((one.method, one.side), np.full((2, len(queries), len(ks)), np.nan))
        if len(one.rows):
            parts = kept(one.rows)
            change = np.mean([part.of(whose, output)[one.query] for part in parts]) - base[:, one.query].mean()
            flip = float(_predicted(parts)[one.query] != before[one.query])
            table[:, queries.index(one.query), ks.index(one.k)] = change, flip
    noise = float(base[:, list(queries)].std(0, ddof=1).mean()) if len(plan.seeds) > 1 else float("nan")
    curves = tuple(Curve(method, side, ks, *table) for (method, side), table in tables.items())
    return DeletionResult(curves, noise, len({job.name for job in jobs}), plan.skipped)


def _predicted(seeds: Sequence[Outputs]) -> Int[np.ndarray, " q"]:
    """Class of largest mean log-odds over the seeds."""
    return np.mean([one.log_odds for one in seeds], axis=0).argmax(1)


def flipped(
    plan: DeletionPlan, retrains: Retrains, method: str, side: Side = "helped"
) -> dict[int, Float[np.ndarray, " q"]]:
    """Brittleness: which predictions flip when the top k of a ranking are deleted."""
    return run_deletions(plan, retrains, "predicted").curve(method, side).flips_by_k


def smallest_flip(flips: Mapping[int, Float[np.ndarray, " q"]]) -> list[int | None]:
    """Smallest k of the list that flips each prediction."""
    ks = sorted(flips)
    count = len(flips[ks[0]]) if ks else 0
    return [next((k for k in ks if flips[k][query] == 1.0), None) for query in range(count)]
