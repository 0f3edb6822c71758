"""Page with the map of the training examples: coloured by label, source or influence, its cells linked to the table."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Int

from proponent.actions.example_map import COLOURS, NAMES, ExampleMap, axis_name, said, title_of
from proponent.errors import InputError
from proponent.views.frames import Link, Screen
from proponent.views.scatter import Kinds, Scatter, influence_kinds, plain_kinds, scatter
from proponent.views.text_marks import clip, score_in_words
from proponent.web.layout import method_line
from proponent.web.maps import area_name
from proponent.web.open_indexes import OpenIndex
from proponent.web.states import ExampleState, MapState, QuestionState, TableState
from proponent.web.table import NO_VALUE

Lit = tuple[int, str, str, str]
"""An example that stands out: number, side, name and URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapScreen(Screen):
    """The map of the training examples."""

    template: ClassVar[str] = "explorer/map.html.j2"

    spaces: Annotated[tuple[Link, ...], "maps of this index; here: is shown"]
    colours: Annotated[tuple[Link, ...], "what the marks may be coloured by; here: is shown"]
    plot: Annotated[Scatter | None, "the map; None while it is computed, or if it cannot be"] = None
    said: Annotated[str, "what the map shows, in words"] = ""
    problem: Annotated[str, "why there is no map, or no colour; empty if there is"] = ""
    url: Annotated[str, "URL of this page"] = ""
    lit: Annotated[Link | None, "what stands out, and the map without it; None if nothing does"] = None
    unlit: Annotated[int, "examples that should stand out but have no place on the map"] = 0


def map_screen(shown: OpenIndex, state: MapState) -> MapScreen:
    """Show a map, or that it is being computed."""
    maps, known = shown.table.maps, shown.table.maps.spaces
    columns = [name for name in COLOURS if name in shown.table.coded]
    colours, colour = [*columns, "influence", "plain"], state.colour or next(iter(columns), "plain")
    screen = MapScreen(
        title="Map of the training examples",
        index=shown.name,
        spaces=tuple(Link(NAMES[one], state.url("/map", space=one), one == (state.space or known[0])) for one in known),
        colours=tuple(Link(COLOURS[one], state.url("/map", colour=one), one == colour) for one in colours),
        url=state.url("/map"),
        method=method_line(shown.plan),
    )
    try:
        if not known:
            raise InputError(
                "This index stores no vectors that a map could be made of: build it with the baselines, which store "
                "the hidden states."
            )
        made = maps.get(state.space or known[0])
        kinds = None if made is None else _kinds(shown, made, colour)
    except InputError as error:
        return replace(screen, problem=str(error))
    if made is None or kinds is None:
        return replace(screen, refresh=1.0)
    lit, words = _lit(shown, state)
    cells = TableState(index=shown.name)
    plot = scatter(
        made.places,
        kinds,
        title=title_of(made, kinds.title),
        x_name=axis_name(made, 0),
        y_name=axis_name(made, 1),
        chosen=lit,
        cell_url=lambda column, row: cells.url("/table", area=area_name(made.space, column, row)),
        pages=lambda examples: _pages(shown, examples),
    )
    plain = MapState(index=state.index, space=state.space, colour=state.colour)
    return replace(
        screen,
        plot=plot,
        said=said(made),
        lit=Link(words, plain.url("/map")) if words else None,
        unlit=len(lit) - len(plot.highlights),
    )


def _pages(shown: OpenIndex, examples: Int[np.ndarray, " m"]) -> list[tuple[str, str]]:
    """Ids and pages of some examples."""
    url = ExampleState(index=shown.name).url
    return [(one, url("/example", id=one)) for one in map(str, shown.table.whole.values("id", examples))]


def _kinds(shown: OpenIndex, made: ExampleMap, colour: str) -> Kinds | None:
    """What tells the marks apart; None while it is computed."""
    if colour == "influence":
        values = shown.table.maps.influence()
        return None if values is None else influence_kinds(values, made.known)
    if colour == "plain":
        return plain_kinds(shown.store.n)
    if colour not in shown.table.coded:
        raise InputError(f"the examples of this index have no {COLOURS[colour]}: choose another colour")
    codes, names = shown.table.coded[colour]
    return Kinds(COLOURS[colour], codes.astype(np.int64), tuple("" if one == NO_VALUE else one for one in names))


def _lit(shown: OpenIndex, state: MapState) -> tuple[list[Lit], str]:
    """The examples that stand out: the one of the state, or the hits of a stored answer; and what they are."""
    numbers, url = shown.table.whole.numbers, ExampleState(index=shown.name).url
    if state.id:
        if state.id not in numbers:
            raise InputError(f"no training example has the id {state.id[:80]!r}: look for it in the table")
        name = f"example {clip(state.id, 60)}"
        return [(numbers[state.id], "one", name, url("/example", id=state.id))], name
    kept = shown.questions.get(state.question) if state.question.given else None
    if kept is None:
        return [], ""
    sides = (("up", "helped", kept.answer.proponents), ("down", "hurt", kept.answer.opponents))
    found = [
        (numbers[hit.id], side, f"{word} {hit.rank}: {clip(hit.id, 60)}, {score_in_words(hit.score)}",
         url("/example", id=hit.id))
        for side, word, hits in sides
        for hit in hits
        if hit.id in numbers
    ]  # fmt: skip
    return found, f"what helped (▲) and hurt (▼): {clip(kept.answer.headline, 80)}"


def answer_on_map(state: QuestionState) -> str:
    """URL of the map on which the hits of an answer stand out."""
    values = {name: getattr(state, name) for name in QuestionState.__dataclass_fields__}
    return MapState(**values).url("/map", word="", words="")
