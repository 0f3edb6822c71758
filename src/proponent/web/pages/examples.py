"""Screens about training examples: the table of all, and the page of one."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from proponent.actions.decisions import Decision
from proponent.actions.label_errors import RANKINGS
from proponent.data import How, spans
from proponent.errors import InputError
from proponent.types import Span
from proponent.views.frames import Link
from proponent.views.screens import ColumnHead, Effect, ExampleScreen, Facet, NearDuplicate, TableRow, TableScreen
from proponent.views.text_marks import clip
from proponent.web.layout import method_line
from proponent.web.open_indexes import OpenIndex
from proponent.web.pages.ask import file_links, state_of
from proponent.web.states import SIZES, ExampleState, QuestionState, TableState
from proponent.web.table import NO_VALUE, ExampleTable, Selection

TITLES = {
    "label": "Given label",
    "predicted": "Predicted",
    "flag": "Likely wrong",
    "decided": "Decision",
    "source": "Source",
}
ORDER = ("flag", "label", "predicted", "decided", "source")
MOST_OPTIONS = 24
TABLE_FILES = ("csv", "jsonl", "parquet", "cleanlab")


def table_screen(shown: OpenIndex, state: TableState) -> TableScreen:
    """Show the table of training examples."""
    table, decisions, problem = shown.table, shown.decisions.current, ""
    try:
        selection = table.select(state, decisions)
    except InputError as error:
        problem = str(error)
        counts = table.select(TableState(index=state.index), decisions).counts
        selection = Selection(np.zeros(0, dtype=np.int64), counts, len(table))
    found = len(selection.places)
    pages = max(1, -(-found // state.size))
    page = min(state.page, pages)
    start = (page - 1) * state.size
    places = selection.places[start : start + state.size]
    kinds = TABLE_FILES if table.names is not None else TABLE_FILES[:-1]
    return TableScreen(
        index=shown.name,
        rows=rows_of(shown, places, decisions, start + 1, state),
        total=int(table.alive.sum()),
        matching=found,
        first=start + 1,
        facets=_facets(state, selection),
        heads=_heads(table, state),
        q=state.q,
        how=state.how,
        low="" if state.low is None else f"{state.low:g}",
        high="" if state.high is None else f"{state.high:g}",
        size=state.size,
        hidden=tuple(pair for pair in state.pairs if pair[0] not in {"q", "how", "low", "high", "page"}),
        clear=TableState(index=state.index, size=state.size).url("/table"),
        chosen=_chosen(state),
        earlier=state.url("/table", page=page - 1) if page > 1 else "",
        later=state.url("/table", page=page + 1) if page < pages else "",
        pages=pages,
        page=page,
        sizes=tuple(Link(str(one), state.url("/table", size=one, page=1), one == state.size) for one in SIZES),
        exports=file_links(state, "table", kinds),
        names=tuple(table.names or ()),
        problem=problem,
        searched=selection.searched if selection.searched < len(table) else None,
        method=method_line(shown.plan),
        ranking=f"Label score: {RANKINGS['mean-probability']}." if table.names is not None else "",
    )


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
        text=row.text[:8000],
        pair=(row.second or "")[:8000] if table.whole.values("text_pair", np.asarray([place]))[0] is not None else "",
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
        near_duplicates=_twins(shown, place),
        ask=question.url("/ask"),
        alive=bool(table.alive[place]),
        method=method_line(shown.plan),
    )


def rows_of(
    shown: OpenIndex,
    places: Any,
    decisions: Mapping[str, Decision],
    first: int = 1,
    state: TableState | None = None,
) -> tuple[TableRow, ...]:
    """Make the rows of some examples."""
    table, searched = shown.table, state or TableState()
    found = table.whole.rows(places)
    seconds = [one["text_pair"] if one["text_pair"] is not None else one["target"] for one in found]
    texts = [str(one["text"]) for one in found]
    marks = _marks(texts, searched), _marks([one or "" for one in seconds], searched)
    return tuple(
        _row(shown, table, int(place), content, decisions, (number, seconds[at], marks[0][at], marks[1][at]))
        for at, (number, place, content) in enumerate(zip(range(first, first + len(found)), places, found, strict=True))
    )


def _row(
    shown: OpenIndex,
    table: ExampleTable,
    place: int,
    content: Mapping[str, Any],
    decisions: Mapping[str, Decision],
    seen: tuple[int, str | None, tuple[Span, ...], tuple[Span, ...]],
) -> TableRow:
    judged, names = table.judged, table.names
    identity = str(content["id"])
    decision = decisions.get(identity)
    known = judged is not None and names is not None
    suggested = int(judged.suggested[place]) if judged is not None else -1
    return TableRow(
        id=identity,
        row=int(content["row"]),
        place=seen[0],
        url=ExampleState(index=shown.name, id=identity).url("/example"),
        text=str(content["text"]),
        second=seen[1],
        spans=seen[2],
        second_spans=seen[3],
        label=content["label"],
        predicted=names[int(judged.likeliest[place])] if known and judged and names else None,
        suggested=names[suggested] if names is not None and suggested >= 0 else None,
        quality=float(judged.quality[place]) if judged is not None else None,
        flagged=bool(judged.flagged[place]) if judged is not None else False,
        loss=float(table.losses[-1, place]),
        source=content["source"],
        decided=decision.act if decision is not None else "",
        new_label=decision.label if decision is not None else None,
    )


def _marks(texts: list[str], state: TableState) -> list[tuple[Span, ...]]:
    if not state.q or not texts:
        return [()] * len(texts)
    how: How = state.how  # type: ignore[assignment] # checked by the state
    return spans(texts, how, state.q)


def _facets(state: TableState, selection: Selection) -> tuple[Facet, ...]:
    made: list[Facet] = []
    for name in ORDER:
        if name not in selection.counts or len(selection.counts[name]) < 2:
            continue
        chosen = (state.flag,) if name == "flag" and state.flag else getattr(state, name) if name != "flag" else ()
        counts = selection.counts[name]
        values = sorted(counts, key=lambda one: -counts[one]) if len(counts) > MOST_OPTIONS else list(counts)
        values = [one for one in values[:MOST_OPTIONS] if one != NO_VALUE or counts[one]]
        values += [one for one in chosen if one not in values]
        options = tuple(
            Link(value or "(none)", _toggled(state, name, value, chosen), value in chosen, f"{counts.get(value, 0):,}")
            for value in values
            if value
        )
        made.append(Facet(name=name, title=TITLES[name], options=options, chosen=len(chosen)))
    return tuple(made)


def _toggled(state: TableState, name: str, value: str, chosen: tuple[str, ...]) -> str:
    if name == "flag":
        return state.url("/table", flag="" if value in chosen else value, page=1)
    left = tuple(one for one in chosen if one != value) if value in chosen else (*chosen, value)
    return state.url("/table", **{name: left, "page": 1})


def _chosen(state: TableState) -> tuple[Link, ...]:
    found: list[Link] = []
    if state.q:
        found.append(Link(f"text: {clip(state.q, 40)}", state.url("/table", q="", page=1)))
    if state.flag:
        found.append(Link(f"likely wrong: {state.flag}", state.url("/table", flag="", page=1)))
    if state.low is not None:
        found.append(Link(f"score from {state.low:g}", state.url("/table", low=None, page=1)))
    if state.high is not None:
        found.append(Link(f"score to {state.high:g}", state.url("/table", high=None, page=1)))
    for name in ("label", "predicted", "source", "decided"):
        chosen: tuple[str, ...] = getattr(state, name)
        for value in chosen:
            url = _toggled(state, name, value, chosen)
            found.append(Link(f"{TITLES[name].lower()}: {clip(value, 40)}", url))
    return tuple(found)


def _heads(table: ExampleTable, state: TableState) -> tuple[ColumnHead, ...]:
    shown = [("row", "Row"), ("length", "Text")]
    if table.names is not None:
        shown += [("label", "Given"), ("predicted", "Predicted"), ("score", "Score")]
    shown.append(("loss", "Loss"))
    first = state.sort[0] if state.sort else "row"
    made: list[ColumnHead] = []
    for name, title in shown:
        order = "none"
        if first.removeprefix("-") == name:
            order = "descending" if first.startswith("-") else "ascending"
        turned = f"-{name}" if order == "ascending" else name
        rest = tuple(one for one in state.sort if one.removeprefix("-") != name)[:2]
        css = "text" if name == "length" else name
        told = title if name != "length" else "Text (by length)"
        made.append(
            ColumnHead(title=told, url=state.url("/table", sort=(turned, *rest), page=1), order=order, name=css)
        )
    made.append(ColumnHead(title="Decide", url="", order="none", name="acts"))
    return tuple(made)


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
            url=state_of(shown.name, one.question).url("/ask"),
            rank=one.hits[identity][0],
            score=one.hits[identity][1],
        )
        for one in shown.questions.list().values()
        if identity in one.hits
    ]


def _twins(shown: OpenIndex, place: int) -> tuple[NearDuplicate, ...]:
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
