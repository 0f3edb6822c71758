"""Page of one training example: what the model makes of it, its effect on earlier questions, its near-duplicates."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from proponent.errors import InputError
from proponent.views import CAVEAT
from proponent.views.frames import Screen, help_text
from proponent.views.text_marks import clip
from proponent.web.layout import method_line, step_words
from proponent.web.open_indexes import OpenIndex
from proponent.web.pages.table import TableRow, rows_of
from proponent.web.states import LONGEST_TEXT, ExampleState, QuestionState
from proponent.web.table import ExampleTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a training example did to one question that was asked."""

    text: str = field(metadata=help_text("the question"))
    label: str = field(metadata=help_text("class that was explained"))
    url: str = field(metadata=help_text("the answer"))
    rank: int = field(metadata=help_text("rank of the example there"))
    score: float = field(metadata=help_text("its score there"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicate:
    """A near-duplicate."""

    id: str = field(metadata=help_text("id of the training example"))
    row: int = field(metadata=help_text("0-based row of the source"))
    url: str = field(metadata=help_text("its page"))
    text: str = field(metadata=help_text("the text"))
    label: str | None = field(metadata=help_text("given class"))
    similarity: float = field(metadata=help_text("shared words divided by all words of both, 0 to 1"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleScreen(Screen):
    """One training example: what the model makes of it, what it helped and hurt, and its near-duplicates."""

    template: ClassVar[str] = "explorer/example.html.j2"

    index: str = field(metadata=help_text("name of the index"))
    row: TableRow = field(metadata=help_text("the example"))
    pair: bool = field(metadata=help_text("whether the second text is one of a pair (else a target)"))
    names: tuple[str, ...] = field(metadata=help_text("classes; none of a language model"))
    probabilities: tuple[tuple[str, float], ...] = field(
        metadata=help_text("class and mean probability, likeliest first")
    )
    losses: tuple[tuple[str, float], ...] = field(metadata=help_text("step and loss, per checkpoint"))
    proponents: tuple[Effect, ...] = field(metadata=help_text("questions that it helped, strongest first"))
    opponents: tuple[Effect, ...] = field(metadata=help_text("questions that it hurt, strongest first"))
    n_questions: int = field(metadata=help_text("questions that were asked of this index"))
    near_duplicates: tuple[NearDuplicate, ...] = field(metadata=help_text("near-duplicates, most alike first"))
    ask: str = field(metadata=help_text("URL of the form that asks about this very text"))
    alive: bool = field(metadata=help_text("whether it may be a hit: it has a gradient and was not deleted"))
    caveat: str = field(default=CAVEAT, metadata=help_text("what a score is not"))
    method: str = field(default="", metadata=help_text("method, checkpoints and learning rates in one line"))

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
    steps = [step_words(one.id) for one in shown.plan.checkpoints]
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
