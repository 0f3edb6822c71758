"""Suspect rows of a language model's training set: poison, duplicates, contradictions, swapped answers, faults.

Every signal gives each row a strength; the ranking combines them. This module reads an index only; it needs neither
the model nor torch.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.actions.misplaced_answers import misplaced
from proponent.actions.repeated_answers import repeated
from proponent.actions.row_influence import row_influence
from proponent.actions.row_signals import Signal, Words, contradictions, duplicates, faults, unusual
from proponent.actions.row_texts import RowTexts, missing_text
from proponent.data import write_csv
from proponent.errors import InputError
from proponent.store import Store
from proponent.views import RowReason, RowReport, SuspectRow

RowRanking = Literal[
    "combined", "duplicate", "contradiction", "misplaced", "repeated", "fault", "loss", "self-influence", "influence",
    "query-influence",
]  # fmt: skip

ROW_RANKINGS: dict[RowRanking, str] = {
    "combined": "all signals together",
    "duplicate": "an earlier row has nearly the same text",
    "contradiction": "a row with nearly the same prompt has another answer",
    "misplaced": "the answer fits the prompt of another row better than its own",
    "repeated": "rows with different prompts have the same answer",
    "fault": "the answer is empty, cut off, or repeats the prompt",
    "loss": "loss of a counted token (of a pair of answers), mean over the checkpoints, among rows of similar length",
    "self-influence": "score of the row on itself, among rows of similar length",
    "influence": "how much all other rows hurt this one, among rows of similar length",
    "query-influence": "how much this row hurts the given queries, among rows of similar length",
}
"""Rankings of suspect rows, in words."""

WEIGHTS: dict[RowRanking, float] = {
    "duplicate": 0.95, "contradiction": 0.7, "misplaced": 0.8, "repeated": 0.95, "fault": 0.8, "loss": 0.2,
    "self-influence": 0.2, "influence": 0.2, "query-influence": 0.6,
}  # fmt: skip
"""Combined suspicion is 1 minus the product of (1 - weight times strength) over the signals.

Weights of the texts' signals were chosen on planted faults (docs/log.md). There the losses and influences of a small
model did not help: they name a reason and cannot flag a row alone. Faults and queries were not among what was planted.
"""

FLAGGED = 0.5
"""Suspicion from which a row is flagged."""

LEAST_ROWS = 20
"""Losses and scores of fewer rows are not compared with one another."""


def report(store: Store) -> RowReport:
    """Report for the table of actions: all signals."""
    return suspect_rows(store)


def suspect_rows(
    store: Store, ranking: RowRanking = "combined", *, harm: Float[np.ndarray, " n"] | None = None
) -> RowReport:
    """Rank the training rows by how suspect they are; `harm`: how much each row hurts some queries."""
    problem = missing_text(store.plan)
    if problem:
        raise InputError(problem)
    if ranking == "query-influence" and harm is None:
        raise InputError(
            "the ranking query-influence needs queries: give a file of good questions and answers (--queries)"
        )
    found = RowSignals.of(store, harm, (ranking,))
    if ranking != "combined" and ranking not in found.signals:
        raise InputError(f"this index allows no ranking by {ranking}: {found.reasons[ranking]}")
    suspicion = found.combined if ranking == "combined" else found.signals[ranking].strength
    values = None if ranking == "combined" else found.signals[ranking].values
    finer = suspicion if values is None else np.nan_to_num(values, nan=-np.inf)
    order = np.lexsort((found.texts.places, -finer, -suspicion))
    return _report(store, found, suspicion, order, ranking)


@dataclass(frozen=True)
class RowSignals:
    """All signals over the rows of an index, and why others are missing."""

    texts: RowTexts
    signals: Mapping[RowRanking, Signal]
    losses: Float[np.ndarray, " n"]
    reasons: Mapping[RowRanking, str]  # why a signal is missing
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, store: Store, harm: Float[np.ndarray, " n"] | None = None, further: Collection[RowRanking] = ()
    ) -> "RowSignals":
        """Compute the signals that an index allows; `further`: influences, `harm`: how much each row hurts queries."""
        texts = RowTexts.of(store)
        if len(texts.places) < 2:
            raise InputError(f"{len(texts.places)} rows are left in this index, and rows are compared with one another")
        words = Words.of(texts)
        copies, crowded = duplicates(words)
        signals: dict[RowRanking, Signal] = {
            "duplicate": copies,
            "contradiction": contradictions(words),
            "misplaced": misplaced(words),
            "repeated": repeated(words),
            "fault": faults(texts, words, *_reading(store, texts)),
        }
        sizes, notes = _sizes(store, texts, words)
        losses = np.where(store.alive[texts.places], _losses(store, texts, sizes), np.nan)
        figures: dict[RowRanking, Figure] = {"loss": lambda: losses}
        compared, reasons = _figures(sizes, figures | _influences(store, texts, harm, further))
        most = max(crowded, words.alike.crowded)
        if most:
            notes += (f"{most:,} rows stand in groups so large that not all pairs were compared",)
        left = [f"without {name}: {why}" for name, why in reasons.items()]
        return cls(texts, signals | compared, losses, reasons, (*notes, *left))

    @property
    def combined(self) -> Float[np.ndarray, " n"]:
        """Suspicion by all signals."""
        calm = [1.0 - WEIGHTS[name] * one.strength for name, one in self.signals.items()]
        return 1.0 - np.prod(calm, axis=0)


Figure = Callable[[], Float[np.ndarray, " n"]]

SAYS: dict[RowRanking, str] = {
    "loss": "loss",
    "self-influence": "score on itself",
    "influence": "hurt by all other rows",
    "query-influence": "hurts the queries",
}
"""Figures that have no scale of their own, in words."""


def _influences(
    store: Store, texts: RowTexts, harm: Float[np.ndarray, " n"] | None, further: Collection[RowRanking]
) -> dict[RowRanking, Figure]:
    """Influences, computed only where they are wanted; NaN for rows without a gradient."""
    found: dict[RowRanking, Figure] = {
        "self-influence": lambda: row_influence(store, itself=True),
        "influence": lambda: -row_influence(store),
    }
    wanted: dict[RowRanking, Figure] = {name: figure for name, figure in found.items() if name in further}
    if harm is not None:
        wanted["query-influence"] = lambda: harm
    alive = store.alive

    def among(figure: Figure) -> Figure:
        return lambda: np.where(alive, figure(), np.nan)[texts.places]

    return {name: among(figure) for name, figure in wanted.items()}


def _figures(
    sizes: Int[np.ndarray, " n"], figures: Mapping[RowRanking, Figure]
) -> tuple[dict[RowRanking, Signal], dict[RowRanking, str]]:
    """Signals of figures that are compared among rows of similar size, and why others are missing."""
    signals: dict[RowRanking, Signal] = {}
    reasons: dict[RowRanking, str] = {}
    for name, figure in figures.items():
        try:
            values = figure()
        except InputError as error:
            reasons[name] = str(error)
            continue
        known = int(np.isfinite(values).sum())
        if known < LEAST_ROWS:
            reasons[name] = f"only {known} rows have one, and at least {LEAST_ROWS} are compared"
        else:
            signals[name] = unusual(values, sizes, SAYS[name])
    return signals, reasons


def _reading(store: Store, texts: RowTexts) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Rows that are longer than the model reads, and rows that were not trained on."""
    cut = (
        store.features["truncated"][texts.places]
        if "truncated" in store.features
        else np.zeros(len(texts.places), bool)
    )
    return cut, store.features["skipped"][texts.places]


