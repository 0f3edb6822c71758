"""Page of all training examples: searched, filtered, sorted."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from proponent.actions.decisions import Decision
from proponent.actions.label_errors import RANKINGS
from proponent.data import from_json, spans_in_time
from proponent.errors import InputError
from proponent.types import Content, Conversation, Counting, Preference
from proponent.views.frames import Link, Screen
from proponent.views.histogram import Histogram
from proponent.views.text_marks import Mark, clip
from proponent.views.turns import TurnView, turn_views
from proponent.web.bulk import MOST_AT_ONCE, TOO_MANY, BulkOffer, note_of, offered
from proponent.web.layout import Filter, file_links, method_line
from proponent.web.open_indexes import OpenIndex
from proponent.web.pages.confusion import Cell
from proponent.web.pages.score_plot import score_plot
from proponent.web.pages.suspect_matrix import suspects
from proponent.web.slots import BusyError
from proponent.web.states import LONGEST_LIST, SIZES, ListedState, TableState, toggled
from proponent.web.table import NO_VALUE, ExampleTable, Selection

TITLES = {
    "flag": "Likely wrong",
    "label": "Given label",
    "predicted": "Predicted",
    "decided": "Decision",
    "source": "Source",
    "system": "System prompt",
    "format": "Format",
}
"""Facets, in the order of the page."""

MOST_OPTIONS = 24
MARK_SECONDS = 1.0
"""Time to mark what a search found on a page."""

MOST_TURNS = 8
"""Turns of a conversation in the table."""
TABLE_FILES = ("csv", "jsonl", "parquet", "cleanlab")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One training example in the table."""

    id: Annotated[str, "id of the training example"]
    row: Annotated[int, "0-based row of the source"]
    place: Annotated[int, "number of the row on this screen, from 1"]
    url: Annotated[str, "its page"]
    text: Annotated[str, "the text"]
    second: Annotated[str | None, "second text or target; None without one"]
    marks: Annotated[tuple[Mark, ...], "what the search found in the text, as marks without a share"]
    second_marks: Annotated[tuple[Mark, ...], "what the search found in the second text"]
    label: Annotated[str | None, "given class; None of a language model"]
    predicted: Annotated[str | None, "class of largest mean probability"]
    suggested: Annotated[str | None, "class that a flagged label should rather be"]
    quality: Annotated[float | None, "label score: mean probability of the given class; low is suspect"]
    flagged: Annotated[bool, "whether the label is flagged as wrong"]
    loss: Annotated[float, "loss at the last checkpoint"]
    source: Annotated[str | None, "where it comes from; None when the data does not say"]
    decided: Annotated[str, "decision: keep, fix, drop, or empty"]
    new_label: Annotated[str | None, "label of a fix"]
    note: Annotated[str, "why, in the words of who decided"]
    turns: Annotated[tuple[TurnView, ...], "turns of a conversation; empty for a text"] = ()
    turn_marks: Annotated[tuple[tuple[Mark, ...], ...], "what the search found in each turn"] = ()
    more_turns: Annotated[int, "turns that the table leaves out"] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnHead:
    """A sortable column of the table."""

    title: Annotated[str, "what it shows"]
    url: Annotated[str, "the table sorted by it"]
    order: Annotated[str, '"ascending", "descending" or "none"']
    name: Annotated[str, "of the column"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableScreen(Screen):
    """All training examples: searched, filtered, sorted, decided about."""

    template: ClassVar[str] = "explorer/table.html.j2"

    rows: Annotated[tuple[TableRow, ...], "what this page of the table shows"]
    total: Annotated[int, "training examples that may be found"]
    matching: Annotated[int, "training examples that are selected"]
    first: Annotated[int, "number of the first one shown, from 1"]
    facets: Annotated[tuple[Filter, ...], "ways to narrow down"]
    heads: Annotated[tuple[ColumnHead, ...], "columns to sort by"]
    state: Annotated[TableState, "what is searched for and how"]
    hidden: Annotated[tuple[tuple[str, str], ...], "the rest of the state, which the search form keeps"]
    clear: Annotated[str, "the table without any choice"]
    chosen: Annotated[tuple[Link, ...], "choices that are made; following one leaves it"]
    earlier: Annotated[str, "URL of the page before; empty on the first"]
    later: Annotated[str, "URL of the next page; empty on the last"]
    pages: Annotated[int, "number of pages"]
    page: Annotated[int, "number of this page, from 1"]
    sizes: Annotated[tuple[Link, ...], "other numbers of rows per page"]
    problem: Annotated[str, "why the search found nothing, when it could not be done"] = ""
    searched: Annotated[int | None, "examples looked at before the time was up; else None"] = None
    ranking: Annotated[str, "what the label score is"] = ""
    roles: Annotated[tuple[str, ...], "roles whose texts can be searched alone; none without conversations"] = ()
    counted: Annotated[str, "how the turns that count are known; empty without conversations"] = ""
    matrix: Annotated[tuple[tuple[Cell, ...], ...], "suspects by given and predicted class"] = ()
    cells: Annotated[tuple[Cell, ...], "the largest cells, when there are too many classes for a matrix"] = ()
    scores: Annotated[Histogram | None, "label scores of what is selected; None of a language model"] = None
    bulk: Annotated[BulkOffer | None, "what can be decided about all that is selected"] = None
    bulk_why: Annotated[str, "why nothing can be decided about all that is selected; empty where something can"] = ""


ROLES: tuple[Literal["system", "user", "assistant", "tool"], ...] = ("system", "user", "assistant", "tool")
COUNTED = (
    "Turns with a line count in the training by its rule; a turn that the limit of tokens cuts is shown whole, and "
    "marked exactly in answers"
)


def table_screen(shown: OpenIndex, state: TableState) -> TableScreen:
    """Show the table of training examples."""
    table, decisions, problem, rows, marker = shown.table, shown.decisions.current, "", (), Marker(state)
    try:
        with table.searching(state):
            selection = table.select(state, decisions)
            start = _start(state, len(selection.places))
            rows = rows_of(
                shown, selection.places[start : start + state.size], decisions, start + 1, state, marker=marker
            )
    except BusyError:
        raise  # a short page: a full one would take what others wait for
    except InputError as error:
        problem = str(error)
        counts = table.select(TableState(index=state.index), decisions).counts
        selection = Selection(np.zeros(0, dtype=np.int64), counts, len(table))
    found = len(selection.places)
    matrix, cells = suspects(table, state, decisions) if not problem else ((), ())
    pages = max(1, -(-found // state.size))
    page, start = min(state.page, pages), _start(state, found)
    kinds = TABLE_FILES if table.names is not None else TABLE_FILES[:-1]
    return TableScreen(
        title="Training examples",
        index=shown.name,
        rows=rows,
        warnings=marker.warnings,
        total=int(table.alive.sum()),
        matching=found,
        first=start + 1,
        facets=_facets(state, selection),
        heads=_heads(table, state),
        state=state,
        hidden=tuple(pair for pair in state.pairs if pair[0] not in {"q", "how", "role", "low", "high", "page"}),
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
        roles=ROLES if shown.chat else (),
        counted=COUNTED if shown.chat and shown.plan.counting is not None else "",
        matrix=matrix,
        cells=cells,
        scores=None if problem else score_plot(table, state, selection, decisions),
        bulk=offered(shown, state, selection, decisions),
        bulk_why=TOO_MANY if MOST_AT_ONCE < found < int(table.alive.sum()) else "",
        ranking=f"Label score: {RANKINGS['mean-probability']}." if table.names is not None else "",
    )


def _start(state: TableState, found: int) -> int:
    """Number of the first row of a page, from 0; the last page for one after it."""
    return (min(state.page, max(1, -(-found // state.size))) - 1) * state.size


class Marker:
    """Marks what a search found in texts, for a limited time."""

    def __init__(self, state: TableState, seconds: float = MARK_SECONDS) -> None:
        self._state, self._until, self.unmarked = state, time.monotonic() + seconds, 0

    def marks(self, texts: Sequence[str]) -> list[tuple[Mark, ...]]:
        """The matches in each text; none in those that the time does not reach."""
        state = self._state
        if not state.q:
            return [()] * len(texts)
        found = spans_in_time(texts, state.how, state.q, self._until - time.monotonic())
        self.unmarked += len(texts) - len(found)
        marked: list[tuple[Mark, ...]] = [tuple((start, end, 0.0) for start, end in one) for one in found]
        return marked + [()] * (len(texts) - len(found))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is not marked, in words."""
        many = self.unmarked
        return (
            (f"What was found is not marked in {many:,} texts of this page: the expression is slow.",) if many else ()
        )


def rows_of(
    shown: OpenIndex,
    places: Any,
    decisions: Mapping[str, Decision],
    first: int = 1,
    state: TableState | None = None,
    *,
    marker: Marker | None = None,
) -> tuple[TableRow, ...]:
    """Build the rows of some examples."""
    searched = state or TableState()
    marker = marker or Marker(searched)
    listed = searched.url("").removeprefix("?") if state is not None else ""
    listed = listed or "page=1" if state is not None and len(listed) <= LONGEST_LIST else ""
    found = shown.table.whole.rows(places)
    seconds = [one["text_pair"] if one["text_pair"] is not None else one["target"] for one in found]
    marks = marker.marks([str(one["text"]) for one in found])
    second_marks = marker.marks([one or "" for one in seconds])
    return tuple(
        TableRow(
            id=(identity := str(content["id"])),
            row=int(content["row"]),
            place=first + at,
            url=ListedState(index=shown.name, id=identity, list=listed).url("/example"),
            text=str(content["text"]),
            second=seconds[at],
            marks=marks[at],
            second_marks=second_marks[at],
            label=content["label"],
            loss=float(shown.table.losses[-1, place]),
            source=content["source"],
            decided=decisions[identity].act if identity in decisions else "",
            new_label=decisions[identity].label if identity in decisions else None,
            note=note_of(decisions, identity),
            **_verdict(shown.table, place),
            **_turns(content["content"], shown.plan.counting, searched, marker),
        )
        for at, (place, content) in enumerate(zip(places.tolist(), found, strict=True))
    )


def _turns(held: str | None, counting: Counting | None, state: TableState, marker: Marker) -> dict[str, Any]:
    """The first turns of a conversation, with what the search found in them."""
    content = None if held is None else from_json(held)
    turns = counted_turns(content, counting)
    marks = marker.marks([one.text for one in turns[:MOST_TURNS]])
    if state.role:
        marks = [own if one.role == state.role else () for one, own in zip(turns, marks, strict=False)]
    return {"turns": turns[:MOST_TURNS], "turn_marks": tuple(marks), "more_turns": max(0, len(turns) - MOST_TURNS)}


def counted_turns(content: Content | None, counting: Counting | None) -> tuple[TurnView, ...]:
    """Turns with those that the training counts by its rule; where the limit of tokens cuts them is not known here."""
    if not isinstance(content, Conversation | Preference):
        return ()
    made: list[TurnView] = []
    prompt = content.prompt if isinstance(content, Conversation) else None
    messages = content.messages if isinstance(content, Conversation) else ()
    for at, message in enumerate(messages):
        counts = counting is not None and (not counting.assistant_only or message.role == "assistant")
        counts = counts and (prompt is None or not counting.completion_only or at >= prompt) if counting else False
        made += [
            TurnView(one.role, one.kind, one.text, ((0, len(one.text)),) if counts and one.text else ())
            for one in message.turns
        ]
    return tuple(made) if messages else turn_views(content, ())


def _verdict(table: ExampleTable, place: int) -> dict[str, Any]:
    """The model's verdict on a label."""
    judged, names = table.judged, table.names
    if judged is None or names is None:
        return {"predicted": None, "suggested": None, "quality": None, "flagged": False}
    suggested = int(judged.suggested[place])
    return {
        "predicted": names[int(judged.likeliest[place])],
        "suggested": names[suggested] if suggested >= 0 else None,
        "quality": float(judged.quality[place]),
        "flagged": bool(judged.flagged[place]),
    }


def _facets(state: TableState, selection: Selection) -> tuple[Filter, ...]:
    made: list[Filter] = []
    for name, title in TITLES.items():
        counts, chosen = selection.counts.get(name, {}), state.chosen(name)
        if len(counts) < 2:
            continue
        frequent = len(counts) > MOST_OPTIONS
        values = sorted(counts, key=lambda one: -counts[one])[:MOST_OPTIONS] if frequent else list(counts)
        options = tuple(
            Link(value, _toggled(state, name, value), value in chosen, f"{counts.get(value, 0):,}")
            for value in dict.fromkeys([*values, *chosen])
            if value != NO_VALUE
        )
        made.append(Filter(name=name, title=title, options=options, total=len(counts)))
    return tuple(made)


def _toggled(state: TableState, name: str, value: str) -> str:
    chosen = state.chosen(name)
    if name == "flag":
        return state.url("/table", flag="" if value in chosen else value, page=1)
    return state.url("/table", **{name: toggled(chosen, value), "page": 1})


def _chosen(state: TableState) -> tuple[Link, ...]:
    """The active choices, each with the URL that removes it."""
    single = (
        ("q", "", f"text: {clip(state.q, 40)}"),
        ("low", None, f"score from {state.low or 0:g}"),
        ("high", None, f"score to {state.high or 0:g}"),
        ("area", "", f"cell of the map: {_cell_words(state.area)}"),
    )
    found = [
        Link(words, state.url("/table", **{name: none, "page": 1}))
        for name, none, words in single
        if getattr(state, name) != none
    ]
    return *found, *(
        Link(f"{title.lower()}: {clip(value, 40)}", _toggled(state, name, value))
        for name, title in TITLES.items()
        for value in state.chosen(name)
    )


def _cell_words(area: str) -> str:
    """A cell of a map in words, as its page names it."""
    space, column, row = area.split() if area else ("", "0", "0")
    return f"{space}, column {int(column) + 1}, row {int(row) + 1}"


def _heads(table: ExampleTable, state: TableState) -> tuple[ColumnHead, ...]:
    shown = [("row", "row", "Row"), ("length", "text", "Text (by length)")]
    if table.names is not None:
        shown += [("label", "label", "Given"), ("predicted", "predicted", "Predicted"), ("score", "score", "Score")]
    shown.append(("loss", "loss", "Loss"))
    first = state.sort[0] if state.sort else "row"
    orders = {first.removeprefix("-"): "descending" if first.startswith("-") else "ascending"}
    made: list[ColumnHead] = []
    for key, name, title in shown:
        order = orders.get(key, "none")
        rest = tuple(one for one in state.sort if one.removeprefix("-") != key)[:2]
        keys = (f"-{key}" if order == "ascending" else key, *rest)
        made.append(ColumnHead(title=title, url=state.url("/table", sort=keys, page=1), order=order, name=name))
    return *made, ColumnHead(title="Decide", url="", order="none", name="acts")
