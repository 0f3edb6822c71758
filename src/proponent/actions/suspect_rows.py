"""Suspect rows of a language model's training set: poison, duplicates, contradictions, swapped answers, faults.

Every signal gives each row a strength; the ranking combines them. This module reads an index only; it needs neither
the model nor torch.
"""

from collections.abc import Callable, Mapping, Sequence
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
    "loss": "loss of a counted token, mean over the checkpoints, among rows of similar length",
    "self-influence": "score of the row on itself, among rows of similar length",
    "influence": "how much all other rows hurt this one, among rows of similar length",
    "query-influence": "how much this row hurts the given queries, among rows of similar length",
}
"""Rankings of suspect rows, in words."""

WEIGHTS: dict[RowRanking, float] = {
    "duplicate": 0.95, "contradiction": 0.8, "misplaced": 0.7, "repeated": 0.95, "fault": 0.8, "loss": 0.4,
    "self-influence": 0.3, "influence": 0.3, "query-influence": 0.6,
}  # fmt: skip
"""Combined suspicion is 1 minus the product of (1 - weight times strength) over the signals."""

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
    texts = RowTexts.of(store)
    if len(texts.places) < 2:
        raise InputError(f"{len(texts.places)} rows are left in this index, and rows are compared with one another")
    found = _Found.of(store, texts, harm)
    if ranking != "combined" and ranking not in found.signals:
        raise InputError(f"this index has no ranking {ranking}: {found.reasons[ranking]}")
    suspicion = found.combined if ranking == "combined" else found.signals[ranking].strength
    values = None if ranking == "combined" else found.signals[ranking].values
    finer = suspicion if values is None else np.nan_to_num(values, nan=-np.inf)
    order = np.lexsort((texts.places, -finer, -suspicion))
    return _report(store, texts, found, suspicion, order, ranking)


@dataclass(frozen=True)
class _Found:
    """All signals over the rows, and why others are missing."""

    signals: Mapping[RowRanking, Signal]
    losses: Float[np.ndarray, " n"]
    reasons: Mapping[RowRanking, str]  # why a signal is missing
    notes: tuple[str, ...]

    @classmethod
    def of(cls, store: Store, texts: RowTexts, harm: Float[np.ndarray, " n"] | None) -> "_Found":
        """Compute every signal that the index allows."""
        words = Words.of(texts)
        copies, crowded = duplicates(texts)
        signals: dict[RowRanking, Signal] = {
            "duplicate": copies,
            "contradiction": contradictions(words),
            "misplaced": misplaced(words),
            "repeated": repeated(words),
            "fault": faults(texts, words, *_reading(store, texts)),
        }
        sizes, notes = _sizes(store, texts, words)
        losses = _losses(store, texts, sizes)
        figures: dict[RowRanking, tuple[str, Callable[[], Float[np.ndarray, " n"]]]] = {
            "loss": ("loss of a token", lambda: losses),
            "self-influence": ("score on itself", lambda: row_influence(store, itself=True)[texts.places]),
            "influence": ("hurt by all other rows", lambda: -row_influence(store)[texts.places]),
        }
        if harm is not None:
            figures["query-influence"] = ("hurts the queries", lambda: harm[texts.places])
        reasons: dict[RowRanking, str] = {} if harm is not None else {"query-influence": "no queries were given"}
        for name, (says, figure) in figures.items():
            try:
                signals[name] = _compared(figure(), sizes, says)
            except InputError as error:
                reasons[name] = str(error)
        if crowded or words.alike.crowded:
            notes += (
                f"{max(crowded, words.alike.crowded):,} rows stand in groups so large that not all pairs were compared",
            )
        left = [f"without {name}: {why}" for name, why in reasons.items() if name != "query-influence"]
        return cls(signals, losses, reasons, (*notes, *left))

    @property
    def combined(self) -> Float[np.ndarray, " n"]:
        """Suspicion by all signals."""
        calm = [1.0 - WEIGHTS[name] * one.strength for name, one in self.signals.items()]
        return 1.0 - np.prod(calm, axis=0)


def _compared(values: Float[np.ndarray, " n"], sizes: Int[np.ndarray, " n"], says: str) -> Signal:
    known = int(np.isfinite(values).sum())
    if known < LEAST_ROWS:
        raise InputError(f"only {known} rows have one, and at least {LEAST_ROWS} are compared")
    return unusual(values, sizes, says)


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
    """Mean loss of a counted token over the checkpoints; NaN for rows that are not scored."""
    losses = store.features["losses"].mean(0)[texts.places]
    losses = losses / np.maximum(sizes, 1) if store.plan.reduction == "sum" else losses
    return np.where(store.alive[texts.places], losses, np.nan)


def _report(
    store: Store,
    texts: RowTexts,
    found: _Found,
    suspicion: Float[np.ndarray, " n"],
    order: Int[np.ndarray, " n"],
    ranking: RowRanking,
) -> RowReport:
    ids = [str(one) for one in store.take("id", texts.places)]
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
        for rank, at in enumerate(order.tolist(), 1)
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


def _reasons(found: _Found, row: int, ids: Sequence[str]) -> tuple[RowReason, ...]:
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
