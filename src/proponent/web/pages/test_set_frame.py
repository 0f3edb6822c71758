"""What the pages of test sets share: the form that takes a file, progress, the pages of rows."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, TypeVar

from proponent.errors import InputError
from proponent.views.frames import Link, Screen
from proponent.views.text_marks import clip
from proponent.web.jobs import RowsJob
from proponent.web.open_indexes import OpenIndex
from proponent.web.states import SIZES, PredictedState
from proponent.web.test_sets import (
    MOST_ROWS,
    OpenTestSet,
    OpenTestSets,
    TestSetResults,
    columns_of,
    refuse_layout,
)
from proponent.web.uploads import UPLOAD_BYTES

ROW_FILES = ("csv", "jsonl", "parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadForm:
    """A form that takes the file of a test set."""

    index: Annotated[str, "name of the index"]
    text: Annotated[str, "column of the texts, as in the data of the index"]
    label: Annotated[str | None, "column of the labels; None for a language model"] = None
    pair: Annotated[str, "column of the second texts; empty if the training examples are no pairs"] = ""
    target: Annotated[str, "column of the targets of a language model"] = ""
    messages: Annotated[str, "column of its conversations"] = ""
    verb: Annotated[str, "what is done with the file"] = "Predict"
    most_bytes: Annotated[int, "maximum bytes of the file"] = UPLOAD_BYTES
    most_rows: Annotated[int, "maximum rows"] = MOST_ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class TestRow:
    """One row of a test set."""

    id: Annotated[str, "id of the row"]
    row: Annotated[int, "0-based row of the source"]
    place: Annotated[int, "number on this screen, from 1"]
    number: Annotated[int, "number in the test set, from 0"]
    text: Annotated[str, "the text, the prompt or what was said before the answer, or its beginning"]
    more: Annotated[int, "characters of it that are left out"]
    second: Annotated[str | None, "second text, target or answer, or its beginning; None without one"]
    trained: Annotated[bool, "whether a training example has the same texts"]
    question: Annotated[str, "what a click asks, in words; empty if it cannot be asked about here"]
    refused: Annotated[str, "why nothing is asked"] = "too long to ask about here"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSetScreen(Screen):
    """A test set: what the model says of it."""

    intro: ClassVar[str]
    verb: ClassVar[str]
    done_name: ClassVar[str]

    upload: Annotated[UploadForm | None, "to choose a file; None where the model takes none"] = None
    problem: Annotated[str, "why there is nothing to show, or to ask; or empty"] = ""
    state: Annotated[PredictedState, "which rows are shown"]
    url: Annotated[str, "this page"]
    name: Annotated[str, "name of the test set; empty without one"] = ""
    set: Annotated[str, "its identity"] = ""
    sets: Annotated[tuple[Link, ...], "all test sets, if there are several"] = ()
    job: Annotated[str, "id of the work under way; empty if there is none"] = ""
    stage: Annotated[str, "how far it is"] = ""
    done: Annotated[int, "rows that are done so far"] = 0
    n: Annotated[int, "rows of the test set"] = 0
    ready: Annotated[bool, "whether the results are there"] = False
    facts: Annotated[tuple[tuple[str, str, str], ...], "name, value, and URL of the rows or empty"] = ()
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


Shown = TypeVar("Shown", bound=TestSetScreen)


def upload_form(shown: OpenIndex) -> UploadForm:
    """The form that takes a file, with the columns of the training data."""
    columns = columns_of(shown)
    if shown.language:
        return UploadForm(
            index=shown.name, text=columns.text, target=columns.target, messages=columns.messages, verb="Measure"
        )
    pair = columns.text_pair if shown.paired else ""
    return UploadForm(index=shown.name, text=columns.text, label=columns.label, pair=pair)


def chosen_set(
    screen: Shown, test_sets: OpenTestSets, shown: OpenIndex, state: PredictedState
) -> tuple[Shown, OpenTestSet | None]:
    """The test set of a page, if the index reads it; a screen that says why not, with links to those that it reads."""
    screen = replace(screen, sets=_sets(test_sets, shown, None, state))
    if screen.problem:
        return screen, None
    try:
        test_set = test_sets.get(state.set, shown)
        if test_set is not None:
            refuse_layout(shown, test_set)
    except InputError as error:
        return replace(screen, problem=str(error)), None
    return screen, test_set


def with_set(
    screen: Shown, test_sets: OpenTestSets, found: TestSetResults, state: PredictedState, warnings: tuple[str, ...]
) -> Shown:
    """A screen with the name of its test set, and links to others."""
    test_set = found.test_set
    return replace(
        screen,
        title=f"Test set {clip(test_set.name, 60)}",
        name=test_set.name,
        set=test_set.id,
        n=len(test_set),
        sets=_sets(test_sets, found.shown, test_set, state),
        warnings=warnings,
    )


def unfinished(screen: Shown, job: RowsJob | None) -> Shown:
    """A screen with the progress of the work, or its error."""
    if job is None or job.state == "done":
        return screen
    if job.state == "failed":
        return replace(screen, problem=job.error)
    stage = job.progress if job.done else f"{job.progress}; {job.stage}"
    return replace(screen, job=job.id, stage=stage, done=job.done, refresh=2.0)


def paged(screen: Shown, state: PredictedState, matching: int) -> Shown:
    """A screen with the links between the pages of its rows."""
    pages = max(1, -(-matching // state.size))
    page = min(state.page, pages)
    return replace(
        screen,
        ready=True,
        state=state,
        matching=matching,
        first=(page - 1) * state.size + 1,
        clear=PredictedState(index=state.index, set=state.set, size=state.size).rows(),
        earlier=state.rows(page=page - 1) if page > 1 else "",
        later=state.rows(page=page + 1) if page < pages else "",
        page=page,
        pages=pages,
        sizes=tuple(Link(str(one), state.rows(size=one, page=1), one == state.size) for one in SIZES),
    )


def stored_warnings(found: TestSetResults, unkept: str, *, own: bool, what: str) -> list[str]:
    """What a reader must know of training rows in a test set, and of stored results."""
    lines: list[str] = []
    trained = int(found.trained.sum())
    if trained:
        too = "accuracy is too high" if found.shown.classifier else "loss is too low"
        lines.append(
            f"{trained:,} of the {len(found.trained):,} rows stand in the training data, too: the model has seen "
            f"them, so the {too}."
        )
    if unkept:
        lines.append(f"These {what} are not kept: {unkept}. They are gone when the explorer ends.")
    if not own:
        again = "Predict" if found.shown.classifier else "Measure"
        lines.append(
            f"These {what} came with the folder of the index: they were not computed by you. {again} again to replace "
            "them."
        )
    return lines


def _sets(
    test_sets: OpenTestSets, shown: OpenIndex, here: OpenTestSet | None, state: PredictedState
) -> tuple[Link, ...]:
    every = test_sets.read_by(shown)
    if len(every) < 1 + (here is not None):
        return ()
    return tuple(
        Link(one.name, PredictedState(index=state.index, set=one.id).url("/test"), one is here, f"{len(one):,} rows")
        for one in every.values()
    )
