"""Layout of all screens, and parts that several screens share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

from proponent.actions import ACTIONS
from proponent.actions.decisions import Decision
from proponent.errors import ProponentError
from proponent.store import Plan
from proponent.types import CheckpointId
from proponent.views.frames import Link
from proponent.views.text_marks import clip
from proponent.web.conversation import MOST_TURNS, ROLES
from proponent.web.open_indexes import OpenIndex, OpenIndexes
from proponent.web.states import ExampleState, PageState, QuestionState, TableState

SUSPECTS = TableState(flag="yes", sort=("score",))
"""The table of suspected label errors."""

SUSPECT_ROWS = "suspect-rows"
"""The action that lists suspect rows of a language model."""

MOST_OPTIONS = 40
"""Maximum number of labels or sources in the form of a question, the most frequent sources first."""

_SCREENS = (
    ("Overview", "/", ""),
    ("Ask", "/ask", "/job"),
    ("Examples", "/table", "/example"),
    ("Map", "/map", ""),
    ("Test set", "/test", "/errors"),
    ("Compare", "/compare", ""),
    ("Groups", "/groups", ""),
    ("Asked", "/asked", ""),
    ("Index", "/about", ""),
)
"""Title and path of the screens of every index, and the path of a screen that belongs to one."""

KEYS = (
    ("/", "search, or the text of the question"),
    ("Escape", "leave a field"),
    ("Ctrl + Enter", "ask, while editing the text"),
    ("← and →", "move through the words of an answer; with Shift, choose several"),
    ("j and k", "next and previous example"),
    ("n and p", "next and previous page"),
    ("Enter", "open the example"),
    ("x", "drop it"),
    ("f", "change its label to the selected label"),
    ("e", "keep its label"),
    ("u", "undo the last decision"),
    ("?", "show the keys"),
)
"""Keys that `explorer.js` handles."""

Part = TypeVar("Part")

FILES = {
    "html": "page (HTML)",
    "json": "JSON",
    "csv": "CSV",
    "tsv": "TSV",
    "jsonl": "JSON Lines",
    "parquet": "Parquet",
    "pair": "PAIR viewer (JSONL)",
    "cleanlab": "cleanlab (CSV)",
}
"""Display names of file kinds."""


@dataclass(frozen=True, kw_only=True)
class PageRequest:
    """The parts of a request that a screen needs."""

    path: Annotated[str, "path of the address"]
    back: Annotated[str, "URL of the state that is shown; forms return to it"]
    token: Annotated[str, "of this run; every form sends it back"]
    theme: Annotated[str, '"light", "dark", or "" for the preference of the system']
    style: Annotated[str, "URL of the style sheet"]
    scripts: Annotated[tuple[str, ...], "URLs of the scripts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame(PageRequest):
    """The layout of all screens."""

    nav: Annotated[tuple[Link, ...], "the screens"]
    indexes: Annotated[tuple[Link, ...], "the same screen of every index of this server"]
    notices: Annotated[tuple[str, ...], "what a reader must know before anything else"]
    undo: Annotated[str, "the last decision in words; empty when there is nothing to undo"]
    undo_step: Annotated[int, "number of its step; 0 when there is nothing to undo"]
    keys: Annotated[tuple[tuple[str, str], ...], "key and what it does"] = KEYS


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A column by which training examples are chosen."""

    name: Annotated[str, "field of the state"]
    title: Annotated[str, "what the values are"]
    options: Annotated[tuple[Link, ...], "values, perhaps with a URL and a count; here: is chosen"]
    total: Annotated[int, "values that the index has"]

    @property
    def chosen(self) -> tuple[str, ...]:
        """The chosen values."""
        return tuple(link.text for link in self.options if link.here)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The filled-in form of a question."""

    index: Annotated[str, "name of the index"]
    asked: Annotated[QuestionState, "the question"]
    names: Annotated[tuple[str, ...], "classes; none of a language model"]
    paired: Annotated[bool, "whether the training examples are pairs"]
    chat: Annotated[bool, "whether the training examples are conversations"]
    language: Annotated[bool, "whether it is a language model, of which a piece may be explained"]
    writes: Annotated[bool, "whether the model can write the answer"]
    roles: Annotated[tuple[str, ...], "who may speak in a turn"]
    others: Annotated[tuple[Link, ...], "all indexes, to ask several; here: is asked"]
    only: Annotated[tuple[Filter, ...], "which training examples may be found"]
    most_turns: Annotated[int, "turns that a conversation may have"] = MOST_TURNS

    @property
    def narrowed(self) -> bool:
        """Whether some training examples are excluded."""
        return any(one.chosen for one in self.only)


def frame(
    request: PageRequest,
    open_indexes: OpenIndexes,
    shown: OpenIndex,
    notices: tuple[str, ...] | None = None,
) -> Frame:
    """Build the layout of a screen; with its own notices, or those of the index."""
    shared = {"/action", *(path for _, path, _ in _SCREENS)}
    same = request.path if request.path in shared else "/ask"
    step, last = _readable(lambda: shown.decisions.last_step, (0, ()))
    return Frame(
        **vars(request),
        nav=_nav(request, open_indexes, shown),
        indexes=tuple(
            Link(name, ExampleState(index=name).url(same), name == shown.name, _method(one))
            for name, one in open_indexes.shown.items()
        ),
        undo=_undo(last),
        undo_step=step,
        notices=_notices(shown) if notices is None else notices,
    )


def form(open_indexes: OpenIndexes, shown: OpenIndex, state: QuestionState) -> Form:
    """Fill in the form of a question."""
    asked = set(state.index) or {shown.name}
    return Form(
        index=shown.name,
        asked=state,
        names=tuple(shown.plan.label_names or ()),
        paired=shown.paired,
        chat=shown.chat or bool(state.messages),
        language=shown.language,
        writes=shown.writes,
        roles=tuple(dict.fromkeys([*ROLES, *(role for role, _ in state.turns)])),
        others=tuple(Link(one.name, "", one.name in asked, _method(one)) for one in open_indexes.shown.values()),
        only=_narrowed(shown, state),
    )


def _narrowed(shown: OpenIndex, state: QuestionState) -> tuple[Filter, ...]:
    """The columns to filter by; none if all examples have the same value."""
    known = (
        ("label", shown.plan.label_names or (), state.only_label),
        ("source", shown.sources, state.only_source),
    )
    return tuple(
        Filter(
            name=f"only_{name}",
            title=f"{name}s",
            options=tuple(Link(one, "", one in chosen) for one in dict.fromkeys([*chosen, *values[:MOST_OPTIONS]])),
            total=len(values),
        )
        for name, values, chosen in known
        if len(values) > 1 or chosen
    )


def file_links(state: PageState, what: str, kinds: Sequence[str]) -> tuple[Link, ...]:
    """Links to the files of the current view."""
    return tuple(Link(FILES[kind], state.url(f"/export/{what}.{kind}")) for kind in kinds)


def decision_words(one: Decision) -> str:
    """Display text of a decision."""
    return f"fix to {one.label}" if one.act == "fix" else one.act


def step_words(at: CheckpointId) -> str:
    """Display text of a checkpoint's step, with its run after the first."""
    return f"{at.step:,}{f' of run {at.run}' if at.run else ''}"


