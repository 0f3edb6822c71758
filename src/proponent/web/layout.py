"""Layout around every screen, and the parts that several screens share."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from proponent.actions import ACTIONS
from proponent.actions.decisions import Decision
from proponent.errors import ProponentError
from proponent.store import Plan, Store
from proponent.types import CheckpointId
from proponent.views.frames import AnswerLinks, Link, help_text
from proponent.views.text_marks import clip
from proponent.web.open_indexes import OpenIndex, OpenIndexes
from proponent.web.questions import Summary
from proponent.web.states import ExampleState, PageState, QuestionState, TableState

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

FILES = {
    "html": "page (HTML)",
    "json": "JSON",
    "csv": "CSV",
    "jsonl": "JSON Lines",
    "parquet": "Parquet",
    "pair": "PAIR viewer (JSONL)",
    "cleanlab": "cleanlab (CSV)",
}
"""Kinds of files in words."""


@dataclass(frozen=True)
class PageRequest:
    """What a screen needs to know of a request; `back` is its path and query string."""

    path: str
    back: str
    token: str
    theme: str
    style: str
    scripts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The layout around every screen."""

    title: str = field(metadata=help_text("title of the document"))
    nav: tuple[Link, ...] = field(metadata=help_text("the screens"))
    indexes: tuple[Link, ...] = field(metadata=help_text("the same screen of every index of this server"))
    token: str = field(metadata=help_text("of this run; every form sends it back"))
    back: str = field(metadata=help_text("URL of the state that is shown; forms return to it"))
    theme: str = field(metadata=help_text('"light", "dark", or "" for the preference of the system'))
    style: str = field(metadata=help_text("URL of the style sheet"))
    scripts: tuple[str, ...] = field(metadata=help_text("URLs of the scripts"))
    notices: tuple[str, ...] = field(metadata=help_text("what a reader must know before anything else"))
    undo: str = field(metadata=help_text("the last decision in words; empty when there is nothing to undo"))
    refresh: float = field(metadata=help_text("seconds after which the page reloads; 0 for never"))
    keys: tuple[tuple[str, str], ...] = field(default=KEYS, metadata=help_text("key and what it does"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One column by which the training examples that may be found are chosen."""

    name: str = field(metadata=help_text("of the field of the state"))
    title: str = field(metadata=help_text("what the values are"))
    options: tuple[Link, ...] = field(metadata=help_text("values; here: is chosen"))
    total: int = field(metadata=help_text("values that the index has"))

    @property
    def chosen(self) -> tuple[str, ...]:
        """The chosen values."""
        return tuple(link.text for link in self.options if link.here)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The form in which a question is asked, as it is filled in."""

    index: str = field(metadata=help_text("name of the index"))
    asked: QuestionState = field(metadata=help_text("the question"))
    names: tuple[str, ...] = field(metadata=help_text("classes; none of a language model"))
    paired: bool = field(metadata=help_text("whether the training examples are pairs"))
    others: tuple[Link, ...] = field(metadata=help_text("all indexes, to ask several; here: is asked"))
    only: tuple[Filter, ...] = field(metadata=help_text("which training examples may be found"))

    @property
    def narrowed(self) -> bool:
        """Whether some training examples cannot be found."""
        return any(one.chosen for one in self.only)


@dataclass(frozen=True, slots=True, kw_only=True)
class PastQuestion:
    """A question that was asked before."""

    text: str = field(metadata=help_text("the text, or its beginning"))
    label: str = field(metadata=help_text("class that was explained; empty for a language model"))
    predicted: str = field(metadata=help_text("class that the model predicts; empty for a language model"))
    when: str = field(metadata=help_text("date and time, UTC"))
    url: str = field(metadata=help_text("where its answer is"))
    only: str = field(metadata=help_text("labels and sources that could be found; empty for all"))


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
    same = request.path if request.path in _SHARED else "/ask"
    return Frame(
        title=title,
        nav=_nav(request, open_indexes, shown),
        indexes=tuple(
            Link(one.name, ExampleState(index=one.name).url(same), one is shown, _method(one))
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
    )


def form(open_indexes: OpenIndexes, shown: OpenIndex, state: QuestionState) -> Form:
    """Fill in the form of a question."""
    asked = set(state.index) or {shown.name}
    return Form(
        index=shown.name,
        asked=state,
        names=tuple(shown.plan.label_names or ()),
        paired=shown.paired,
        others=tuple(Link(one.name, "", one.name in asked, _method(one)) for one in open_indexes.shown.values()),
        only=_narrowed(shown, state),
    )


def _narrowed(shown: OpenIndex, state: QuestionState) -> tuple[Filter, ...]:
    """The columns to filter by; none where all examples have the same value."""
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
    """Make the links of an answer."""
    return AnswerLinks(
        index=shown.name,
        state=tuple(state.pairs),
        token=request.token,
        back=request.back,
        names=tuple(shown.plan.label_names or ()),
        decided={name: decision_words(one) for name, one in shown.decisions.current.items()},
        word=state.word,
    )


def past_questions(shown: OpenIndex, most: int) -> tuple[PastQuestion, ...]:
    """The latest questions of an index."""
    return tuple(_past(shown.name, one) for one in list(shown.questions.list().values())[:most])


def _past(index: str, one: Summary) -> PastQuestion:
    return PastQuestion(
        text=clip(one.question.text, 160),
        only=clip(one.question.filters, 160),
        label=(one.explained or "") + (f" and not {one.question.against}" if one.question.against else ""),
        predicted=one.predicted or "",
        when=one.when.replace("T", " ").removesuffix("+00:00")[:16],
        url=QuestionState.of(one.question, index).url("/ask"),
    )


def file_links(state: PageState, what: str, kinds: Sequence[str]) -> tuple[Link, ...]:
    """Links to the files of the current view."""
    return tuple(Link(FILES[kind], state.url(f"/export/{what}.{kind}")) for kind in kinds)


def decision_words(one: Decision) -> str:
    """A decision in words."""
    return f"fix to {one.label}" if one.act == "fix" else one.act


def step_words(at: CheckpointId) -> str:
    """The step of a checkpoint, with its run after the first."""
    return f"{at.step:,}{f' of run {at.run}' if at.run else ''}"


def method_line(plan: Plan) -> str:
    """The method, its checkpoints, and where their learning rates come from."""
    names = [step_words(one.id) for one in plan.checkpoints]
    rates = [one.learning_rate for one in plan.checkpoints]
    steps = ", ".join(f"{name} (learning rate {rate:.3g})" for name, rate in zip(names, rates, strict=True))
    rules = "; ".join(dict.fromkeys(one.rule for one in plan.checkpoints))
    path = f", gradient path {plan.shown_path}" if plan.shown_path else ""
    return f"Method {plan.method.name}{path}; checkpoints at steps {steps}; learning rates: {rules}."


def banner(store: Store) -> tuple[str, ...]:
    """What is missing of an index."""
    if store.sealed and store.coverage >= 1:
        return ()
    what = "INCOMPLETE: shards of this index are missing" if store.sealed else "PARTIAL: this index is unfinished"
    return (f"{what}; it has {store.coverage:.0%} of the training examples, and only these are shown.",)


def _notices(shown: OpenIndex) -> tuple[str, ...]:
    try:
        lines = list(banner(shown.store))
        decisions = shown.decisions
        _ = decisions.steps
    except ProponentError as error:
        return (str(error),)
    if decisions.foreign:
        lines.append(
            f"{decisions.foreign} decision steps were made for other data than this index has; they still count by "
            f"id. Move {decisions.path.name} away to start over."
        )
    return tuple(lines)


def _undo(shown: OpenIndex) -> str:
    try:
        last = shown.decisions.last
    except ProponentError:
        return ""
    if len(last) > 1:
        return f"{last[0].act} {len(last):,} examples"
    return f"{decision_words(last[0])}: {clip(last[0].id, 24)}" if last else ""


_SHARED = {"/ask", "/table", "/compare", "/groups", "/asked", "/action", "/about"}
"""Screens that every index can show."""


def _nav(request: PageRequest, open_indexes: OpenIndexes, shown: OpenIndex) -> tuple[Link, ...]:
    name = shown.name if len(open_indexes.shown) > 1 else ""
    classifier = _classifier(shown)
    asking, one = QuestionState(index=(name,) if name else ()), ExampleState(index=name)
    flagged = request.path == "/table" and "flag=yes" in request.back and classifier
    screens: list[tuple[str, str, PageState, set[str]]] = [
        ("Ask", "/ask", asking, {"/ask", "/job"}),
        ("Examples", "/table", TableState(index=name), set() if flagged else {"/table", "/example"}),
        ("Compare", "/compare", asking, {"/compare"}),
        ("Groups", "/groups", asking, {"/groups"}),
        ("Asked", "/asked", one, {"/asked"}),
        ("Index", "/about", one, {"/about"}),
    ]
    links = [Link(title, state.url(path), request.path in here) for title, path, state, here in screens]
    if classifier:
        suspects = TableState(index=name, flag=SUSPECTS.flag, sort=SUSPECTS.sort)
        links.insert(2, Link("Suspects", suspects.url("/table"), here=flagged))
    return tuple(links)


def action_links(shown: OpenIndex) -> tuple[Link, ...]:
    """The actions that an index allows."""
    plan = shown.plan
    return tuple(
        Link(one.title, ExampleState(index=shown.name, id=one.name).url("/action"))
        for one in ACTIONS.values()
        if not one.missing(plan)
    )


def _classifier(shown: OpenIndex) -> bool:
    try:
        return shown.plan.label_names is not None
    except ProponentError:
        return False


def _method(shown: OpenIndex) -> str:
    try:
        return shown.plan.method.name
    except ProponentError:
        return "cannot be opened"
