"""The first page of an index: its data, its accuracy, its suspects, earlier questions, texts to try."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np

from proponent.views.distribution import Distribution
from proponent.views.frames import Link, Screen
from proponent.views.text_marks import clip
from proponent.web.layout import SUSPECT_ROWS, SUSPECTS, suspect_rows_known
from proponent.web.measured_sets import MeasuredTestSet
from proponent.web.open_indexes import OpenIndex
from proponent.web.pages.ask import PastQuestion, latest
from proponent.web.pages.predictions import PredictedRow, predicted_row
from proponent.web.pages.test_set_frame import UploadForm, upload_form
from proponent.web.states import ExampleState, PredictedState, QuestionState, TableState
from proponent.web.test_sets import OpenTestSets, no_test_set

RECENT, TRIED = 5, 4
SHORT = 300
"""Maximum characters of a text that is offered to try; longer ones are offered if there are no others."""

LOOKED_AT = 2_000
"""Rows among which the texts to try are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLine:
    """A test set in a line."""

    name: Annotated[str, "name of the test set"]
    url: Annotated[str, "its page"]
    rows: Annotated[int, "its rows"]
    accuracy: Annotated[float | None, "share of right predictions, 0 to 1; None if it is not known"]
    predicted: Annotated[bool, "whether the model has predicted it"]
    judged: Annotated[int, "rows with a true class"]
    wrong: Annotated[Link | None, "wrong predictions; None if there are none"]
    loss: Annotated[float | None, "mean loss of a language model, in nats; None if it is not known"] = None
    tokens: Annotated[int, "tokens of that mean"] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeScreen(Screen):
    """What an index is about, and where to begin."""

    template: ClassVar[str] = "explorer/home.html.j2"

    data: Annotated[str, "name of the data set"]
    facts: Annotated[tuple[tuple[str, str], ...], "name and value"]
    examples: Annotated[int, "training examples"]
    table: Annotated[str, "URL of all training examples"]
    labels: Annotated[Distribution | None, "examples by given and predicted class; None of a language model"]
    tests: Annotated[tuple[SetLine, ...], "test sets"]
    upload: Annotated[UploadForm | None, "takes a test set; None where the model takes none"]
    suspects: Annotated[Link | None, "suspected label errors or suspect rows; None if there is no such page"]
    recent: Annotated[tuple[PastQuestion, ...], "the last questions"]
    asked: Annotated[Link, "all questions"]
    ask: Annotated[str, "URL of the form of a question"]
    errors: Annotated[tuple[PredictedRow, ...], "wrong predictions to begin with"]
    errors_of: Annotated[str, "identity of their test set"]
    texts: Annotated[tuple[Link, ...], "training texts to begin with, if there are no wrong predictions"]


def home_screen(test_sets: OpenTestSets, shown: OpenIndex) -> HomeScreen:
    """Show what an index is about."""
    table, here = shown.table, ExampleState(index=shown.name)
    tests = _tests(test_sets, shown)
    errors, errors_of = _errors(test_sets, shown)
    return HomeScreen(
        title=f"{shown.name}: overview",
        index=shown.name,
        data=shown.plan.source.data.replace("\\", "/").rsplit("/", 1)[-1],
        facts=(
            ("method", shown.plan.method.name),
            ("checkpoints", f"{len(shown.plan.checkpoints):,}"),
            ("run", shown.run_folder.name),
        ),
        examples=int(table.alive.sum()),
        table=TableState(index=shown.name).url("/table"),
        labels=_labels(shown),
        tests=_measured(test_sets, shown) if shown.language else tests,
        upload=None if no_test_set(shown) else upload_form(shown),
        suspects=_suspects(shown),
        recent=latest(shown, RECENT),
        asked=Link("All questions", here.url("/asked")),
        ask=here.url("/ask"),
        errors=errors,
        errors_of=errors_of,
        texts=() if errors else _texts(shown),
    )