def _sizes(store: Store, texts: RowTexts, words: Words) -> tuple[Int[np.ndarray, " n"], tuple[str, ...]]:
    """The counted tokens of each row; in an index of an earlier version, the words of its answer."""
    if "counted" in store.features:
        return store.features["counted"][texts.places].astype(np.int64), ()
    note = "this index does not hold the number of counted tokens: the words of the answer stand in their place"
    return words.answers.lengths, (note,)


def _losses(store: Store, texts: RowTexts, sizes: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Mean loss of a counted token over the checkpoints; of preferences, the loss of the pair."""
    losses = store.features["losses"].mean(0)[texts.places]
    summed = store.plan.reduction == "sum" and store.plan.predicted != "pairs"
    return losses / np.maximum(sizes, 1) if summed else losses


def _report(
    store: Store,
    found: RowSignals,
    suspicion: Float[np.ndarray, " n"],
    order: Int[np.ndarray, " n"],
    ranking: RowRanking,
) -> RowReport:
    texts = found.texts
    ids = [str(one) for one in store.take("id", texts.places)]
    ranked: list[int] = order.tolist()
    numbers = [int(one) for one in store.take("row", texts.places)]
    rows = tuple(
        SuspectRow(
            rank=rank,
            id=ids[at],
            row=numbers[at],
            prompt=texts.prompts[at] if texts.asked[at] else None,
            answer=texts.answers[at],
            suspicion=float(suspicion[at]),
            flagged=bool(suspicion[at] >= FLAGGED),
            reasons=_reasons(found, at, ids),
            loss=float(found.losses[at]) if np.isfinite(found.losses[at]) else None,
        )
        for rank, at in enumerate(ranked, 1)
    )
    return RowReport(
        ranking=f"{ranking}: {ROW_RANKINGS[ranking]}",
        n_examples=len(rows),
        rows=rows,
        found=tuple(
            (name, ROW_RANKINGS[name], int((WEIGHTS[name] * one.strength >= FLAGGED).sum()))
            for name, one in found.signals.items()
        ),
        notes=(*store.manifest.notes, *found.notes),
    )


def _reasons(found: RowSignals, row: int, ids: Sequence[str]) -> tuple[RowReason, ...]:
    """What speaks against a row, strongest first."""
    made: list[tuple[float, RowReason]] = []
    for name, one in found.signals.items():
        said = one.evidence.get(row)
        if said is not None:
            other = None if said.other is None else ids[said.other]
            reason = RowReason(
                signal=name, strength=float(one.strength[row]), says=said.says, other=other, words=said.words
            )
            made.append((-WEIGHTS[name] * reason.strength, reason))
    return tuple(reason for _, reason in sorted(made, key=lambda pair: pair[0]))


def write_row_csv(report: RowReport, path: str | Path) -> int:
    """Write a report as CSV, in data order, with the strength of every signal; return the number of guarded cells."""
    rows = sorted(report.rows, key=lambda one: (one.row, one.rank))
    columns: dict[str, Sequence[object]] = {
        "is_suspect": [one.flagged for one in rows],
        "suspicion": [one.suspicion for one in rows],
        "rank": [one.rank for one in rows],
        "id": [one.id for one in rows],
        "row": [one.row for one in rows],
        "reasons": ["; ".join(map(str, one.reasons)) for one in rows],
        "others": [" ".join(dict.fromkeys(reason.other for reason in one.reasons if reason.other)) for one in rows],
        "loss": [one.loss for one in rows],
    }
    for name, _, _ in report.found:
        columns[name] = [next((one.strength for one in row.reasons if one.signal == name), 0.0) for row in rows]
    columns["prompt"] = [one.prompt for one in rows]
    columns["answer"] = [one.answer for one in rows]
    return write_csv(path, columns)
