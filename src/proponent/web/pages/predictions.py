"""Page of a test set: accuracy, confusion matrix, and the rows of a cell, each one click from its explanation."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Bool, Int

from proponent.errors import InputError
from proponent.predictions import NO_CLASS, NO_LABEL, Predictions
from proponent.types import Label
from proponent.views.frames import Link, Screen
from proponent.views.text_marks import clip
from proponent.web.jobs import RowsJob
from proponent.web.layout import file_links
from proponent.web.model_worker import ModelWorker
from proponent.web.open_indexes import OpenIndex
from proponent.web.pages.confusion import MOST_CLASSES, Cell, largest, matrix
from proponent.web.states import LONGEST_TEXT, SIZES, ErrorsState, PredictedState, Question
from proponent.web.test_sets import (
    MOST_ROWS,
    JudgedTestSet,
    OpenTestSet,
    OpenTestSets,
    columns_of,
    no_test_set,
)
from proponent.web.uploads import UPLOAD_BYTES

ROW_FILES = ("csv", "jsonl", "parquet")
MOST_UNKNOWN = 12
"""Labels that are named one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadForm:
    """A form that takes the file of a test set."""

    index: Annotated[str, "name of the index"]
    text: Annotated[str, "column of the texts, as in the data of the index"]
    label: Annotated[str, "column of the labels"]
    pair: Annotated[str, "column of the second texts; empty if the training examples are no pairs"]
    most_bytes: Annotated[int, "maximum bytes of the file"] = UPLOAD_BYTES
    most_rows: Annotated[int, "maximum rows"] = MOST_ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedRow:
    """One row of the test set."""

    id: Annotated[str, "id of the row"]
    row: Annotated[int, "0-based row of the source"]
    place: Annotated[int, "number on this screen, from 1"]
    number: Annotated[int, "number in the test set, from 0"]
    text: Annotated[str, "the text, or its beginning"]
    more: Annotated[int, "characters of the text that are left out"]
    second: Annotated[str | None, "second text, or its beginning"]
    given: Annotated[str | None, "its label as the file has it; None without one"]
    known: Annotated[bool, "whether the label is a class of the model"]
    predicted: Annotated[str, "predicted class"]
    chance: Annotated[float, "probability of that class, 0 to 1"]
    wrong: Annotated[bool, "whether the prediction is wrong"]
    trained: Annotated[bool, "whether a training example has the same text"]
    question: Annotated[str, "what a click asks, in words; empty if the text is too long to be asked about"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionScreen(Screen):
    """A test set: what the model predicts for it."""

    template: ClassVar[str] = "explorer/predictions.html.j2"

    upload: Annotated[UploadForm | None, "to choose a file; None where the model is no classifier"] = None
    problem: Annotated[str, "why there is nothing to show, or to ask; or empty"] = ""
    state: Annotated[PredictedState, "which rows are shown"]
    url: Annotated[str, "this page"]
    name: Annotated[str, "name of the test set; empty without one"] = ""
    set: Annotated[str, "its identity"] = ""
    sets: Annotated[tuple[Link, ...], "all test sets, if there are several"] = ()
    job: Annotated[str, "id of the prediction under way; empty if there is none"] = ""
    stage: Annotated[str, "how far it is"] = ""
    done: Annotated[int, "rows that are predicted so far"] = 0
    n: Annotated[int, "rows of the test set"] = 0
    ready: Annotated[bool, "whether the predictions are there"] = False
    facts: Annotated[tuple[tuple[str, str, str], ...], "name, value, and URL of the rows or empty"] = ()
    classes: Annotated[tuple[str, ...], "classes of the matrix; none if there are too many"] = ()
    matrix: Annotated[tuple[tuple[Cell, ...], ...], "cells by true class, then predicted class"] = ()
    cells: Annotated[tuple[Cell, ...], "largest cells of wrong predictions, if there are too many classes"] = ()
    rows: Annotated[tuple[PredictedRow, ...], "rows of this page"] = ()
    contrasts: Annotated[bool, "whether the method compares two classes"] = True
    matching: Annotated[int, "rows that are selected"] = 0
    first: Annotated[int, "number of the first one shown, from 1"] = 1
    chosen: Annotated[tuple[Link, ...], "choices that are made; following one leaves it"] = ()
    filters: Annotated[tuple[Link, ...], "choices to make"] = ()
    orders: Annotated[tuple[Link, ...], "orders of the rows"] = ()
    clear: Annotated[str, "all rows"] = ""
    earlier: Annotated[str, "URL of the page before; empty on the first"] = ""
    later: Annotated[str, "URL of the next page; empty on the last"] = ""
    page: Annotated[int, "number of this page, from 1"] = 1
    pages: Annotated[int, "number of pages"] = 1
    sizes: Annotated[tuple[Link, ...], "other numbers of rows per page"] = ()
    errors: Annotated[Link | None, "the training examples behind the wrong predictions; None without any"] = None


def prediction_screen(
    test_sets: OpenTestSets, asker: ModelWorker, shown: OpenIndex, state: PredictedState, error: str = ""
) -> PredictionScreen:
    """Show a test set, the progress of its prediction, or the form that takes one."""
    screen = PredictionScreen(
        title="Test set",
        index=shown.name,
        state=state,
        url=state.url("/test"),
        problem=error,
        upload=upload_form(shown) if shown.classifier else None,
    )
    if not shown.classifier:
        return replace(screen, problem=no_test_set(shown))
    test_set = None if error else test_sets.get(state.set)
    if test_set is None:
        return screen
    judged = test_sets.judged(shown, test_set)
    state = replace(state, set=test_set.id)
    screen = replace(
        screen,
        title=f"Test set {clip(test_set.name, 60)}",
        name=test_set.name,
        set=test_set.id,
        n=len(test_set),
        sets=_sets(test_sets, test_set, state),
        warnings=_warnings(judged),
    )
    found = judged.predictions
    job = asker.rows_job(f"predictions {test_set.id}", shown.folder)
    if found is None:
        return _unfinished(replace(screen, problem=shown.missing), job)
    return _judged(screen, judged, found, state)


def upload_form(shown: OpenIndex) -> UploadForm:
    """The form that takes a file, with the columns of the training data."""
    columns = columns_of(shown)
    pair = columns.text_pair if shown.paired else ""
    return UploadForm(index=shown.name, text=columns.text, label=columns.label, pair=pair)


def question_of(judged: JudgedTestSet, found: Predictions, number: int) -> Question:
    """Why a row is predicted as it is; of a wrong prediction, why that class and not the true one.

    Args:
        judged: the test set.
        found: its predictions.
        number: number of the row, from 0.

    Returns:
        The question.

    Raises:
        InputError: there is no such row, or its text is too long.
    """
    if not 0 <= number < len(judged.test_set):
        raise InputError(f"the test set has no row {number}")
    one = judged.test_set.rows[number]
    if max(map(len, one.parts)) > LONGEST_TEXT:
        raise InputError(f"the text of row {one.row} is longer than {LONGEST_TEXT:,} characters: ask in a terminal")
    against = found.names[int(found.truth[number])] if found.wrong[number] and judged.shown.contrasts else ""
    label = found.names[int(found.predicted[number])]
    return Question(text=one.text, pair=one.text_pair or "", label=label, against=against)


def _unfinished(screen: PredictionScreen, job: RowsJob | None) -> PredictionScreen:
    if job is None or job.state == "done":
        return screen
    if job.state == "failed":
        return replace(screen, problem=job.error)
    stage = job.progress if job.done else f"{job.progress}; {job.stage}"
    return replace(screen, job=job.id, stage=stage, done=job.done, refresh=2.0)


def _sets(test_sets: OpenTestSets, here: OpenTestSet, state: PredictedState) -> tuple[Link, ...]:
    every = test_sets.shown
    if len(every) < 2:
        return ()
    return tuple(
        Link(one.name, PredictedState(index=state.index, set=one.id).url("/test"), one is here, f"{len(one):,} rows")
        for one in every.values()
    )


def _warnings(judged: JudgedTestSet) -> tuple[str, ...]:
    """What a reader must know of a test set and of its stored predictions."""
    lines: list[str] = []
    unknown = judged.truth.unknown
    if unknown:
        named = ", ".join(f"{clip(name, 40)} ({count:,})" for name, count in [*unknown.items()][:MOST_UNKNOWN])
        more = f" and {len(unknown) - MOST_UNKNOWN:,} more" if len(unknown) > MOST_UNKNOWN else ""
        rows = sum(unknown.values())
        lines.append(
            f"{rows:,} rows have a label that is no class of the model: {named}{more}. They are predicted, but not "
            f"judged. The classes are {clip(', '.join(judged.classes), 300)}."
        )
    trained = int(judged.trained.sum())
    if trained:
        lines.append(
            f"{trained:,} of the {len(judged.trained):,} rows stand in the training data, too: the model has seen "
            "them, so the accuracy is too high."
        )
    if judged.stored.unkept:
        lines.append(f"These predictions are not kept: {judged.stored.unkept}. They are gone when the explorer ends.")
    if not judged.stored.own:
        lines.append(
            "These predictions came with the folder of the index: they were not computed by you. Predict again to "
            "replace them."
        )
    return tuple(lines)


def _judged(
    screen: PredictionScreen, judged: JudgedTestSet, found: Predictions, state: PredictedState
) -> PredictionScreen:
    places = selected(judged, found, state)
    pages = max(1, -(-len(places) // state.size))
    page = min(state.page, pages)
    start = (page - 1) * state.size
    few = len(found.names) <= MOST_CLASSES
    cells = matrix(found, state) if few and found.judged.any() else ()
    return replace(
        screen,
        ready=True,
        state=state,
        facts=_facts(judged, found, state),
        classes=found.names if cells else (),
        matrix=cells,
        cells=() if few else largest(found, state),
        rows=tuple(
            predicted_row(judged, found, number, start + at + 1)
            for at, number in enumerate(places[start:][: state.size].tolist())
        ),
        errors=_behind(state) if found.wrong.any() else None,
        contrasts=judged.shown.contrasts,
        exports=file_links(replace(state, page=1, size=50), "predictions", ROW_FILES),
        matching=len(places),
        first=start + 1,
        chosen=_chosen(state),
        filters=_filters(judged, found, state),
        orders=tuple(
            Link(text, state.rows(sort=name, page=1), name == state.sort)
            for name, text in (("", "as in the file"), ("sure", "surest first"), ("unsure", "least sure first"))
        ),
        clear=PredictedState(index=state.index, set=state.set, size=state.size).rows(),
        earlier=state.rows(page=page - 1) if page > 1 else "",
        later=state.rows(page=page + 1) if page < pages else "",
        page=page,
        pages=pages,
        sizes=tuple(Link(str(one), state.rows(size=one, page=1), one == state.size) for one in SIZES),
    )


def _behind(state: PredictedState) -> Link:
    url = ErrorsState(index=state.index, set=state.set).url("/errors")
    return Link("Which training examples are behind the wrong predictions?", url)


def selected(judged: JudgedTestSet, found: Predictions, state: PredictedState) -> Int[np.ndarray, " m"]:
    """Numbers of the rows that a state shows, in its order."""
    mask = _mask(judged, found, state.only)
    for chosen, classes in ((state.given, found.truth), (state.predicted, found.predicted)):
        if chosen:
            numbers = [found.names.index(name) for name in chosen if name in found.names]
            mask = mask & np.isin(classes, numbers)
    places = np.flatnonzero(mask)
    if not state.sort:
        return places
    chances = found.chances[places]
    return places[np.argsort(-chances if state.sort == "sure" else chances, kind="stable")]


def _mask(judged: JudgedTestSet, found: Predictions, only: str) -> Bool[np.ndarray, " n"]:
    masks = {
        "": lambda: np.ones(len(found.predicted), dtype=np.bool_),
        "wrong": lambda: found.wrong,
        "right": lambda: found.judged & ~found.wrong,
        "unjudged": lambda: ~found.judged,
        "trained": lambda: judged.trained,
    }
    return masks[only]()


def _facts(judged: JudgedTestSet, found: Predictions, state: PredictedState) -> tuple[tuple[str, str, str], ...]:
    bare = PredictedState(index=state.index, set=state.set)
    accuracy = found.accuracy
    facts = [("rows", f"{len(found.predicted):,}", bare.rows())]
    if accuracy is not None:
        judged_rows, wrong = int(found.judged.sum()), int(found.wrong.sum())
        facts.append(("accuracy", f"{accuracy:.1%}", ""))
        facts.append(("right", f"{judged_rows - wrong:,}", bare.rows(only="right")))
        facts.append(("wrong", f"{wrong:,}", bare.rows(only="wrong")))
    unlabelled, unknown = int((found.truth == NO_LABEL).sum()), int((found.truth == NO_CLASS).sum())
    for name, count in (("without a label", unlabelled), ("with an unknown label", unknown)):
        if count:
            facts.append((name, f"{count:,}", bare.rows(only="unjudged")))
    if judged.trained.any():
        facts.append(("also training rows", f"{int(judged.trained.sum()):,}", bare.rows(only="trained")))
    return tuple(facts)


def given_label(found: Predictions, number: int, label: Label | None) -> str | None:
    """The label of a row: the name of its class, or as the file has it; None without one."""
    truth = int(found.truth[number])
    return None if label is None else str(label) if truth < 0 else found.names[truth]


def predicted_row(judged: JudgedTestSet, found: Predictions, number: int, place: int) -> PredictedRow:
    """A row with its prediction, and the question that a click asks."""
    one = judged.test_set.rows[number]
    truth, predicted = int(found.truth[number]), found.names[int(found.predicted[number])]
    wrong = bool(found.wrong[number])
    against = f" and not {found.names[truth]}" if wrong and judged.shown.contrasts else ""
    short = max(map(len, one.parts)) <= LONGEST_TEXT
    return PredictedRow(
        id=one.id,
        row=one.row,
        place=place,
        number=number,
        text=one.text[:700],
        more=max(0, len(one.text) - 700),
        second=None if one.text_pair is None else one.text_pair[:400],
        given=given_label(found, number, one.label),
        known=truth != NO_CLASS,
        predicted=predicted,
        chance=float(found.chances[number]),
        wrong=wrong,
        trained=bool(judged.trained[number]),
        question=f"Why {predicted}{against}?" if short else "",
    )


def _chosen(state: PredictedState) -> tuple[Link, ...]:
    found = [
        Link(f"given {clip(one, 40)}", state.rows(given=_without(state.given, one), page=1)) for one in state.given
    ]
    found += [
        Link(f"predicted {clip(one, 40)}", state.rows(predicted=_without(state.predicted, one), page=1))
        for one in state.predicted
    ]
    return tuple(found)


def _without(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(one for one in names if one != name)


def _filters(judged: JudgedTestSet, found: Predictions, state: PredictedState) -> tuple[Link, ...]:
    names = {"": "all", "wrong": "wrong", "right": "right", "unjudged": "not judged", "trained": "training rows"}
    return tuple(
        Link(text, state.rows(only=only, page=1), state.only == only, f"{count:,}")
        for only, text in names.items()
        if (count := int(_mask(judged, found, only).sum()))
    )
