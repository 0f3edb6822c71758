"""Page of one training example: what the model makes of it, its effect on earlier questions, its near-duplicates."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from proponent.errors import InputError
from proponent.views import CAVEAT
from proponent.views.frames import Screen
from proponent.views.text_marks import clip
from proponent.web.layout import method_line
from proponent.web.open_indexes import OpenIndex
from proponent.web.pages.table import TableRow, rows_of
from proponent.web.states import LONGEST_TEXT, ExampleState, QuestionState
from proponent.web.table import ExampleTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a training example did to one question that was asked."""

    text: Annotated[str, "the question"]
    label: Annotated[str, "class that was explained"]
    url: Annotated[str, "the answer"]
    rank: Annotated[int, "rank of the example there"]
    score: Annotated[float, "its score there"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicate:
    """A near-duplicate."""

    id: Annotated[str, "id of the training example"]
    row: Annotated[int, "0-based row of the source"]
    url: Annotated[str, "its page"]
    text: Annotated[str, "the text"]
    label: Annotated[str | None, "given class"]
    similarity: Annotated[float, "shared words divided by all words of both, 0 to 1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleScreen(Screen):
    """One training example: what the model makes of it, what it helped and hurt, and its near-duplicates."""

    template: ClassVar[str] = "explorer/example.html.j2"

    index: Annotated[str, "name of the index"]
    row: Annotated[TableRow, "the example"]
    pair: Annotated[bool, "whether the second text is one of a pair (else a target)"]
    names: Annotated[tuple[str, ...], "classes; none of a language model"]
    probabilities: Annotated[tuple[tuple[str, float], ...], "class and mean probability, likeliest first"]
    losses: Annotated[tuple[tuple[int, float], ...], "step and loss, per checkpoint"]
    proponents: Annotated[tuple[Effect, ...], "questions that it helped, strongest first"]
    opponents: Annotated[tuple[Effect, ...], "questions that it hurt, strongest first"]
    n_questions: Annotated[int, "questions that were asked of this index"]
    near_duplicates: Annotated[tuple[NearDuplicate, ...], "near-duplicates, most alike first"]
    ask: Annotated[str, "URL of the form that asks about this very text"]
    alive: Annotated[bool, "whether it may be a hit: it has a gradient and was not deleted"]
    caveat: Annotated[str, "what a score is not"] = CAVEAT
    method: Annotated[str, "method, checkpoints and learning rates in one line"] = ""

    @property
    def largest_loss(self) -> float:
        """Length of a full bar."""
        return max((loss for _, loss in self.losses), default=0.0)


def example_screen(shown: OpenIndex, identity: str) -> ExampleScreen:
    """Show one training example."""
    table = shown.table
    place = table.whole.numbers.get(identity)
    if place is None:
        raise InputError(f"no training example has the id {identity[:80]!r}: look for it in the table")
    decisions = shown.decisions.current
    row = rows_of(shown, np.asarray([place]), decisions, 1)[0]
    effects = _effects(shown, identity)
    steps = [one.step for one in shown.plan.checkpoints]
    question = QuestionState(
        index=(shown.name,),
        text=row.text[:LONGEST_TEXT],
        pair=(row.second or "")[:LONGEST_TEXT]
        if table.whole.values("text_pair", np.asarray([place]))[0] is not None
        else "",
        label=row.label or "",
    )
    return ExampleScreen(
        index=shown.name,
        row=row,
        pair=bool(question.pair),
        names=tuple(table.names or ()),
        probabilities=_probabilities(table, place),
        losses=tuple(zip(steps, table.losses[:, place].tolist(), strict=True)),
        proponents=tuple(sorted((one for one in effects if one.score > 0), key=lambda one: -one.score)),
        opponents=tuple(sorted((one for one in effects if one.score <= 0), key=lambda one: one.score)),
        n_questions=len(shown.questions.list()),
        near_duplicates=_near_duplicates(shown, place),
        ask=question.url("/ask"),
        alive=bool(table.alive[place]),
        method=method_line(shown.plan),
    )


def _probabilities(table: ExampleTable, place: int) -> tuple[tuple[str, float], ...]:
    if table.names is None:
        return ()
    means = table.store.features["mean_probabilities"][place].tolist()
    return tuple(sorted(zip(table.names, means, strict=True), key=lambda one: -one[1])[:8])


def _effects(shown: OpenIndex, identity: str) -> list[Effect]:
    return [
        Effect(
            text=clip(one.question.text, 140),
            label=one.explained or "",
            url=QuestionState.of(one.question, shown.name).url("/ask"),
            rank=one.hits[identity][0],
            score=one.hits[identity][1],
        )
        for one in shown.questions.list().values()
        if identity in one.hits
    ]


def _near_duplicates(shown: OpenIndex, place: int) -> tuple[NearDuplicate, ...]:
    near = shown.near_duplicates.of(place)
    found = shown.table.whole.rows(np.asarray([one for one, _ in near], dtype=np.int64))
    return tuple(
        NearDuplicate(
            id=str(content["id"]),
            row=int(content["row"]),
            url=ExampleState(index=shown.name, id=str(content["id"])).url("/example"),
            text=clip(str(content["text"]), 160),
            label=content["label"],
            similarity=alike,
        )
        for (_, alike), content in zip(near, found, strict=True)
    )