def _labels(shown: OpenIndex) -> Distribution | None:
    """The classes of the training data, with the tables of their examples."""
    counts = shown.table.class_counts
    if counts is None:
        return None
    url, found = TableState(index=shown.name).url, Distribution.of(*counts)
    return replace(
        found,
        rows=tuple(
            replace(
                one,
                url=url("/table", label=(one.name,)) if one.given and one.name else "",
                predicted_url=url("/table", predicted=(one.name,)) if one.predicted and one.name else "",
            )
            for one in found.rows
        ),
    )


def _tests(test_sets: OpenTestSets, shown: OpenIndex) -> tuple[SetLine, ...]:
    found: list[SetLine] = []
    for one in test_sets.read_by(shown).values() if shown.classifier else ():
        state = PredictedState(index=shown.name, set=one.id)
        made = test_sets.judged(shown, one).predictions
        wrong = 0 if made is None else int(made.wrong.sum())
        found.append(
            SetLine(
                name=one.name,
                url=state.url("/test"),
                rows=len(one),
                accuracy=None if made is None else made.accuracy,
                predicted=made is not None,
                judged=0 if made is None else int(made.judged.sum()),
                wrong=Link(f"{wrong:,} wrong predictions", state.rows(only="wrong")) if wrong else None,
            )
        )
    return tuple(found)


def _measured(test_sets: OpenTestSets, shown: OpenIndex) -> tuple[SetLine, ...]:
    """The test sets of a language model."""
    found: list[SetLine] = []
    for one in test_sets.read_by(shown).values():
        made = test_sets.results(MeasuredTestSet, shown, one).losses
        found.append(
            SetLine(
                name=one.name,
                url=PredictedState(index=shown.name, set=one.id).url("/test"),
                rows=len(one),
                accuracy=None,
                predicted=made is not None,
                judged=0 if made is None else int(made.measured.sum()),
                wrong=None,
                loss=None if made is None else made.loss,
                tokens=0 if made is None else int(made.tokens[made.measured].sum()),
            )
        )
    return tuple(found)


def _errors(test_sets: OpenTestSets, shown: OpenIndex) -> tuple[tuple[PredictedRow, ...], str]:
    """A few wrong predictions of the first test set that has some: short texts first, the surest first."""
    for one in test_sets.read_by(shown).values() if shown.classifier else ():
        judged = test_sets.judged(shown, one)
        found = judged.predictions
        if found is None or not found.wrong.any():
            continue
        wrong = np.flatnonzero(found.wrong)
        surest = wrong[np.argsort(-found.chances[wrong], kind="stable")][:LOOKED_AT].tolist()
        texts = one.rows.subset(surest).texts
        order = sorted(range(len(surest)), key=lambda at: len(texts[at]) > SHORT)[:TRIED]
        rows = tuple(predicted_row(judged, found, surest[at], place) for place, at in enumerate(order, 1))
        return rows, one.id
    return (), ""


def _suspects(shown: OpenIndex) -> Link | None:
    judged = shown.table.judged
    if judged is not None:
        count = int(judged.flagged[shown.table.alive].sum())
        url = SUSPECTS.url("/table", index=shown.name)
        return Link(f"{count:,} suspected label error{'' if count == 1 else 's'}", url)
    if suspect_rows_known(shown):
        return Link("Suspect rows", ExampleState(index=shown.name, id=SUSPECT_ROWS).url("/action"))
    return None


def _texts(shown: OpenIndex) -> tuple[Link, ...]:
    """A few training texts, in the form of a question; of chat data and prompts none, whose answers are asked about."""
    if not shown.classifier:
        return ()
    alive = np.flatnonzero(shown.table.alive)
    places = (
        alive[np.unique(np.linspace(0, max(0, len(alive) - 1), LOOKED_AT).astype(np.int64))] if len(alive) else alive
    )
    rows = shown.table.whole.rows(places)
    short = [one for one in rows if 20 <= len(one["text"]) <= SHORT] or [
        one for one in rows if len(one["text"]) <= 2_000
    ]
    steps: list[int] = np.unique(np.linspace(0, len(short) - 1, TRIED).astype(np.int64)).tolist() if short else []
    chosen = [short[at] for at in steps]
    return tuple(
        Link(
            clip(one["text"], 160),
            QuestionState(text=one["text"], pair=one["text_pair"] or "", index=(shown.name,)).url("/ask"),
        )
        for one in chosen
    )