def method_line(plan: Plan) -> str:
    """The method, its checkpoints, and the source of their learning rates."""
    names = [step_words(one.id) for one in plan.checkpoints]
    rates = [one.learning_rate for one in plan.checkpoints]
    steps = ", ".join(f"{name} (learning rate {rate:.3g})" for name, rate in zip(names, rates, strict=True))
    rules = "; ".join(dict.fromkeys(one.rule for one in plan.checkpoints))
    path = f", gradient path {plan.shown_path}" if plan.shown_path else ""
    return f"Method {plan.method.name}{path}; checkpoints at steps {steps}; learning rates: {rules}."


def _notices(shown: OpenIndex) -> tuple[str, ...]:
    """Missing parts of an index, and problems with its decisions."""
    if shown.building and not shown.readable:
        return ()  # its page says how far the build is
    try:
        store, decisions = shown.store, shown.decisions
        foreign = decisions.foreign
    except ProponentError as error:
        return (str(error),)
    lines: list[str] = []
    if not store.sealed or store.coverage < 1:
        what = "INCOMPLETE: shards of this index are missing" if store.sealed else "PARTIAL: this index is unfinished"
        lines.append(f"{what}; it has {store.coverage:.0%} of the training examples, and only these are shown.")
    if foreign:
        lines.append(
            f"{foreign} decisions were made for other data than the data of this index; they still apply by id. Move "
            f"{decisions.path.name} away to start over."
        )
    return tuple(lines)


def _undo(last: Sequence[Decision]) -> str:
    """Display text of the decision that undo would revert."""
    if len(last) > 1:
        return f"{last[0].act} {len(last):,} examples"
    return f"{decision_words(last[0])}: {clip(last[0].id, 24)}" if last else ""


def suspect_rows_known(shown: OpenIndex) -> bool:
    """Whether an index has the page of suspect rows."""
    return _readable(lambda: not ACTIONS[SUSPECT_ROWS].missing(shown.plan), False)


def _nav(request: PageRequest, open_indexes: OpenIndexes, shown: OpenIndex) -> tuple[Link, ...]:
    name = shown.name if len(open_indexes.shown) > 1 else ""
    classifier = _readable(lambda: shown.plan.label_names is not None, False)
    flagged = request.path == "/table" and "flag=yes" in request.back and classifier
    here, url = "suspects" if flagged else request.path, ExampleState(index=name).url
    links = [Link(title, url(path), here in {path, part}) for title, path, part in _SCREENS]
    if classifier:
        links.insert(3, Link("Suspects", replace(SUSPECTS, index=name).url("/table"), flagged))
    elif suspect_rows_known(shown):
        report = ExampleState(index=name, id=SUSPECT_ROWS).url("/action")
        links.insert(3, Link("Suspects", report, request.path == "/action"))
    return tuple(links)


def _readable(read: Callable[[], Part], otherwise: Part) -> Part:
    """Read a part of an index; return a default if the index cannot be opened."""
    try:
        return read()
    except ProponentError:
        return otherwise


def _method(shown: OpenIndex) -> str:
    return _readable(lambda: shown.plan.method.name, "cannot be opened")
