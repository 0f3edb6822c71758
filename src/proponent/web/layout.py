"""The frame around every screen, and what several screens say in the same words."""

from dataclasses import dataclass

from proponent.actions.decisions import Decision
from proponent.errors import ProponentError
from proponent.store import Plan, Store
from proponent.views.frames import AnswerLinks, Filter, Form, Frame, Link
from proponent.views.text_marks import clip
from proponent.web.open_indexes import OpenIndex, OpenIndexes
from proponent.web.states import ExampleState, QuestionState, TableState

SUSPECTS = TableState(flag="yes", sort=("score",))
"""The table of suspected label errors."""


MOST_OPTIONS = 40
"""Labels and sources that the form of a question offers, the most frequent sources first."""

KEYS = (
    ("/", "search, or the text of the question"),
    ("Escape", "leave a field"),
    ("Ctrl + Enter", "ask, from within the text"),
    ("j and k", "next and previous example"),
    ("n and p", "next and previous page"),
    ("Enter", "open the example"),
    ("x", "drop it"),
    ("f", "fix its label to the one that is chosen"),
    ("e", "keep it as it is"),
    ("u", "undo the last decision"),
    ("?", "show the keys"),
)
"""What `explorer.js` listens to."""


@dataclass(frozen=True)
class PageRequest:
    """What a screen needs to know of a request.

    Attributes:
        path: of the URL.
        back: path and query string.
        token: of this run.
        theme: "light", "dark" or "".
        style: URL of the style sheet.
        scripts: URLs of the scripts.
    """

    path: str
    back: str
    token: str
    theme: str
    style: str
    scripts: tuple[str, ...]


def frame(
    request: PageRequest,
    open_indexes: OpenIndexes,
    shown: OpenIndex,
    title: str,
    *,
    refresh: float = 0.0,
    notices: tuple[str, ...] | None = None,
) -> Frame:
    """Put a frame around a screen."""
    return Frame(
        title=title,
        nav=_nav(request, open_indexes, shown),
        indexes=tuple(
            Link(one.name, ExampleState(index=one.name).url(_same(request.path)), one is shown, _method(one))
            for one in open_indexes.shown.values()
        ),
        token=request.token,
        back=request.back,
        theme=request.theme,
        style=request.style,
        scripts=request.scripts,
        undo=_undo(shown),
        notices=_notices(shown) if notices is None else notices,
        refresh=refresh,
        keys=KEYS,
    )


def form(open_indexes: OpenIndexes, shown: OpenIndex, state: QuestionState) -> Form:
    """Fill in the form of a question."""
    asked = set(state.index) or {shown.name}
    return Form(
        index=shown.name,
        text=state.text,
        pair=state.pair,
        target=state.target,
        label=state.label,
        against=state.against,
        k=state.k,
        names=tuple(shown.plan.label_names or ()),
        paired=shown.paired,
        others=tuple(Link(one.name, "", one.name in asked, _method(one)) for one in open_indexes.shown.values()),
        only=_narrowed(shown, state),
    )


def _narrowed(shown: OpenIndex, state: QuestionState) -> tuple[Filter, ...]:
    """Ways to ask for some training examples alone; none where all have the same."""
    found: list[Filter] = []
    known = (("label", "labels", shown.plan.label_names or (), state.only_label),
             ("source", "sources", shown.sources, state.only_source))  # fmt: skip
    for name, title, values, chosen in known:
        listed = list(dict.fromkeys([*chosen, *values[:MOST_OPTIONS]]))
        if len(values) > 1 or chosen:
            options = tuple(Link(one, "", one in chosen) for one in listed)
            found.append(Filter(name=f"only_{name}", title=title, options=options, total=len(values)))
    return tuple(found)


def answer_links(request: PageRequest, shown: OpenIndex, state: QuestionState) -> AnswerLinks:
    """Make the ways out of an answer."""
    return AnswerLinks(
        index=shown.name,
        state=tuple(state.pairs),
        token=request.token,
        back=request.back,
        names=tuple(shown.plan.label_names or ()),
        decided={name: decision_words(one) for name, one in shown.decisions.current.items()},
        word=state.word,
    )


def decision_words(one: Decision) -> str:
    """Say a decision."""
    return f"fix to {one.label}" if one.act == "fix" else one.act


def method_line(plan: Plan) -> str:
    """Say the method, its checkpoints, and how their learning rates are known."""
    steps = ", ".join(f"{one.step:,} (learning rate {one.learning_rate:.3g})" for one in plan.checkpoints)
    rules = "; ".join(dict.fromkeys(one.rule for one in plan.checkpoints))
    path = f", gradient path {plan.shown_path}" if plan.shown_path else ""
    return f"Method {plan.method.name}{path}; checkpoints at steps {steps}; learning rates: {rules}."


def banner(store: Store) -> tuple[str, ...]:
    """Say what is missing of an index."""
    if not store.sealed:
        return (
            f"PARTIAL: this index is unfinished; {store.coverage:.0%} of the training examples are in it, and only "
            "they are shown.",
        )
    if store.coverage < 1:
        return (
            f"INCOMPLETE: shards of this index are missing; {store.coverage:.0%} of the training examples are in it, "
            "and only they are shown.",
        )
    return ()


def _notices(shown: OpenIndex) -> tuple[str, ...]:
    try:
        lines = list(banner(shown.store))
        decisions = shown.decisions
        _ = decisions.steps
    except ProponentError as error:
        return (str(error),)
    if decisions.foreign:
        lines.append(
            f"{decisions.foreign} steps of the decisions were made about other data than this index holds: they count "
            f"by id all the same; move {decisions.path.name} away to begin anew."
        )
    return tuple(lines)


def _undo(shown: OpenIndex) -> str:
    try:
        last = shown.decisions.last
    except ProponentError:
        return ""
    if not last:
        return ""
    one = last[0]
    if len(last) > 1:
        return f"{one.act} {len(last):,} examples"
    return f"{decision_words(one)}: {clip(one.id, 24)}"


def _nav(request: PageRequest, open_indexes: OpenIndexes, shown: OpenIndex) -> tuple[Link, ...]:
    name = shown.name if len(open_indexes.shown) > 1 else ""
    suspects = SUSPECTS.url("/table", index=name)
    named = QuestionState(index=(name,) if name else ())
    links = [
        Link("Ask", named.url("/ask"), request.path in {"/ask", "/job"}),
        Link("Examples", TableState(index=name).url("/table"), request.path in {"/table", "/example"}),
        Link("Suspects", suspects),
        Link("Compare", named.url("/compare"), request.path == "/compare"),
        Link("Groups", named.url("/groups"), request.path == "/groups"),
        Link("Asked", ExampleState(index=name).url("/asked"), request.path == "/asked"),
        Link("Index", ExampleState(index=name).url("/about"), request.path == "/about"),
    ]
    if _names(shown) is None:
        del links[2]
    elif request.path == "/table" and "flag=yes" in request.back:
        links[1], links[2] = Link("Examples", links[1].url), Link("Suspects", suspects, here=True)
    return tuple(links)


def _names(shown: OpenIndex) -> list[str] | None:
    try:
        return shown.plan.label_names
    except ProponentError:
        return None


def _same(path: str) -> str:
    """The screen that another index can show too."""
    return path if path in {"/ask", "/table", "/compare", "/groups", "/asked", "/about"} else "/ask"


def _method(shown: OpenIndex) -> str:
    try:
        return shown.plan.method.name
    except ProponentError:
        return "cannot be opened"
