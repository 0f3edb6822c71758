"""Page of a test set of a language model: its loss, and its rows by loss, each one click from its explanation."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Bool, Int

from proponent.errors import InputError
from proponent.row_losses import RowLosses
from proponent.types import Conversation, Example
from proponent.views.frames import Link
from proponent.views.histogram import Histogram, ScoreBin
from proponent.views.score_counts import histogram
from proponent.views.text_marks import clip
from proponent.web.conversation import LONGEST, MOST_TURNS, plain_turns, spelled
from proponent.web.layout import file_links
from proponent.web.measured_sets import MeasuredTestSet
from proponent.web.model_worker import ModelWorker
from proponent.web.open_indexes import OpenIndex
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
from proponent.web.states import LONGEST_TEXT, PredictedState, Question
from proponent.web.test_sets import OpenTestSet, OpenTestSets


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow(TestRow):
    """One row with its loss."""

    loss: Annotated[float | None, "mean loss of its tokens, in nats; None where none counts"]
    tokens: Annotated[int, "tokens that count"]
    truncated: Annotated[bool, "whether it is longer than the model reads"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossScreen(TestSetScreen):
    """A test set of a language model: how well it is predicted."""

    template: ClassVar[str] = "explorer/losses.html.j2"
    verb: ClassVar[str] = "Measure"
    done_name: ClassVar[str] = "measured"
    intro: ClassVar[str] = (
        "Choose a file of conversations, of prompts with completions, or of texts that the model was not trained on: "
        "its loss is measured, and each row is one click from the training examples behind it."
    )

    plot: Annotated[Histogram | None, "rows by loss; None without any"] = None
    rows: Annotated[tuple[MeasuredRow, ...], "rows of this page"] = ()


def loss_screen(
    test_sets: OpenTestSets, asker: ModelWorker, shown: OpenIndex, state: PredictedState, error: str = ""
) -> LossScreen:
    """Show a test set, the progress of its measurement, or the form that takes one."""
    screen = LossScreen(
        title="Test set",
        index=shown.name,
        state=state,
        url=state.url("/test"),
        problem=error,
        upload=upload_form(shown),
    )
    screen, test_set = chosen_set(screen, test_sets, shown, state)
    if test_set is None:
        return screen
    measured = test_sets.results(MeasuredTestSet, shown, test_set)
    state = replace(state, set=test_set.id)
    stored = measured.stored
    found = measured.losses
    warnings = stored_warnings(measured, stored.unkept, own=stored.own, what="losses")
    screen = with_set(screen, test_sets, measured, state, (*test_set.warnings, *warnings))
    if found is None:
        job = asker.rows_job(f"losses {test_set.id}", shown.folder)
        return unfinished(replace(screen, problem=shown.missing), job)
    return _measured(screen, measured, found, state)


def question_of(test_set: OpenTestSet, number: int, *, chat: bool) -> Question:
    """Which training examples are behind a row: its answer, its target, or all of its text.

    Args:
        test_set: the test set.
        number: number of the row, from 0.
        chat: whether the index was built from conversations, and is asked as they are.

    Returns:
        The question.

    Raises:
        InputError: there is no such row, or no form can hold it.
    """
    if not 0 <= number < len(test_set):
        raise InputError(f"the test set has no row {number}")
    one = test_set.rows[number]
    why = refused(one, chat=chat)
    if why:
        raise InputError(f"row {one.row} cannot be asked about here: {why}; explain it with `proponent report`")
    if isinstance(one.content, Conversation):
        return Question(messages=spelled(plain_turns(one.content)))
    return Question(text=one.text, target=one.target or "")


def refused(one: Example, *, chat: bool) -> str:
    """Why a row cannot be asked about in the explorer; empty if it can."""
    if not isinstance(one.content, Conversation) and chat:
        return "it is no conversation, and this index is asked in conversations"
    if not isinstance(one.content, Conversation):
        return "too long to ask about here" if max(map(len, one.parts)) > LONGEST_TEXT else ""
    turns = plain_turns(one.content)
    if not turns:
        return "it has tools, settings or messages without a text"
    if turns[-1][0] != "assistant" or len(turns) < 2:
        return "it does not end with an answer of the assistant"
    if len(turns) > MOST_TURNS or len(spelled(turns)) > LONGEST or len(turns[-1][1]) > LONGEST_TEXT:
        return "too long to ask about here"
    return ""


def selected(measured: MeasuredTestSet, found: RowLosses, state: PredictedState) -> Int[np.ndarray, " m"]:
    """Numbers of the rows that a state shows, in its order: the highest loss first, if it names none."""
    mask = _mask(measured, found, state.only)
    if state.low is not None:
        mask = mask & found.measured & (found.losses >= state.low)
    if state.high is not None:
        mask = mask & found.measured & (found.losses <= state.high)
    places = np.flatnonzero(mask)
    if state.sort == "file":
        return places
    losses = np.where(found.measured, found.losses, np.nan)[places]
    return places[np.argsort(losses if state.sort == "low" else -losses, kind="stable")]


def measured_row(measured: MeasuredTestSet, found: RowLosses, number: int, place: int) -> MeasuredRow:
    """A row with its loss, and the question that a click asks."""
    one = measured.test_set.rows[number]
    text, second = _shown(one)
    why = refused(one, chat=measured.shown.chat)
    return MeasuredRow(
        id=one.id,
        row=one.row,
        place=place,
        number=number,
        text=text[:700],
        more=max(0, len(text) - 700),
        second=None if second is None else clip(second, 700),
        loss=float(found.losses[number]) if found.measured[number] else None,
        tokens=int(found.tokens[number]),
        truncated=bool(found.truncated[number]),
        trained=bool(measured.trained[number]),
        question="" if why else "Which examples are behind it?",
        refused=why,
    )


def _shown(one: Example) -> tuple[str, str | None]:
    """What stands before the part that is asked about, and that part."""
    if not isinstance(one.content, Conversation):
        return one.text, one.target
    turns = [(turn.role, turn.text) for turn in one.content.turns]
    answer = turns.pop()[1] if turns and turns[-1][0] == "assistant" else None
    return "\n".join(text for _, text in turns), answer


def _measured(screen: LossScreen, measured: MeasuredTestSet, found: RowLosses, state: PredictedState) -> LossScreen:
    places = selected(measured, found, state)
    screen = paged(screen, state, len(places))
    return replace(
        screen,
        facts=_facts(measured, found, state),
        plot=_plot(found, state),
        rows=tuple(
            measured_row(measured, found, number, screen.first + at)
            for at, number in enumerate(places[screen.first - 1 :][: state.size].tolist())
        ),
        exports=file_links(replace(state, page=1, size=50), "predictions", ROW_FILES),
        chosen=_chosen(state),
        filters=_filters(measured, found, state),
        orders=tuple(
            Link(text, state.rows(sort=name, page=1), name == state.sort)
            for name, text in (("", "highest loss first"), ("low", "lowest loss first"), ("file", "as in the file"))
        ),
    )


def _plot(found: RowLosses, state: PredictedState) -> Histogram | None:
    """All rows by loss; each bar leads to its rows."""
    plot = histogram(found.losses[found.measured], title="Rows by loss", value_name="loss")
    if plot is None:
        return None
    bare = PredictedState(index=state.index, set=state.set)
    last = plot.bins[-1].high
    return replace(plot, bins=tuple(_linked(bare, one, one.high == last) for one in plot.bins))


def _linked(bare: PredictedState, one: ScoreBin, last: bool) -> ScoreBin:
    high = one.high if last else math.nextafter(one.high, -math.inf)
    return replace(one, url=bare.rows(low=one.low, high=high), linked=one.count) if one.count else one


def _facts(measured: MeasuredTestSet, found: RowLosses, state: PredictedState) -> tuple[tuple[str, str, str], ...]:
    bare = PredictedState(index=state.index, set=state.set)
    facts = [("rows", f"{len(found.losses):,}", bare.rows())]
    if found.loss is not None and found.perplexity is not None:
        facts.append(("loss per token", f"{found.loss:.3f}", ""))
        facts.append(("perplexity", f"{found.perplexity:,.4g}", ""))
        facts.append(("tokens that count", f"{int(found.tokens[found.measured].sum()):,}", ""))
    for only, name in (("truncated", "longer than the model reads"), ("unmeasured", "without a loss")):
        count = int(_mask(measured, found, only).sum())
        if count:
            facts.append((name, f"{count:,}", bare.rows(only=only)))
    if measured.trained.any():
        facts.append(("also training rows", f"{int(measured.trained.sum()):,}", bare.rows(only="trained")))
    return tuple(facts)


def _mask(measured: MeasuredTestSet, found: RowLosses, only: str) -> Bool[np.ndarray, " n"]:
    masks = {
        "truncated": lambda: found.truncated,
        "unmeasured": lambda: ~found.measured,
        "trained": lambda: measured.trained,
    }
    return masks[only]() if only in masks else np.ones(len(found.losses), dtype=np.bool_)


def _chosen(state: PredictedState) -> tuple[Link, ...]:
    """The bounds of the loss; following one leaves it."""
    bounds = (("loss from", "low", state.low), ("loss to", "high", state.high))
    return tuple(
        Link(f"{text} {value:.4g}", state.rows(page=1, **{name: None}))
        for text, name, value in bounds
        if value is not None
    )


def _filters(measured: MeasuredTestSet, found: RowLosses, state: PredictedState) -> tuple[Link, ...]:
    names = {"": "all", "truncated": "truncated", "unmeasured": "without a loss", "trained": "training rows"}
    return tuple(
        Link(text, state.rows(only=only, page=1), state.only == only, f"{count:,}")
        for only, text in names.items()
        if (count := int(_mask(measured, found, only).sum()))
    )
