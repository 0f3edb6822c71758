"""Poison in a training set: rows that tie a hidden trigger to an answer, and what dropping them does.

The published detector (arXiv 2504.09026) runs on any method's scores; ours adds what is known of words, of the model
and of its training. Evidence of both stands beside every row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from proponent.actions.poison_controls import COLUMNS
from proponent.actions.poison_detector import ASKED, Subject, find_poison
from proponent.actions.poison_probe import Probe
from proponent.actions.poison_report import poison_page, table_of
from proponent.actions.poison_retrain import Retraining, retrained
from proponent.actions.poison_rows import (
    LEAST,
    OTHER,
    AnsweredRows,
    by_answer,
    changed,
    labelled,
    question,
    with_classes,
)
from proponent.actions.poison_rules import RULES, Detection, Rule, TooFewRowsError, detect
from proponent.actions.poison_transforms import TRANSFORMS, Transform, transformed
from proponent.actions.text_overlap import shared_rows
from proponent.errors import InputError, MismatchError
from proponent.index import Index
from proponent.models import Run
from proponent.models.trainer_notes import JUDGED
from proponent.progress import track
from proponent.training.rerun import starting_weights
from proponent.types import Example
from proponent.views.poison import PoisonReport


@dataclass(frozen=True)
class Known:
    """Which rows are poisoned, for a table of detectors and controls."""

    truth: Sequence[bool]
    last: Index | None = None  # an index of the same rows by tracin-last, for that control


def poison(
    index: Index,
    train: Sequence[Example],
    queries: Sequence[Example] | None = None,
    *,
    transforms: Mapping[str, Transform] = TRANSFORMS,
    threshold: float | None = None,
    base: str | None = None,
    known: Known | None = None,
    retraining: Retraining | None = None,
    quiet: bool = False,
) -> PoisonReport:
    """Look for poisoned rows: words that act as triggers, rows by suspicion, and what remains after dropping them.

    Args:
        index: an index of the training rows; with shares of words (tracin-we) it also proposes candidate triggers.
        train: the rows of the index, in its order: texts with labels, prompts with targets, or messages.
        queries: clean rows with labels or answers; None takes training rows, and then nothing can be retrained.
        transforms: changes of the queries' texts for the published rules.
        threshold: strength from which a word is flagged; None: 5, and more for more than 2,000 rows.
        base: folder of the model before training; None: without the adapter, or the first checkpoint.
        known: the poisoned rows, if they are known.
        retraining: drop rows and train again; None does not.
        quiet: no progress on stderr.

    Returns:
        Words, rows and figures.

    Raises:
        InputError: rows without answers, nothing to turn to, too few rows, numbers that are not finite.
        MismatchError: `train` is not what the index holds.

    Source:
        arXiv 2504.09026 for the rules; the other parts name theirs.
    """
    truth = None if known is None else known.truth
    refuse_early(index.run, len(train), queries, threshold=threshold, truth=truth, retraining=retraining)
    subject, notes = _subject(index, train, queries, quiet=quiet)
    found = find_poison(subject, threshold)
    rules, told = published(subject, transforms)
    notes += [*found.notes, *told]
    page = poison_page(subject, found, rules)
    if known is not None:
        rows, told = table_of(subject, found, rules, known.truth, known.last, base)
        page, notes = replace(page, rows=rows, columns=COLUMNS), [*notes, *told]
    if retraining is not None:
        clean = None if queries is None else like(index.run, subject.rows, queries)
        models, told = retrained(subject, found, clean, retraining)
        page, notes = replace(page, retrained=models), [*notes, *told]
    return replace(page, notes=tuple(notes))


def refuse_early(
    run: Run,
    rows: int,
    queries: Sequence[Example] | None,
    *,
    threshold: float | None,
    truth: Sequence[bool] | None,
    retraining: Retraining | None,
) -> None:
    """Refuse what can be seen to be wrong before anything is computed."""
    if threshold is not None and not (np.isfinite(threshold) and threshold > 0):
        raise InputError(f"the threshold is {threshold}: must be a number above 0")
    if truth is not None and len(truth) != rows:
        raise InputError(f"the truth is known of {len(truth)} rows, and there are {rows}: mark each row")
    if truth is not None and (not any(truth) or all(truth)):
        raise InputError("the column of --truth must mark some rows, and not all: 1 or true for a poisoned row")
    if retraining is None:
        return
    if queries is None:
        raise InputError("a retraining is measured on clean rows: give them with --queries FILE")
    if retraining.rows is not None and not 1 <= retraining.rows < rows:
        raise InputError(f"--drop {retraining.rows}: there are {rows} rows, so give a number from 1 to {rows - 1}")
    starting_weights(run, retraining.initial)


def _subject(
    index: Index, train: Sequence[Example], queries: Sequence[Example] | None, *, quiet: bool
) -> tuple[Subject, list[str]]:
    """Classes, model and queries."""
    run, plan = index.run, index.store.plan
    if [str(one) for one in index.store.examples["id"]] != [one.id for one in train]:
        raise MismatchError("the training rows are not those of the index: give the file that it was built from")
    rows = answered(run, train)
    answers = () if run.task.labels else rows.classes[: rows.answered]
    probe = Probe(run, run.load(run.checkpoints[-1]), answers, plan.max_length, plan.counting)
    notes: list[str] = []
    if rows.classes[-1] == OTHER:
        count = int((rows.given == rows.answered).sum())
        notes.append(f"{count} rows whose answer fewer than {LEAST} rows share are one class, {OTHER}: not judged")
    if queries is None:
        order = np.random.default_rng(0).permutation(len(rows))
        chosen: list[int] = order.tolist()
        notes.append(
            "no clean rows were given (--queries): training rows are asked, without their scores on themselves"
        )
        examples = tuple(rows.examples[at] for at in chosen)
        return Subject(index, rows, probe, examples, rows.given[order], order, quiet), notes
    clean = like(run, rows, queries)
    shared = shared_rows(clean.examples, train)
    notes += [f"{shared} of {len(clean)} clean rows are also training rows"] if shared else []
    return Subject(index, rows, probe, clean.examples, clean.given, quiet=quiet), notes


def answered(run: Run, train: Sequence[Example]) -> AnsweredRows:
    """The rows with their classes: labels of a classifier, shared answers of a language model."""
    if run.task.answers or run.task.trainer in JUDGED:
        raise InputError(f"{run.path} is a {run.task.kind} model: poison is looked for in classes and in answers")
    names = run.label_names
    if names is None:
        return by_answer(train)
    missing = next((one for one in train if one.label is None), None)
    if missing is not None:
        raise InputError(f"the row with id {missing.id} has no label: name its column (--label-column)")
    return labelled(train, names, [run.label_number(cast("Any", one.label)) for one in train])


def like(run: Run, rows: AnsweredRows, queries: Sequence[Example]) -> AnsweredRows:
    """Clean rows with the classes of the training rows."""
    if not queries:
        raise InputError("there is no clean row: the file of --queries is empty")
    return answered(run, queries) if run.label_names is not None else with_classes(rows, queries)


def published(subject: Subject, transforms: Mapping[str, Transform]) -> tuple[dict[Rule, Detection], list[str]]:
    """The published rules on the scores of the index; none if no transform changes a query."""
    asked = subject.queries[:ASKED]
    texts = [question(one) for one in asked]
    kept, notes = transformed(texts, transforms)
    if not kept:
        return {}, [*notes, "the published rules are missing: no transform changes a query"]
    plain = subject.query_scores(subject.index, asked)
    inverted = np.zeros((len(kept), *plain.shape))
    for at, one in enumerate(
        track(kept, total=len(kept), label="transformed queries", unit="transforms", quiet=subject.quiet)
    ):
        made = [changed(query, lambda _, text=text: text) for query, text in zip(asked, one.texts, strict=True)]
        inverted[at] = subject.query_scores(subject.index, made)
    rows = np.flatnonzero(subject.usable)
    used = np.asarray([one.changed for one in kept])
    found: dict[Rule, Detection] = {}
    for rule in RULES:
        try:
            one = detect(plain[:, rows], inverted[:, :, rows], rule, [each.kind for each in kept], used=used)
        except TooFewRowsError as error:
            notes.append(f"the rule {rule} is missing: {error}")
            continue
        found[rule] = one.spread(rows, len(subject.rows))
    return found, notes
