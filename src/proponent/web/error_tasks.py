"""What is behind the wrong predictions of a test set: computed in the process with the model, stored, and shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from proponent.predictions import Predictions
from proponent.views import ErrorReport
from proponent.views.error_report import ErrorCounts, ErrorHits, RecurringExample, error_report
from proponent.views.group_scores import GroupScores
from proponent.web.jobs import RowsTask
from proponent.web.stored_results import StoredResult
from proponent.web.test_sets import JudgedTestSet

K = 10
"""Proponents of each wrong prediction that count."""

MOST_ERRORS = 200
"""Wrong predictions that are explained: each takes as long as a question. Of more, these are evenly spread."""

BLOCK = 8
"""Wrong predictions that the process explains at a time; a question waits for them."""

Totals = dict[str, dict[str, list[float]]]
"""By column and value: number of training examples, sums of positive and of negative scores."""


@dataclass(frozen=True)
class FoundErrors:
    """The proponents of each wrong prediction that was explained, and sums over groups."""

    hits: tuple[ErrorHits, ...]
    sums: Mapping[str, tuple[GroupScores, ...]]


def stored_errors(judged: JudgedTestSet) -> StoredResult[FoundErrors]:
    """Where the result about a test set is stored."""
    return judged.result("errors", f"{judged.test_set.id} {K} {MOST_ERRORS}", _read)


def _read(content: Mapping[str, Any]) -> FoundErrors:
    hits = tuple(_hits(one) for one in content["hits"])
    sums = {
        str(column): tuple(
            GroupScores(str(name), int(n), float(up), float(down)) for name, (n, up, down) in some.items()
        )
        for column, some in content["sums"].items()
    }
    return FoundErrors(hits, sums)


def _hits(one: Any) -> ErrorHits:
    number, given, predicted, hits, words = one
    return ErrorHits(
        int(number),
        str(given),
        str(predicted),
        tuple((str(name), float(score)) for name, score in hits),
        tuple((str(word), float(share)) for word, share in words),
    )


class ErrorsTask(RowsTask):
    """Explains the wrong predictions of a test set in the process with the model."""

    def __init__(self, judged: JudgedTestSet, found: Predictions) -> None:
        self.judged, self.found, self.name = judged, found, task_name(judged)
        places = chosen_errors(found)
        self._places = places[np.argsort(found.truth[places], kind="stable")]  # those of a class share their passes
        self.total = len(self._places)
        self._hits: list[Any] = []
        self._sums: Totals = {}

    def request(self, start: int) -> tuple[dict[str, Any], int]:
        """Some wrong predictions: their texts, the predicted and the true class."""
        names = self.found.names
        asked: list[dict[str, Any]] = []
        places: list[int] = self._places[start : start + BLOCK].tolist()
        for at in places:
            one = self.judged.test_set.rows[at]
            classes = names[int(self.found.predicted[at])], names[int(self.found.truth[at])]
            asked.append({"number": at, "text": one.text, "text_pair": one.text_pair, "classes": classes})
        return {"errors": asked, "k": K}, len(asked)

    def take(self, start: int, reply: Mapping[str, Any]) -> None:
        """Keep what was found, and add up the sums."""
        if start == 0:
            self._hits, self._sums = [], {}
        self._hits += reply["hits"]
        for column, some in reply["sums"].items():
            known = self._sums.setdefault(column, {})
            for name, n, up, down in some:
                before = known.get(name, [n, 0.0, 0.0])
                known[name] = [n, before[1] + up, before[2] + down]

    def finish(self, seconds: float) -> None:
        """Store it."""
        stored_errors(self.judged).put({"hits": self._hits, "sums": self._sums, "seconds": seconds})


def task_name(judged: JudgedTestSet) -> str:
    """Name of the task of a test set."""
    return f"errors {judged.test_set.id}"


def chosen_errors(found: Predictions) -> Int[np.ndarray, " m"]:
    """Numbers of the wrong predictions that are explained."""
    wrong = np.flatnonzero(found.wrong)
    if len(wrong) <= MOST_ERRORS:
        return wrong
    return wrong[np.linspace(0, len(wrong) - 1, MOST_ERRORS).round().astype(np.int64)]


def report_of(judged: JudgedTestSet, found: Predictions, errors: FoundErrors) -> ErrorReport:
    """The report of what was found."""
    shown = judged.shown
    left = int((~found.judged).sum())
    notes = [f"{left:,} rows have no label that is a class of the model; they are not judged"] if left else []
    if not shown.contrasts:
        notes.append("the method compares no classes: the predicted class is explained, not against the true one")
    counts = ErrorCounts(
        shown.plan.method.name,
        len(found.predicted),
        int(found.judged.sum()),
        int(found.wrong.sum()),
        K,
        tuple(notes),
    )
    return error_report(errors.hits, counts, lambda name: _described(judged, name), errors.sums)


def _described(judged: JudgedTestSet, name: str) -> RecurringExample:
    table = judged.shown.table
    place = table.whole.numbers.get(name)
    if place is None:  # a stored result of somebody else
        return RecurringExample(id=name, row=0, text="", label=None)
    (one,) = table.whole.rows(np.asarray([place]))
    verdicts, names = table.judged, table.names
    predicted = None if verdicts is None or names is None else names[int(verdicts.likeliest[place])]
    return RecurringExample(
        id=name,
        row=int(one["row"]),
        text=str(one["text"]),
        label=one["label"],
        predicted=predicted,
        source=one["source"],
    )
