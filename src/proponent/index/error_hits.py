"""Explain many wrong predictions, and sum up what is behind them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from proponent.errors import InputError
from proponent.index.group_columns import group_columns
from proponent.index.known_rows import known_rows
from proponent.index.predicting import Predicting
from proponent.predictions import NO_LABEL, Predictions, Truth
from proponent.types import Example
from proponent.views import ErrorReport, Explanation
from proponent.views.error_report import ErrorCounts, ErrorHits, RecurringExample, error_report
from proponent.views.group_scores import GroupScores
from proponent.views.prediction_report import PredictionReport, WrongRow

BLOCK = 256
"""Rows that are predicted between two status messages."""


@dataclass(frozen=True)
class WrongPrediction:
    """A row that is predicted wrongly.

    Attributes:
        number: its number in the test set.
        query: its text; the label is the predicted class.
        given: the true class.
    """

    number: int
    query: Example
    given: str


class GroupTotals:
    """Sums of scores over groups of training examples, added up over queries."""

    def __init__(self, index: Predicting) -> None:
        self._alive = index.store.alive
        self._coded = {
            name: np.unique(np.asarray(values, dtype=object), return_inverse=True)
            for name, values in group_columns(index.store).items()
        }
        self._above = np.zeros(len(self._alive))
        self._below = np.zeros(len(self._alive))

    def add(self, scores: Float[np.ndarray, " n"]) -> None:
        """Add the scores of one query."""
        known = np.where(self._alive & np.isfinite(scores), scores, 0.0)
        self._above += np.maximum(known, 0)
        self._below += np.minimum(known, 0)

    @property
    def sums(self) -> dict[str, tuple[GroupScores, ...]]:
        """The sums of each value, by column."""
        return {name: self._of(names, codes) for name, (names, codes) in self._coded.items()}

    def _of(self, names: np.ndarray, codes: np.ndarray) -> tuple[GroupScores, ...]:
        counts = np.bincount(codes[self._alive], minlength=len(names))
        above, below = (np.bincount(codes, one, minlength=len(names)) for one in (self._above, self._below))
        some = zip(names, counts, above, below, strict=True)
        return tuple(GroupScores(str(name), int(n), float(up), float(down)) for name, n, up, down in some if n)


def explained_errors(
    index: Predicting, wrong: Sequence[WrongPrediction], k: int
) -> Iterator[tuple[ErrorHits, Explanation, Float[np.ndarray, " n"]]]:
    """Explain wrong predictions: those with the same true class together, which is what they are compared with."""
    by_class: dict[str, list[WrongPrediction]] = defaultdict(list)
    for one in wrong:
        by_class[one.given].append(one)
    for given, some in by_class.items():
        answers = index.explain_with_scores([one.query for one in some], given if index.contrasts else None, k)
        for one, (answer, scores) in zip(some, answers, strict=True):
            made = ErrorHits.of(one.number, given, answer)
            yield replace(made, predicted=str(one.query.label)), answer, scores


def report_errors(index: Predicting, queries: Sequence[Example], k: int, most: int) -> ErrorReport:
    """See `Index.explain_errors`."""
    if most < 1:
        raise InputError(f"most is {most!r}: it must be at least 1")
    return _behind(index, queries, predictions_of(index, queries), k, most)


def report_predictions(index: Predicting, queries: Sequence[Example], name: str, k: int, most: int) -> PredictionReport:
    """A test set as the model predicts it, with what is behind `most` wrong predictions; 0 leaves that out."""
    found = predictions_of(index, queries)
    truth = Truth.of([one.label for one in queries], index.store.plan.labels)
    names = found.names
    wrong: list[int] = np.flatnonzero(found.wrong).tolist()
    return PredictionReport(
        data=name,
        rows=len(queries),
        judged=int(found.judged.sum()),
        unlabelled=int((found.truth == NO_LABEL).sum()),
        unknown=truth.unknown,
        trained=int(known_rows(index.store, queries, "text_pair").sum()),
        accuracy=found.accuracy,
        classes=names,
        confusion=tuple(tuple(map(int, line)) for line in found.confusion.tolist()),
        predicted=tuple(names[int(one)] for one in found.predicted),
        chances=tuple(map(float, found.chances)),
        wrong=tuple(
            WrongRow(
                id=queries[at].id,
                row=queries[at].row,
                text=queries[at].parts[0],
                given=names[int(found.truth[at])],
                predicted=names[int(found.predicted[at])],
                chance=float(found.chances[at]),
            )
            for at in wrong
        ),
        errors=_behind(index, queries, found, k, most) if wrong and most else None,
    )


def _behind(index: Predicting, queries: Sequence[Example], found: Predictions, k: int, most: int) -> ErrorReport:
    """What is behind the wrong predictions, or some of them."""
    names = found.names
    wrong = [
        WrongPrediction(at, replace(queries[at], label=names[int(found.predicted[at])]), names[int(found.truth[at])])
        for at in spread(np.flatnonzero(found.wrong).tolist(), most)
    ]
    hits: list[ErrorHits] = []
    known: dict[str, RecurringExample] = {}
    totals = GroupTotals(index)
    for one, answer, scores in explained_errors(index, wrong, k):
        hits.append(one)
        totals.add(scores)
        known |= described(answer)
        index.say(f"explained {len(hits):,} of {len(wrong):,} wrong predictions")
    judged = int(found.judged.sum())
    counts = ErrorCounts(index.method, len(queries), judged, int(found.wrong.sum()), k, notes_of(index, found))
    return error_report(hits, counts, known.__getitem__, totals.sums if hits else {})


def predictions_of(index: Predicting, queries: Sequence[Example]) -> Predictions:
    """What the model predicts for some rows, judged by their labels."""
    chances = [index.probabilities(queries[start : start + BLOCK]) for start in range(0, max(1, len(queries)), BLOCK)]
    found = np.concatenate(chances)
    truth = Truth.of([one.label for one in queries], index.store.plan.labels)
    names = tuple(index.store.plan.labels)
    return Predictions(names, found.argmax(axis=1), found.max(axis=1).astype(np.float64), truth.classes)


def spread(places: Sequence[int], most: int) -> list[int]:
    """At most so many of some places, evenly spread."""
    if len(places) <= most:
        return list(places)
    return [places[at] for at in np.linspace(0, len(places) - 1, most).round().astype(np.int64).tolist()]


def described(answer: Explanation) -> Mapping[str, RecurringExample]:
    """The proponents of an explanation, by id."""
    return {
        hit.id: RecurringExample(
            id=hit.id, row=hit.row, text=hit.text, label=hit.label, predicted=hit.predicted, source=hit.source
        )
        for hit in answer.proponents
    }


def notes_of(index: Predicting, found: Predictions) -> tuple[str, ...]:
    """What a reader must know of a report."""
    left = int((~found.judged).sum())
    lines = [f"{left:,} rows have no label that is a class of the model; they are not judged"] if left else []
    if not index.contrasts:
        lines.append(f"{index.method} compares no classes: the predicted class is explained, not against the true one")
    return tuple(lines)
