"""Files of a test set: its predictions as the page selects them, and what is behind its wrong ones."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from proponent.errors import InputError
from proponent.predictions import Predictions
from proponent.row_losses import RowLosses
from proponent.views import CAVEAT, document
from proponent.web.error_tasks import FoundErrors, report_of, stored_errors
from proponent.web.exports import Fill, encoded, written
from proponent.web.measured_sets import MeasuredTestSet
from proponent.web.open_indexes import OpenIndex
from proponent.web.pages import losses
from proponent.web.pages.errors import NO_CLASSES
from proponent.web.pages.predictions import given_label, selected
from proponent.web.states import ErrorsState, PageState, PredictedState
from proponent.web.table_columns import FileColumns
from proponent.web.test_sets import JudgedTestSet, OpenTestSets, no_test_set

Maker = Callable[[OpenIndex, Any, str], Fill]


def makers(test_sets: OpenTestSets) -> Mapping[str, tuple[type[PageState], Maker]]:
    """Kinds of files, as `exports.MAKERS` has them."""

    def of_predictions(shown: OpenIndex, state: PredictedState, kind: str) -> Fill:
        if shown.language:
            return written(loss_columns(*_measured(test_sets, shown, state.set), state), kind)
        judged, found = _judged(test_sets, shown, state.set)
        return written(prediction_columns(judged, found, state), kind)

    def of_errors(shown: OpenIndex, state: ErrorsState, kind: str) -> Fill:
        judged, found = _judged(test_sets, shown, state.set)
        errors = stored_errors(judged).get()
        if errors is None:
            raise InputError("the wrong predictions of this test set are not explained yet: explain them first")
        if kind in {"json", "html"}:
            report = report_of(judged, found, errors)
            return encoded(report.to_json(indent=2) + "\n" if kind == "json" else document(report))
        return written(error_columns(judged, errors), kind)

    return {"predictions": (PredictedState, of_predictions), "errors": (ErrorsState, of_errors)}


def _judged(test_sets: OpenTestSets, shown: OpenIndex, name: str) -> tuple[JudgedTestSet, Predictions]:
    if not shown.classifier:
        raise InputError(no_test_set(shown) or NO_CLASSES)
    test_set = test_sets.get(name, shown)
    if test_set is None:
        raise InputError("there is no test set: choose a file first")
    judged = test_sets.judged(shown, test_set)
    if judged.predictions is None:
        raise InputError("this test set is not predicted yet: predict it first")
    return judged, judged.predictions


def _measured(test_sets: OpenTestSets, shown: OpenIndex, name: str) -> tuple[MeasuredTestSet, RowLosses]:
    test_set = test_sets.get(name, shown)
    if test_set is None:
        raise InputError("there is no test set: choose a file first")
    measured = test_sets.results(MeasuredTestSet, shown, test_set)
    if measured.losses is None:
        raise InputError("this test set is not measured yet: measure it first")
    return measured, measured.losses


def loss_columns(measured: MeasuredTestSet, found: RowLosses, state: PredictedState) -> FileColumns:
    """The rows of a language model's test set that a state of the page selects, in its order."""
    numbers: list[int] = losses.selected(measured, found, state).tolist()
    rows = [measured.test_set.rows[number] for number in numbers]
    columns: FileColumns = {name: [getattr(one, name) for one in rows] for name in ("id", "row")}
    columns["text"] = ["\n".join(one.parts) if one.target is None else one.text for one in rows]
    if measured.seconds is not None:
        columns["target"] = [one.target for one in rows]
    columns["loss"] = [float(found.losses[at]) if found.measured[at] else None for at in numbers]
    columns["tokens"] = [int(found.tokens[at]) for at in numbers]
    columns["is_truncated"] = [bool(found.truncated[at]) for at in numbers]
    columns["in_training_data"] = [bool(measured.trained[at]) for at in numbers]
    return columns


def prediction_columns(judged: JudgedTestSet, found: Predictions, state: PredictedState) -> FileColumns:
    """The rows that a state of the page selects, in its order: one row each, on all pages."""
    numbers: list[int] = selected(judged, found, state).tolist()
    rows = [judged.test_set.rows[number] for number in numbers]
    columns: FileColumns = {name: [getattr(one, name) for one in rows] for name in ("id", "row", "text")}
    if judged.seconds is not None:
        columns["text_pair"] = [one.text_pair for one in rows]
    columns["given_label"] = [given_label(found, number, one.label) for number, one in zip(numbers, rows, strict=True)]
    columns["predicted_label"] = [found.names[int(found.predicted[number])] for number in numbers]
    columns["probability"] = [float(found.chances[number]) for number in numbers]
    columns["is_wrong"] = [bool(found.wrong[number]) if found.judged[number] else None for number in numbers]
    columns["in_training_data"] = [bool(judged.trained[number]) for number in numbers]
    return columns


def error_columns(judged: JudgedTestSet, errors: FoundErrors) -> FileColumns:
    """One row per wrong prediction and proponent of it, with the method and the caveat in each."""
    every = [(one, rank, name, score) for one in errors.hits for rank, (name, score) in enumerate(one.hits, 1)]
    rows = {one.number: judged.test_set.rows[one.number] for one in errors.hits}
    columns: FileColumns = {
        name: [getattr(rows[one.number], name) for one, *_ in every] for name in ("id", "row", "text")
    }
    columns["given_label"] = [one.given for one, *_ in every]
    columns["predicted_label"] = [one.predicted for one, *_ in every]
    columns["strongest_words"] = [json.dumps([list(word) for word in one.words]) for one, *_ in every]
    columns["rank"] = [rank for _, rank, *_ in every]
    columns["training_id"] = [name for *_, name, _ in every]
    columns["score"] = [score for *_, score in every]
    same = {"method": judged.shown.plan.method.name, "caveat": CAVEAT}
    return columns | {name: [value] * len(every) for name, value in same.items()}
