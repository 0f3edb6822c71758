"""What the forms of the pages of a test set ask for: to take a file, to predict it, to explain one of its rows."""

from collections.abc import Mapping
from dataclasses import replace

from proponent.errors import InputError
from proponent.plain_text import visible
from proponent.web.error_tasks import ErrorsTask, stored_errors
from proponent.web.measured_sets import LossTask, MeasuredTestSet
from proponent.web.model_worker import ModelWorker
from proponent.web.open_indexes import OpenIndex
from proponent.web.pages import losses
from proponent.web.pages.predictions import question_of
from proponent.web.states import Question
from proponent.web.test_sets import (
    OpenTestSet,
    OpenTestSets,
    PredictTask,
    columns_of,
    no_test_set,
    read_test_set,
    refuse_layout,
)
from proponent.web.uploads import Upload

LONGEST_NAME = 120
"""Characters that are kept of the name of a file."""

ROLES = ("text", "label", "text_pair", "target", "messages")
"""Columns that the form names."""


def take_file(test_sets: OpenTestSets, shown: OpenIndex, sent: Upload, fields: Mapping[str, str]) -> OpenTestSet:
    """Read the file of a test set and hold it; InputError if it cannot be used."""
    if no_test_set(shown):
        raise InputError(no_test_set(shown))
    if sent.problem:
        raise InputError(sent.problem)
    usual = columns_of(shown)
    named = {role: fields[role].strip() for role in ROLES if role in fields}
    columns = replace(usual, **{role: name for role, name in named.items() if name or role == "label"})
    name = sent.name.replace("\\", "/").rsplit("/", 1)[-1]
    made = read_test_set(sent.path, visible(name)[-LONGEST_NAME:], columns)
    refuse_layout(shown, made)
    test_sets.add(made)
    return made


def start_predicting(
    test_sets: OpenTestSets, asker: ModelWorker, shown: OpenIndex, test_set: OpenTestSet, *, again: bool = False
) -> None:
    """Predict a test set in the process with the model, or measure its losses, unless that is stored."""
    if no_test_set(shown):
        raise InputError(no_test_set(shown))
    if shown.language:
        measured = test_sets.results(MeasuredTestSet, shown, test_set)
        if measured.losses is None or again:
            asker.work(LossTask(measured), shown.source, "measuring")
        return
    judged = test_sets.judged(shown, test_set)
    if judged.predictions is None or again:
        asker.work(PredictTask(judged), shown.source, "predicting")


def start_explaining(
    test_sets: OpenTestSets, asker: ModelWorker, shown: OpenIndex, test_set: OpenTestSet | None
) -> None:
    """Explain the wrong predictions of a test set in the process with the model."""
    judged = None if test_set is None or not shown.classifier else test_sets.judged(shown, test_set)
    found = None if judged is None else judged.predictions
    if judged is None or found is None:
        raise InputError("this test set is not predicted yet: predict it first")
    if not found.wrong.any():
        raise InputError("no prediction of this test set is wrong: there is nothing to explain")
    stored_errors(judged).forget()
    asker.work(ErrorsTask(judged, found), shown.source, "explaining")


def asked_row(test_sets: OpenTestSets, shown: OpenIndex, fields: Mapping[str, str]) -> Question:
    """The question about a row that a form names."""
    test_set, row = test_sets.get(fields.get("set", ""), shown), fields.get("row", "")
    if not (row.isascii() and row.isdecimal() and len(row) < 10):
        raise InputError("this form does not say which row it is about: reload the page")
    if test_set is not None and shown.language:
        return losses.question_of(test_set, int(row), chat=shown.chat)
    found = None if test_set is None or not shown.classifier else test_sets.judged(shown, test_set)
    predictions = None if found is None else found.predictions
    if found is None or predictions is None:
        raise InputError("this test set is not predicted yet: predict it first")
    return question_of(found, predictions, int(row))
