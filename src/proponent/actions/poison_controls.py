"""Detectors and controls on known poison: one table, with the direction of each fixed beforehand (high is suspect)."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.actions.poison_detector import ASKED, Findings, Subject
from proponent.actions.poison_probe import Probe, own
from proponent.actions.poison_rules import Detection
from proponent.actions.poison_screens import clusters, lengths, rare_words, spectral
from proponent.actions.row_influence import row_influence
from proponent.baselines import held_out_losses
from proponent.errors import InputError
from proponent.evaluate.ranking import (
    average_precision,
    bootstrap_gap,
    bootstrap_rows,
    precision_at,
    roc_auc,
)
from proponent.evaluate.report import BETTER, UNSURE, WORSE
from proponent.index import Index
from proponent.views import MethodFigures
from proponent.views.evaluation import Figure

OURS = "proponent poison"
COLUMNS = ("AUPRC", "AUROC", "precision at k", "AUPRC in class", "AUROC in class")
_DRAWS = 200

Scores = Mapping[str, Float[np.ndarray, " n"]]


def controls_of(
    subject: Subject, found: Findings, base: Probe, last: Index | None
) -> tuple[dict[str, Float[np.ndarray, " n"]], list[str]]:
    """Every control that these rows and this index allow, and notes on those that are missing."""
    rows, store = subject.rows, subject.index.store
    losses, given = store.features["losses"], rows.given
    states = subject.probe.states(rows.examples)
    before = own(base.log_odds(rows.examples), given)
    target = _target(found, rows.answered)
    made: dict[str, Float[np.ndarray, " n"]] = {
        "random": np.random.default_rng(0).random(len(rows)),
        "label only": (given == target).astype(np.float64),
        "row length": lengths(rows.texts),
        "rare word": rare_words(rows.texts),
        "word-label z": found.terms.best(found.terms.z, given),
        "out-of-fold loss": held_out_losses(rows.texts, given),
        "training loss, last": losses[-1],
        "training loss, mean": losses.mean(0),
        "training loss, low": -losses.mean(0),
        "divergence": found.log_odds - before,
        "base disagreement": -before,
        "spectral, class, top 1": spectral(states, given),
        "spectral, class, top 10": spectral(states, given, 10),
        "spectral, all, top 10": spectral(states, None, 10),
        "activation clusters": clusters(states, given),
    }
    influence, notes = _influence(subject, last)
    return made | influence, notes


def _target(found: Findings, classes: int) -> int:
    """The class of the strongest candidate trigger."""
    strength = np.nan_to_num(found.triggers.strength[:, :classes])
    return int(strength.max(0).argmax())


def _influence(subject: Subject, last: Index | None) -> tuple[dict[str, Float[np.ndarray, " n"]], list[str]]:
    made: dict[str, Float[np.ndarray, " n"]] = {}
    notes: list[str] = []
    try:
        itself = row_influence(subject.index.store, itself=True)
        made["self-influence"] = itself
        made["gradient norm"] = np.sqrt(np.maximum(itself, 0.0))
        notes.append("gradient norm: the root of self-influence, over all checkpoints; it ranks rows in the same order")
    except InputError as error:
        notes.append(f"control self-influence and gradient norm are missing: {error}")
    asked = subject.queries[:ASKED]
    made["influence"] = np.abs(subject.query_scores(subject.index, asked).mean(0))
    if last is None:
        notes.append("control last-layer TracIn is missing: no index of it was given")
    else:
        made["last-layer TracIn"] = np.abs(subject.query_scores(last, asked).mean(0))
    return made, notes


def compared(
    found: Findings,
    rules: Mapping[str, Detection],
    controls: Scores,
    truth: Bool[np.ndarray, " n"],
    usable: Bool[np.ndarray, " n"],
    given: Int[np.ndarray, " n"],
) -> list[MethodFigures]:
    """Figures of our detector, the published rules and the controls, on the rows that can be judged."""
    if not truth[usable].any() or truth[usable].all():
        raise InputError("the column of --truth must mark some rows, and not all: 1 or true for a poisoned row")
    everything: dict[str, Float[np.ndarray, " n"]] = {
        OURS: found.suspicion,
        **{f"part: {name}": one for name, one in found.parts.items()},
    }
    everything |= {f"rule: {name}": one.suspicion for name, one in rules.items()}
    inside = usable & np.isin(given, np.unique(given[truth & usable]))
    named = {name: _finite(values) for name, values in {**everything, **controls}.items()}
    precision = {name: average_precision(values[usable], truth[usable]) for name, values in named.items()}
    best = max(controls, key=lambda name: precision[name])
    rows: list[MethodFigures] = []
    for name, values in named.items():
        said = _verdict(values, named[best], truth, usable, best) if name == OURS else ""
        rows.append(MethodFigures(name, name in controls, _figures(values, truth, usable, inside), said))
    return rows


def _finite(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Rows without a figure rank lowest."""
    known = np.isfinite(values)
    return np.where(known, values, (values[known].min() if known.any() else 0.0) - 1.0)


def _figures(
    values: Float[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    usable: Bool[np.ndarray, " n"],
    inside: Bool[np.ndarray, " n"],
) -> tuple[Figure, ...]:
    made: list[Figure] = []
    for rows, suffix in ((usable, ""), (inside, " in class")):
        seen, sought = values[rows], truth[rows]
        if sought.all():
            made += [Figure(f"AUPRC{suffix}", None), Figure(f"AUROC{suffix}", None)]
            continue
        ends = bootstrap_rows(average_precision, seen, sought, _DRAWS)
        made.append(Figure(f"AUPRC{suffix}", average_precision(seen, sought), *ends))
        made.append(Figure(f"AUROC{suffix}", roc_auc(seen, sought)))
    made.insert(2, Figure("precision at k", precision_at(values[usable], truth[usable], int(truth[usable].sum()))))
    return tuple(made)


def _verdict(
    ours: Float[np.ndarray, " n"],
    theirs: Float[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    usable: Bool[np.ndarray, " n"],
    best: str,
) -> str:
    low, high = bootstrap_gap(average_precision, ours[usable], theirs[usable], truth[usable], _DRAWS)
    gap = average_precision(ours[usable], truth[usable]) - average_precision(theirs[usable], truth[usable])
    word = BETTER if low > 0 else WORSE if high < 0 else UNSURE
    return f"{word} ({best}: {gap:+.3f} [{low:.3f}, {high:.3f}])"
