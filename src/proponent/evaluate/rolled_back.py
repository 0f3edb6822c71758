"""Is what Gradient Rollback names what the model needed? Delete it, train again, and look.

Every training repeats the run step by step, with the same seed, order and draws; only the deleted rows are missing.
Lawrence, Sztyler and Niepert 2021 (arXiv 2010.05516): PD is the share of outputs whose probability falls, TC the share
whose top answer changes; the control deletes random neighbours, as many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from proponent.data import Examples
from proponent.dynamics.loops import Query
from proponent.dynamics.rollback import Neighbours, Rollback
from proponent.engine import engine_of
from proponent.errors import InputError, MismatchError
from proponent.evaluate.intervals import Estimate, bootstrap, fisher, paired
from proponent.evaluate.report import figure, verdict
from proponent.models import Run
from proponent.progress import track
from proponent.training.one_by_one import loop_of
from proponent.training.outputs import Outputs
from proponent.training.retraining import RetrainJob, Retrains
from proponent.types import Example
from proponent.version import __version__
from proponent.views.comparison import ComparisonReport
from proponent.views.evaluation import Figure, MethodFigures

SAME = 1e-6
"""Largest difference of a probability between the run and a training that leaves out nothing."""

ALL = 0
"""In place of a number of rows: every neighbour that helped."""

PD, TC, DROP, DELETED = "PD %", "TC %", "mean drop", "rows deleted"
_LEAST = 10  # queries for a correlation


@dataclass(frozen=True)
class RollbackSettings:
    """What is deleted."""

    cache: Path  # folder of the retrains: an interrupted check resumes
    counts: tuple[int, ...] = (1, 10)  # rows deleted at once; ALL for every neighbour that helped
    neighbours: Neighbours = "auto"
    predicted: bool = True  # explain the class that the model predicts, else the given one
    seed: int = 0  # of the random neighbours
    workers: int = 1


@dataclass(frozen=True)
class _Deletion:
    """One explanation that is deleted."""

    query: int
    rows: Int[np.ndarray, " k"]
    predicted: float  # drop of the probability, by the scores


@dataclass(frozen=True)
class _Measured:
    """What deletions did."""

    drops: Float[np.ndarray, " d"]
    changed: Float[np.ndarray, " d"]  # 1 where the top answer is another
    predicted: Float[np.ndarray, " d"]
    rows: float  # deleted on average


def check_rollback(
    run: Run, examples: Examples, queries: Examples, settings: RollbackSettings, *, quiet: bool = False
) -> ComparisonReport:
    """Delete what Gradient Rollback names, and random neighbours, train again, and compare the outputs.

    Args:
        run: a run of `proponent train --changes`.
        examples: its training set.
        queries: outputs that are explained; of their labels only with `predicted=False`.
        settings: how many rows are deleted, which neighbours, cache.
        quiet: no progress on stderr.

    Returns:
        For each number of rows: share of outputs whose probability falls, share whose top answer changes, and mean drop
        of the probability, beside as many random neighbours; the correlation of predicted and true drops.

    Raises:
        InputError: no query with a neighbour that helped, or of given classes one without a label.
        MismatchError: other rows than the run's, or a training that cannot be repeated on this machine.
        RunError: no record of changes, or of a Trainer's run.

    Source:
        Lawrence, Sztyler and Niepert 2021 (arXiv 2010.05516), section 5.
    """
    counts = tuple(dict.fromkeys(settings.counts))
    if not counts or min(counts) < 0:
        raise InputError("-k: give numbers of rows from 1, or all")
    work = Rollback.of(run, examples, neighbours=settings.neighbours)
    if not work.probability:
        raise InputError("the check compares probabilities of classes, and this run predicts none: use a classifier")
    chosen = _explained(work, queries, predicted=settings.predicted)
    asked = [Query(one, run.label_number(str(one.label))) for one in chosen]
    loop = loop_of(run, examples, chosen, work.changes)
    ours, random, skipped = _deletions(work, asked, counts, settings.seed, quiet)
    retrains = Retrains(loop, settings.cache / "retrains", engine_of(settings.workers), quiet)
    seed, size = int(work.changes.settings["seed"]), len(examples)
    labels = np.asarray([one.label for one in asked])
    (whole,) = retrains.outputs([RetrainJob.without((), size, seed)], "training on everything again")
    difference = _refuse_unrepeated(work, asked, whole, labels)
    lists = [one for each in (*ours.values(), *random.values()) for one in each]
    jobs = [RetrainJob.without(one.rows.tolist(), size, seed) for one in lists]
    found = dict(zip(map(id, lists), retrains.outputs(jobs, "deleting and training again"), strict=True))
    sides = [{k: _measured(each, found, whole, labels) for k, each in side.items()} for side in (ours, random)]
    said = "the class that the model predicts" if settings.predicted else "the given class"
    return _report(work, sides[0], sides[1], len(asked), skipped, (("explained", said), *_same(difference)))


def _explained(work: Rollback, queries: Sequence[Example], *, predicted: bool) -> list[Example]:
    """The queries with the class that is explained."""
    if predicted:
        named = zip(queries, work.predicted(queries), strict=True)
        names = work.run.task.labels.names
        return [Example(one.id, one.row, content=one.content, label=names[label]) for one, label in named]
    missing = next((one for one in queries if one.label is None), None)
    if missing is not None:
        raise InputError(f"the query with id {missing.id} has no label: explain the predicted classes, or name one")
    return list(queries)


def _deletions(
    work: Rollback, asked: Sequence[Query], counts: Sequence[int], seed: int, quiet: bool
) -> tuple[dict[int, list[_Deletion]], dict[int, list[_Deletion]], int]:
    """Explanations and as many random neighbours, and how many queries have no helping neighbour."""
    ours: dict[int, list[_Deletion]] = {k: [] for k in counts}
    random: dict[int, list[_Deletion]] = {k: [] for k in counts}
    skipped, size = 0, len(work.changes)
    for at, query in enumerate(track(asked, total=len(asked), label="explaining", unit="queries", quiet=quiet)):
        scores = np.full(size, np.nan) if work.unknown(query.example) else work.scores(query)
        pool = np.flatnonzero(np.isfinite(scores))
        helped = pool[scores[pool] > 0]
        helped = helped[np.argsort(-scores[helped], kind="stable")]
        if not len(helped):
            skipped += 1
            continue
        generator = np.random.default_rng((seed, at))
        for k in counts:
            rows = helped if k == ALL else helped[:k]
            if k == ALL and len(pool) == size:
                raise InputError(
                    f"-k all would delete all {size} rows as neighbours of the query with id {query.example.id}: give "
                    "numbers of rows, or neighbours that are fewer (--neighbours)"
                )
            drawn = pool if k == ALL else generator.choice(pool, len(rows), replace=False)
            ours[k].append(_Deletion(at, rows, float(scores[rows].sum())))
            random[k].append(_Deletion(at, drawn, float(scores[drawn].sum())))
    if not any(ours.values()):
        raise InputError("no query has a neighbour that helped: nothing can be deleted")
    return ours, random, skipped


def _refuse_unrepeated(work: Rollback, asked: Sequence[Query], whole: Outputs, labels: Int[np.ndarray, " q"]) -> float:
    """Require that training on everything again ends at the run's own weights."""
    encoded = work.encoder.encode([one.example for one in asked])
    own = np.asarray([work.value(text, one.label) for text, one in zip(encoded, asked, strict=True)])
    difference = float(np.abs(whole.of(labels, "probability") - own).max())
    if difference > SAME:
        raise MismatchError(
            f"training {work.run.path} again without deleting anything changes a probability by {difference:.1e}, "
            f"more than {SAME:g}: this machine or version computes otherwise than the one that trained it; train it "
            "again here"
        )
    return difference


