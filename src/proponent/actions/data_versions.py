"""Train again on two versions of a training set, such as before and after corrections, and compare them on a test set.

Both are trained by the recorded settings of the run, with the same seeds, initial weights and order of the common rows.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from proponent.errors import InputError
from proponent.evaluate.chat import as_questions, layout_of
from proponent.evaluate.intervals import bootstrap, paired
from proponent.evaluate.report import figure
from proponent.models import Run
from proponent.models.counting import rules_of
from proponent.progress import track
from proponent.training.loop import TrainingLoop
from proponent.training.rerun import RunProblem, settings_of_run, starting_weights
from proponent.types import Example
from proponent.version import __version__
from proponent.views import EvaluationReport, Figure, MethodFigures

ACCURACY, LOSS = "accuracy", "loss"


def compare_versions(
    run: Run,
    before: Sequence[Example],
    after: Sequence[Example],
    test: Sequence[Example],
    *,
    seeds: int = 3,
    initial: str | None = None,
    max_length: int | None = None,
    quiet: bool = True,
) -> EvaluationReport:
    """Train on both versions with some seeds, and compare them on a test set that neither holds.

    Args:
        run: the run whose model, tokenizer and settings are taken.
        before: one version of the training set.
        after: the other one; rows are the same if their ids are.
        test: rows of the run's task, with labels or targets.
        seeds: trainings of each version.
        initial: initial weights, if the run does not record them.
        max_length: maximum tokens per text; None for the model's limit, at most 512.
        quiet: no progress on stderr.

    Returns:
        Accuracy (of a classifier) and loss in nats of each version, mean over the seeds, and the differences after
        minus before; 95 % intervals over the test rows, paired for differences.

    Raises:
        InputError: a version or the test set is empty, both versions are the same, or a label is unknown.
    """
    _refuse(run, before, after, test, seeds)
    settings, initial = settings_of_run(run), starting_weights(run, initial)
    rules = rules_of(run, layout_of(before), max_length)
    asked = list(test) if rules.counting is None else as_questions(list(test), list(before))
    jobs = [(name, seed) for seed in range(seeds) for name in ("before", "after")]
    rows = {"before": list(before), "after": list(after)}
    found: dict[str, list[tuple[np.ndarray | None, np.ndarray]]] = {name: [] for name in rows}
    for name, seed in track(jobs, total=len(jobs), label="training", unit="models", quiet=quiet):
        problem = RunProblem(run, rows[name], asked, initial, rules.max_length, rules.counting)
        outputs = TrainingLoop(problem, settings.settings)(np.arange(len(rows[name])), seed)
        right = (outputs.predicted == problem.query_labels).astype(np.float64) if run.task.labels else None
        found[name].append((right, outputs.loss))
    accuracy = {name: _stacked([right for right, _ in some]) for name, some in found.items()}
    loss = {name: np.stack([one for _, one in some]) for name, some in found.items()}
    return EvaluationReport(
        metric="versions",
        title=f"Two versions of the data, {len(test):,} test rows",
        said="each version trained again by the settings of the run, with the same seeds; figures are means over seeds",
        columns=(ACCURACY, LOSS) if accuracy["before"] is not None else (LOSS,),
        rows=tuple(_row(name, accuracy, loss) for name in ("before", "after", "after minus before")),
        facts=_facts(before, after, accuracy, loss, seeds),
        notes=settings.notes,
        version=__version__,
    )


def _refuse(run: Run, before: Sequence[Example], after: Sequence[Example], test: Sequence[Example], seeds: int) -> None:
    for what, rows in (("the version before", before), ("the version after", after), ("the test set", test)):
        if not rows:
            raise InputError(f"{what} is empty: give a file with rows")
    if seeds < 1:
        raise InputError(f"{seeds} seeds: give at least 1")
    if run.task.labels:
        for one in test:
            if one.label is None:
                raise InputError(f"the test row with id {one.id} has no label: leave it out, or name --label-column")
            run.label_number(one.label)
    if changed(before, after) == (0, 0, 0):
        raise InputError("both versions have the same rows and labels: there is nothing to compare")


def changed(before: Sequence[Example], after: Sequence[Example]) -> tuple[int, int, int]:
    """Rows that only the first version has, that only the second has, and that differ in text, label or weight."""
    held = {one.id: _content(one) for one in before}
    other = {one.id: _content(one) for one in after}
    both = held.keys() & other.keys()
    return len(held) - len(both), len(other) - len(both), sum(held[one] != other[one] for one in both)


def _content(one: Example) -> tuple[object, ...]:
    return (one.parts, one.turns, one.target, one.label, one.weight)


def _stacked(rows: Sequence[np.ndarray | None]) -> Float[np.ndarray, "s q"] | None:
    known = [one for one in rows if one is not None]
    return np.stack(known) if len(known) == len(rows) else None


def _row(
    name: str,
    accuracy: "dict[str, Float[np.ndarray, 's q'] | None]",
    loss: "dict[str, Float[np.ndarray, 's q']]",
) -> MethodFigures:
    """A version, or the difference of both."""
    made: list[Figure] = []
    for column, some in ((ACCURACY, accuracy), (LOSS, loss)):
        first, second = some["before"], some["after"]
        if first is None or second is None:
            continue
        if name in some:
            values = first if name == "before" else second
            made.append(figure(column, bootstrap(values.mean(0))))
        else:
            made.append(figure(column, paired(second.mean(0), first.mean(0))))
    return MethodFigures(name, control=False, figures=tuple(made))


def _facts(
    before: Sequence[Example],
    after: Sequence[Example],
    accuracy: "dict[str, Float[np.ndarray, 's q'] | None]",
    loss: "dict[str, Float[np.ndarray, 's q']]",
    seeds: int,
) -> tuple[tuple[str, str], ...]:
    """What changed, and what every seed gave: the noise that a difference must exceed."""
    gone, new, other = changed(before, after)
    facts = [
        ("rows", f"{len(before):,} before, {len(after):,} after: {gone:,} gone, {new:,} new, {other:,} changed"),
        ("trainings", f"{2 * seeds}"),
    ]
    shown = [(ACCURACY, accuracy), (LOSS, loss)] if accuracy["before"] is not None else [(LOSS, loss)]
    for column, some in shown:
        each = {name: [f"{one.mean():.3f}" for one in rows] for name, rows in some.items() if rows is not None}
        facts.append((f"{column} by seed", f"before {', '.join(each['before'])}; after {', '.join(each['after'])}"))
    if seeds == 1:
        facts.append(("noise of retraining", "unknown: one seed"))
    return tuple(facts)
