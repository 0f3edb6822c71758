"""Page of one training example: the model's predictions, its effect on earlier questions, its near-duplicates."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np

from proponent.errors import InputError
from proponent.types import Conversation, Preference
from proponent.views.frames import Link, Screen
from proponent.views.turns import TurnView
from proponent.web.conversation import LONGEST, plain_turns, spelled
from proponent.web.layout import method_line, step_words
from proponent.web.open_indexes import OpenIndex
from proponent.web.pages.ask import PastQuestion, past_question
from proponent.web.pages.table import COUNTED, TableRow, counted_turns, rows_of
from proponent.web.slots import BusyError
from proponent.web.states import LONGEST_TEXT, ListedState, MapState, QuestionState
from proponent.web.table import ExampleTable

Effect = tuple[PastQuestion, int, float]
"""An earlier question, and the rank and score of a training example in its answer."""


@dataclass(frozen=True, slots=True)
class ListPlace:
    """Where an example stands in a list."""

    back: Annotated[Link, "the list, at its row"]
    earlier: Annotated[str, "URL of the example before it; empty for the first"]
    later: Annotated[str, "URL of the next example; empty for the last"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleScreen(Screen):
    """One training example: the model's predictions, its positive and negative effects, and its near-duplicates."""

    template: ClassVar[str] = "explorer/example.html.j2"

    row: Annotated[TableRow, "the example"]
    pair: Annotated[bool, "whether the second text is one of a pair (else a target)"]
    probabilities: Annotated[tuple[tuple[str, float], ...], "class and mean probability, likeliest first"]
    losses: Annotated[tuple[tuple[str, float], ...], "step and loss, per checkpoint"]
    proponents: Annotated[tuple[Effect, ...], "questions that it helped, strongest first"]
    opponents: Annotated[tuple[Effect, ...], "questions that it hurt, strongest first"]
    n_questions: Annotated[int, "questions that were asked of this index"]
    nearest: Annotated[tuple[tuple[TableRow, float], ...], "nearest examples and how alike they are, 0 to 1"]
    ask: Annotated[str, "URL of the form that asks about this very text"]
    alive: Annotated[bool, "whether it may be a hit: it has a gradient and was not deleted"]
    turns: Annotated[tuple[TurnView, ...], "turns of a conversation; empty for a text"]
    counted: Annotated[str, "how the turns that count are known; empty for a text"]
    located: Annotated[Link, "the map on which it stands out"]
    place: Annotated[ListPlace | None, "where it stands in the list that it was opened from; None without one"]

    @property
    def contradicting(self) -> int:
        """Nearest examples with another label."""
        return sum(one.label != self.row.label for one, _ in self.nearest)

    @property
    def largest_loss(self) -> float:
        """Length of a full bar."""
        return max((loss for _, loss in self.losses), default=0.0)


def example_screen(shown: OpenIndex, state: ListedState) -> ExampleScreen:
    """Show one training example."""
    table, decisions, identity = shown.table, shown.decisions.current, state.id
    place = table.whole.numbers.get(identity)
    if place is None:
        raise InputError(f"no training example has the id {identity[:80]!r}: look for it in the table")
    near = [one for one in shown.near_duplicates.nearest(place) if table.alive[one[0]]]
    row, *others = rows_of(shown, np.asarray([place, *(one for one, _ in near)]), decisions)
    effects = sorted(_effects(shown, identity), key=lambda one: -one[2])
    pair = table.whole.values("text_pair", np.asarray([place]))[0]
    content = table.store.example(place).content
    content = content if isinstance(content, Conversation | Preference) else None
    question = QuestionState(
        index=(shown.name,),
        text=row.text[:LONGEST_TEXT],
        pair=(pair or "")[:LONGEST_TEXT],
        label=row.label or "",
    )
    said = spelled(plain_turns(content))
    if content is not None and len(said) <= LONGEST and len(plain_turns(content)) > 1:
        question = QuestionState(index=(shown.name,), messages=said)
    return ExampleScreen(
        title=f"Example {identity}",
        index=shown.name,
        row=row,
        pair=bool(question.pair),
        names=tuple(table.names or ()),
        probabilities=_probabilities(table, place),
        losses=tuple(
            zip([step_words(one.id) for one in shown.plan.checkpoints], table.losses[:, place].tolist(), strict=True)
        ),
        proponents=tuple(one for one in effects if one[2] > 0),
        opponents=tuple(one for one in reversed(effects) if one[2] <= 0),
        n_questions=len(shown.questions.list()),
        nearest=tuple((other, alike) for other, (_, alike) in zip(others, near, strict=True)),
        ask=question.url("/ask"),
        located=Link("On the map", MapState(index=(shown.name,), id=identity).url("/map")),
        alive=bool(table.alive[place]),
        turns=counted_turns(content, shown.plan.counting),
        counted=COUNTED if content is not None and shown.plan.counting is not None else "",
        place=_place(shown, state),
        method=method_line(shown.plan),
    )


def _place(shown: OpenIndex, state: ListedState) -> ListPlace | None:
    """Where an example stands in the list that it was opened from."""
    listed = state.table
    if listed is None:
        return None
    table = shown.table
    what = "suspects" if listed.flag == "yes" else "examples"
    try:
        with table.searching(listed):
            places = table.select(listed, shown.decisions.current).places
    except BusyError:  # the example is shown without its place in a list that takes a search
        return ListPlace(Link(f"Back to {what}", listed.url("/table")), "", "")
    own = table.whole.numbers[state.id]
    at = int(next(iter(np.flatnonzero(places == own)), -1))
    number = f"{at + 1:,} of {len(places):,}" if at >= 0 else f"{len(places):,}"
    page = at // listed.size + 1 if at >= 0 else listed.page

    def url(place: int) -> str:
        if not 0 <= place < len(places) or at < 0:
            return ""
        return replace(state, id=str(table.whole.values("id", np.asarray([places[place]]))[0])).url("/example")

    row = f"#row-{at + 1}" if at >= 0 else ""
    back = Link(f"Back to {what} ({number})", listed.url("/table", page=page) + row)
    return ListPlace(back, url(at - 1), url(at + 1))


def _probabilities(table: ExampleTable, place: int) -> tuple[tuple[str, float], ...]:
    if table.names is None:
        return ()
    means = table.store.features["mean_probabilities"][place].tolist()
    return tuple(sorted(zip(table.names, means, strict=True), key=lambda one: -one[1])[:8])


def _effects(shown: OpenIndex, identity: str) -> list[Effect]:
    asked = shown.questions.list().values()
    return [(past_question(shown.name, one), *one.hits[identity]) for one in asked if identity in one.hits]