def _measured(
    lists: Sequence[_Deletion], found: dict[int, Outputs], whole: Outputs, labels: Int[np.ndarray, " q"]
) -> _Measured:
    before, top = whole.of(labels, "probability"), whole.predicted
    drops = [before[one.query] - found[id(one)].of(labels, "probability")[one.query] for one in lists]
    changed = [float(found[id(one)].predicted[one.query] != top[one.query]) for one in lists]
    rows = float(np.mean([len(one.rows) for one in lists]))
    return _Measured(np.asarray(drops), np.asarray(changed), np.asarray([one.predicted for one in lists]), rows)


def _report(
    work: Rollback,
    ours: dict[int, _Measured],
    random: dict[int, _Measured],
    asked: int,
    skipped: int,
    known: tuple[tuple[str, str], ...],
) -> ComparisonReport:
    rows: list[MethodFigures] = []
    for k, one in ours.items():
        rows.append(_row(f"rollback, {_named(k)}", one, against=None if k == ALL else random[k]))
    for k, one in random.items():
        rows.append(_row("every neighbour" if k == ALL else f"random neighbours, {_named(k)}", one, control=True))
    shared = {"entity": "share an entity with", "token": "share a token with", "all": "may be any row, not only near"}
    notes = [f"neighbours {shared[work.neighbours]} the query; random ones are drawn from the same pool, as many"]
    if ALL in ours:
        notes.append("all: every neighbour with a score above 0, beside every neighbour: the control deletes more rows")
    if skipped:
        notes.append(f"{skipped} of {asked} queries have no helping neighbour, or a name that is new: left out")
    single = next((k for k in ours if k == 1), None)
    facts = [("queries", str(asked - skipped)), *known]
    if single is not None:
        facts.append(("predicted against true drop, single rows", _correlation(ours[1], random[1])))
    return ComparisonReport(
        metric="rollback",
        unit="deleted",
        title="Gradient Rollback, checked by deletion",
        said="What happens to the probability of an answer when the named rows are deleted and the model is trained "
        "again with the same seed, order and draws",
        columns=(PD, TC, DROP, DELETED),
        rows=tuple(rows),
        facts=tuple(facts),
        notes=tuple(notes),
        version=__version__,
    )


def _same(difference: float) -> tuple[tuple[str, str], ...]:
    return (("difference of a training that deletes nothing", f"{difference:.1e}"),)


def _named(k: int) -> str:
    return "all" if k == ALL else f"{k} row" if k == 1 else f"{k} rows"


def _row(name: str, one: _Measured, *, control: bool = False, against: _Measured | None = None) -> MethodFigures:
    figures = (
        figure(PD, _percent(bootstrap((one.drops > 0).astype(float)))),
        figure(TC, _percent(bootstrap(one.changed))),
        figure(DROP, bootstrap(one.drops)),
        Figure(DELETED, one.rows),
    )
    said = "" if against is None else verdict(paired(one.drops, against.drops), "random neighbours, mean drop")
    return MethodFigures(name, control, figures, said)


def _percent(one: Estimate) -> Estimate:
    return Estimate(100 * one.value, 100 * max(one.low, 0.0), 100 * min(one.high, 1.0), one.points)


def _correlation(ours: _Measured, random: _Measured) -> str:
    """Pearson over single deletions of both sides."""
    predicted, true = (
        np.concatenate([getattr(one, name) for one in (ours, random)]) for name in ("predicted", "drops")
    )
    if len(predicted) < 2 * _LEAST or predicted.std() == 0 or true.std() == 0:
        return f"not given: fewer than {_LEAST} queries, or no change"
    found = fisher(float(np.corrcoef(predicted, true)[0, 1]), len(predicted))
    return f"Pearson {found}"
