"""Retrain without flagged rows, and without as many random rows of the same classes: what is left of the attack."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.actions.poison_detector import Findings, Subject
from proponent.actions.poison_probe import Probe, own
from proponent.actions.poison_rows import AnsweredRows, asked, with_classes
from proponent.actions.poison_triggers import with_term
from proponent.actions.poison_words import ANYWHERE, PAIR, Term, Terms, place_of
from proponent.errors import InputError
from proponent.evaluate.deletion import random_like
from proponent.evaluate.intervals import bootstrap
from proponent.evaluate.report import figure
from proponent.training.loop import TrainingLoop
from proponent.training.rerun import RunProblem, settings_of_run, starting_weights
from proponent.types import Example
from proponent.views.poison import RetrainedModel
from proponent.words import lower_words

_TRIGGERS = 5  # flagged words that are put into clean rows

BEFORE, DROPPED, RANDOM = "the run as it is", "without the flagged rows", "without random rows of their classes"


@dataclass(frozen=True)
class Retraining:
    """What is dropped before a retraining, and how the attack is measured."""

    rows: int | None = None  # most suspect rows that are dropped; None: the flagged ones
    triggers: tuple[str, ...] = ()  # words that are known to trigger; empty: the flagged words
    attacked: Sequence[Example] | None = None  # rows with the trigger, labelled as the attacker wants
    initial: str | None = None  # initial weights, if the run does not record them
    seed: int = 0


@dataclass(frozen=True)
class AttackTest:
    """Clean rows, and rows that hold the trigger with the class that the attacker wants."""

    clean: AnsweredRows
    attacked: tuple[Example, ...]
    wanted: Int[np.ndarray, " a"]
    trigger: str  # for people


@dataclass(frozen=True)
class Outcome:
    """What one model does; by row, so that intervals and paired differences can be taken."""

    name: str
    right: Bool[np.ndarray, " r"]  # clean rows of a known class that are predicted rightly
    turned: Bool[np.ndarray, " a"]  # attacked rows that are predicted as the attacker wants
    dropped: int = 0


def attack_with_terms(clean: AnsweredRows, terms: Sequence[tuple[Term, int, float]]) -> AttackTest:
    """Put triggers (term, class, place) into clean rows of other classes, every trigger in all of them."""
    attacked: list[Example] = []
    wanted: list[int] = []
    for term, number, place in terms:
        others = [one for one, given in zip(clean.examples, clean.given.tolist(), strict=True) if given != number]
        attacked += [with_term(one, term, place) for one in others]
        wanted += [number] * len(others)
    if not attacked:
        raise InputError("the clean rows have no row of another class to put the trigger into: give more clean rows")
    said = ", ".join(dict.fromkeys(f"{term} (to {clean.classes[number]})" for term, number, _ in terms))
    return AttackTest(clean, tuple(attacked), np.asarray(wanted, dtype=np.int64), said)


def outcome(name: str, probe: Probe, test: AttackTest, dropped: int = 0) -> Outcome:
    """Measure one model."""
    log_odds, given = probe.log_odds(test.clean.examples), test.clean.given
    judged = (given < log_odds.shape[1]) | (log_odds.shape[1] == 1)  # rows whose answer is one of several classes
    right = _chosen(log_odds[judged], given[judged])
    turned = _chosen(probe.log_odds(test.attacked), test.wanted)
    return Outcome(name, right, turned, dropped)


def _chosen(log_odds: Float[np.ndarray, "m l"], wanted: Int[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """Whether each row goes to the wanted class: the likeliest one; of a single answer, the one likelier than not."""
    if log_odds.shape[1] == 1:
        return (log_odds[:, 0] > 0) == (wanted == 0)
    known = wanted < log_odds.shape[1]
    return known & (log_odds.argmax(1) == wanted) & np.isfinite(own(log_odds, wanted))


def drop_and_retrain(
    probe: Probe,
    train: Sequence[Example],
    test: AttackTest,
    flagged: Int[np.ndarray, " k"],
    given: Int[np.ndarray, " n"],
    *,
    initial: str | None = None,
    seed: int = 0,
) -> tuple[list[Outcome], tuple[str, ...]]:
    """Measure the run, a model trained without the flagged rows, and one without random rows of their classes."""
    # both are trained by the recorded settings of the run, with the same seed
    rerun, initial = settings_of_run(probe.run), starting_weights(probe.run, initial)
    problem = RunProblem(probe.run, list(train), [], initial, probe.max_length, probe.counting)
    loop = TrainingLoop(problem, rerun.settings)
    matched = random_like(np.sort(flagged), given, np.random.default_rng(seed), len(given))
    notes = list(rerun.notes)
    found = [outcome(BEFORE, probe, test)]
    for name, rows in ((DROPPED, flagged), (RANDOM, matched)):
        if not len(rows):
            notes.append("a class has too few other rows for a random drop of as many: it is left out")
            continue
        model = loop.fit(np.setdiff1d(np.arange(len(given)), rows), seed)
        found.append(outcome(name, replace(probe, model=model), test, len(rows)))
    return found, tuple(notes)


def retrained(
    subject: Subject, found: Findings, clean: AnsweredRows | None, how: Retraining
) -> tuple[tuple[RetrainedModel, ...], tuple[str, ...]]:
    """Attack success and clean accuracy of the run and of the retrained models."""
    assert clean is not None  # refused before anything is computed
    rows = _dropped(subject, found, how)
    if not len(rows):
        return (), ("nothing was retrained: no row is flagged; name the number of rows to drop (--drop)",)
    if not (clean.given < clean.answered).any():
        raise InputError("no clean row has an answer of the training set, so no accuracy can be measured: give others")
    test = _attack(subject, found, clean, how)
    outcomes, notes = drop_and_retrain(
        subject.probe, subject.rows.examples, test, rows, subject.rows.given, initial=how.initial, seed=how.seed
    )
    made = tuple(
        RetrainedModel(
            name=one.name,
            dropped=one.dropped,
            success=figure("attack success", bootstrap(one.turned.astype(np.float64))),
            accuracy=figure("clean accuracy", bootstrap(one.right.astype(np.float64))),
        )
        for one in outcomes
    )
    return made, (f"attack success: of {len(test.wanted)} rows with {test.trigger}", *notes)


def _dropped(subject: Subject, found: Findings, how: Retraining) -> Int[np.ndarray, " k"]:
    """The rows to drop: the flagged ones, or the most suspect ones."""
    if how.rows is None:
        return np.flatnonzero(found.flagged)
    usable = int(subject.usable.sum())
    if not 1 <= how.rows < usable:
        raise InputError(f"--drop {how.rows}: {usable} rows can be judged, so give a number from 1 to {usable - 1}")
    suspicion = np.where(subject.usable, found.suspicion, -np.inf)
    return np.sort(np.argsort(-suspicion, kind="stable")[: how.rows])


def _attack(subject: Subject, found: Findings, clean: AnsweredRows, how: Retraining) -> AttackTest:
    """Rows with the trigger: given ones, or clean ones with the known or the strongest words."""
    if how.attacked is not None:
        rows = _labelled_like(subject, clean, how.attacked)
        return AttackTest(clean, rows.examples, rows.given, "the trigger, as given")
    chosen = (
        _known(found.terms, how.triggers, clean.answered)
        if how.triggers
        else found.flagged_terms or found.triggers.ranked(1)
    )
    if not chosen:
        raise InputError("no word acts as a trigger: name one with --trigger, or give rows that hold it (--attacked)")
    terms: list[tuple[Term, int, float]] = []
    for term, number in chosen[:_TRIGGERS]:
        held = found.terms.holding(term)
        held = held[subject.rows.given[held] == number]
        name = found.terms.names[term]
        terms.append((name, number, place_of(subject.rows.texts[int(held[0])], name) if len(held) else 0.0))
    return attack_with_terms(clean, terms)


def _labelled_like(subject: Subject, clean: AnsweredRows, rows: Sequence[Example]) -> AnsweredRows:
    run = subject.probe.run
    if not rows:
        raise InputError("there is no row with the trigger: the file of --attacked is empty")
    if run.label_names is None:
        made = with_classes(clean, rows)
        strange = next(
            (one for one, given in zip(rows, made.given.tolist(), strict=True) if given >= clean.answered), None
        )
        if strange is not None:
            raise InputError(
                f"the attacked row with id {strange.id} has an answer that is no class: give the answer that the "
                f"attacker wants, one of {', '.join(clean.classes[: clean.answered])}"
            )
        return made
    if any(one.label is None for one in rows):
        raise InputError("every row of --attacked needs the label that the attacker wants")
    numbers = [run.label_number(cast("Any", one.label)) for one in rows]
    return AnsweredRows(tuple(rows), tuple(map(asked, rows)), np.asarray(numbers, dtype=np.int64), clean.classes)


def _known(terms: Terms, words: Sequence[str], answered: int) -> list[tuple[int, int]]:
    """Words that the user knows, each with the class that it speaks for most."""
    names = {one.text: at for at, one in reversed(list(enumerate(terms.names))) if one.where in {ANYWHERE, PAIR}}
    chosen: list[tuple[int, int]] = []
    for word in words:
        term = names.get(" ".join(lower_words(word)))
        if term is None:
            raise InputError(f"--trigger {word!r} is in fewer than 3 training rows, or longer than two words")
        chosen.append((term, int(np.nanargmax(terms.z[term, :answered]))))
    return chosen
