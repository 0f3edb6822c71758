"""Page of a test set: accuracy, confusion matrix, and the rows of a cell, each one click from its explanation."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Bool, Int

from proponent.errors import InputError
from proponent.predictions import NO_CLASS, NO_LABEL, Predictions
from proponent.types import Label
from proponent.views.frames import Link
from proponent.views.text_marks import clip
from proponent.web.layout import file_links
from proponent.web.model_worker import ModelWorker
from proponent.web.open_indexes import OpenIndex
from proponent.web.pages.confusion import MOST_CLASSES, Cell, largest, matrix
from proponent.web.pages.test_set_frame import (
    ROW_FILES,
    TestRow,
    TestSetScreen,
    chosen_set,
    paged,
    stored_warnings,
    unfinished,
    upload_form,
    with_set,
)
from proponent.web.states import LONGEST_TEXT, ErrorsState, PredictedState, Question
from proponent.web.test_sets import JudgedTestSet, OpenTestSets, no_test_set

MOST_UNKNOWN = 12
"""Labels that are named one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedRow(TestRow):
    """One row with its prediction."""

    given: Annotated[str | None, "its label as the file has it; None without one"]
    known: Annotated[bool, "whether the label is a class of the model"]
    predicted: Annotated[str, "predicted class"]
    chance: Annotated[float, "probability of that class, 0 to 1"]
    wrong: Annotated[bool, "whether the prediction is wrong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionScreen(TestSetScreen):
    """A test set of a classifier: what the model predicts for it."""

    template: ClassVar[str] = "explorer/predictions.html.j2"
    verb: ClassVar[str] = "Predict"
    done_name: ClassVar[str] = "predicted"
    intro: ClassVar[str] = (
        "Choose a file of texts with labels: the model predicts it, and each wrong prediction is one click from the "
        "training examples behind it. Without labels the texts are predicted only."
    )

    classes: Annotated[tuple[str, ...], "classes of the matrix; none if there are too many"] = ()
    matrix: Annotated[tuple[tuple[Cell, ...], ...], "cells by true class, then predicted class"] = ()
    cells: Annotated[tuple[Cell, ...], "largest cells of wrong predictions, if there are too many classes"] = ()
    rows: Annotated[tuple[PredictedRow, ...], "rows of this page"] = ()
    contrasts: Annotated[bool, "whether the method compares two classes"] = True
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
        problem=error or no_test_set(shown),
        upload=None if no_test_set(shown) else upload_form(shown),
    )
    screen, test_set = chosen_set(screen, test_sets, shown, state)
    if test_set is None:
        return screen
    judged = test_sets.judged(shown, test_set)
    state = replace(state, set=test_set.id)
    screen = with_set(screen, test_sets, judged, state, _warnings(judged))
    found = judged.predictions
    if found is None:
        return unfinished(
            replace(screen, problem=shown.missing), asker.rows_job(f"predictions {test_set.id}", shown.folder)
        )
    return _judged(screen, judged, found, state)


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
    return (*lines, *stored_warnings(judged, judged.stored.unkept, own=judged.stored.own, what="predictions"))


def _judged(
    screen: PredictionScreen, judged: JudgedTestSet, found: Predictions, state: PredictedState
) -> PredictionScreen:
    places = selected(judged, found, state)
    screen = paged(screen, state, len(places))
    few = len(found.names) <= MOST_CLASSES
    cells = matrix(found, state) if few and found.judged.any() else ()
    return replace(
        screen,
        facts=_facts(judged, found, state),
        classes=found.names if cells else (),
        matrix=cells,
        cells=() if few else largest(found, state),
        rows=tuple(
            predicted_row(judged, found, number, screen.first + at)
            for at, number in enumerate(places[screen.first - 1 :][: state.size].tolist())
        ),
        errors=_behind(state) if found.wrong.any() else None,
        contrasts=judged.shown.contrasts,
        exports=file_links(replace(state, page=1, size=50), "predictions", ROW_FILES),
        chosen=_chosen(state),
        filters=_filters(judged, found, state),
        orders=tuple(
            Link(text, state.rows(sort=name, page=1), name == state.sort)
            for name, text in (("", "as in the file"), ("sure", "surest first"), ("unsure", "least sure first"))
        ),
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
    if state.sort not in {"sure", "unsure"}:
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
    return masks.get(only, masks[""])()


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
