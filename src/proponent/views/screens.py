"""Every screen of the explorer as a frozen dataclass; the help text of each field is the contract of its template."""

from dataclasses import dataclass, field
from typing import ClassVar

from proponent.types import Span
from proponent.views.explanation import CAVEAT, Explanation
from proponent.views.frames import AnswerLinks, Form, Link, PastQuestion, Screen
from proponent.views.text_marks import Mark


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass(frozen=True, slots=True, kw_only=True)
class AskScreen(Screen):
    """Ask about a text; the answer when there is one."""

    template: ClassVar[str] = "explorer/ask.html.j2"

    form: Form = field(metadata=_help("the question"))
    answer: Explanation | None = field(metadata=_help("the answer; None when the question was not asked yet"))
    answer_links: AnswerLinks = field(metadata=_help("ways out of the answer"))
    all_hits: int = field(default=0, metadata=_help("hits of the answer before the word filter"))
    exports: tuple[Link, ...] = field(default=(), metadata=_help("files of this answer"))
    groups: str = field(default="", metadata=_help("URL of the sums by label; empty without an answer"))
    problem: str = field(default="", metadata=_help("why new texts cannot be asked; empty when they can"))
    recent: tuple[PastQuestion, ...] = field(
        default=(), metadata=_help("questions that were asked before, latest first")
    )
    n_examples: int = field(default=0, metadata=_help("training examples of the index"))
    seconds: float = field(default=0.0, metadata=_help("what the answer took; 0 when it is not known"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One training example in the table."""

    id: str = field(metadata=_help("id of the training example"))
    row: int = field(metadata=_help("0-based row of the source"))
    place: int = field(metadata=_help("number of the row on this screen, from 1"))
    url: str = field(metadata=_help("its page"))
    text: str = field(metadata=_help("the text"))
    second: str | None = field(metadata=_help("second text or target; None without one"))
    spans: tuple[Span, ...] = field(metadata=_help("what the search found in the text"))
    second_spans: tuple[Span, ...] = field(metadata=_help("what the search found in the second text"))
    label: str | None = field(metadata=_help("given class; None of a language model"))
    predicted: str | None = field(metadata=_help("class of largest mean probability"))
    suggested: str | None = field(metadata=_help("class that a flagged label should rather be"))
    quality: float | None = field(metadata=_help("label score: mean probability of the given class; low is suspect"))
    flagged: bool = field(metadata=_help("whether the label is flagged as wrong"))
    loss: float = field(metadata=_help("loss at the last checkpoint"))
    source: str | None = field(metadata=_help("where it comes from; None when the data does not say"))
    decided: str = field(metadata=_help("decision: keep, fix, drop, or empty"))
    new_label: str | None = field(metadata=_help("label of a fix"))

    @property
    def marks(self) -> tuple[Mark, ...]:
        """What the search found, as marks without a share."""
        return tuple((start, end, 0.0) for start, end in self.spans)

    @property
    def second_marks(self) -> tuple[Mark, ...]:
        """The same in the second text."""
        return tuple((start, end, 0.0) for start, end in self.second_spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facet:
    """One way to narrow the table down."""

    name: str = field(metadata=_help("of the field of the state"))
    title: str = field(metadata=_help("what it is"))
    options: tuple[Link, ...] = field(metadata=_help("values with counts; following one chooses or leaves it"))
    chosen: int = field(metadata=_help("number of chosen values"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnHead:
    """A column of the table by which it can be sorted."""

    title: str = field(metadata=_help("what it shows"))
    url: str = field(metadata=_help("the table sorted by it"))
    order: str = field(metadata=_help('"ascending", "descending" or "none"'))
    name: str = field(metadata=_help("of the column"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableScreen(Screen):
    """All training examples: searched, filtered, sorted, decided about."""

    template: ClassVar[str] = "explorer/table.html.j2"

    index: str = field(metadata=_help("name of the index"))
    rows: tuple[TableRow, ...] = field(metadata=_help("what this page of the table shows"))
    total: int = field(metadata=_help("training examples that may be found"))
    matching: int = field(metadata=_help("training examples that are selected"))
    first: int = field(metadata=_help("number of the first one shown, from 1"))
    facets: tuple[Facet, ...] = field(metadata=_help("ways to narrow down"))
    heads: tuple[ColumnHead, ...] = field(metadata=_help("columns to sort by"))
    q: str = field(metadata=_help("what is searched for"))
    how: str = field(metadata=_help("substring, word or regex"))
    low: str = field(metadata=_help("least label score, as text"))
    high: str = field(metadata=_help("largest label score, as text"))
    size: int = field(metadata=_help("rows per page"))
    hidden: tuple[tuple[str, str], ...] = field(metadata=_help("the rest of the state, which the search form keeps"))
    clear: str = field(metadata=_help("the table without any choice"))
    chosen: tuple[Link, ...] = field(metadata=_help("choices that are made; following one leaves it"))
    earlier: str = field(metadata=_help("URL of the page before; empty on the first"))
    later: str = field(metadata=_help("URL of the next page; empty on the last"))
    pages: int = field(metadata=_help("number of pages"))
    page: int = field(metadata=_help("number of this page, from 1"))
    sizes: tuple[Link, ...] = field(metadata=_help("other numbers of rows per page"))
    exports: tuple[Link, ...] = field(metadata=_help("files of what is selected"))
    names: tuple[str, ...] = field(metadata=_help("classes; none of a language model"))
    problem: str = field(default="", metadata=_help("why the search found nothing, when it could not be done"))
    searched: int | None = field(default=None, metadata=_help("examples looked at before the time was up; else None"))
    caveat: str = field(default=CAVEAT, metadata=_help("what a score is not"))
    method: str = field(default="", metadata=_help("method, checkpoints and learning rates in one line"))
    ranking: str = field(default="", metadata=_help("what the label score is"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a training example did to one question that was asked."""

    text: str = field(metadata=_help("the question"))
    label: str = field(metadata=_help("class that was explained"))
    url: str = field(metadata=_help("the answer"))
    rank: int = field(metadata=_help("rank of the example there"))
    score: float = field(metadata=_help("its score there"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicate:
    """A near-duplicate."""

    id: str = field(metadata=_help("id of the training example"))
    row: int = field(metadata=_help("0-based row of the source"))
    url: str = field(metadata=_help("its page"))
    text: str = field(metadata=_help("the text"))
    label: str | None = field(metadata=_help("given class"))
    similarity: float = field(metadata=_help("shared words divided by all words of both, 0 to 1"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleScreen(Screen):
    """One training example: what the model makes of it, what it helped and hurt, and its near-duplicates."""

    template: ClassVar[str] = "explorer/example.html.j2"

    index: str = field(metadata=_help("name of the index"))
    row: TableRow = field(metadata=_help("the example"))
    pair: bool = field(metadata=_help("whether the second text is one of a pair (else a target)"))
    names: tuple[str, ...] = field(metadata=_help("classes; none of a language model"))
    probabilities: tuple[tuple[str, float], ...] = field(metadata=_help("class and mean probability, likeliest first"))
    losses: tuple[tuple[int, float], ...] = field(metadata=_help("step and loss, per checkpoint"))
    proponents: tuple[Effect, ...] = field(metadata=_help("questions that it helped, strongest first"))
    opponents: tuple[Effect, ...] = field(metadata=_help("questions that it hurt, strongest first"))
    n_questions: int = field(metadata=_help("questions that were asked of this index"))
    near_duplicates: tuple[NearDuplicate, ...] = field(metadata=_help("near-duplicates, most alike first"))
    ask: str = field(metadata=_help("URL of the form that asks about this very text"))
    alive: bool = field(metadata=_help("whether it may be a hit: it has a gradient and was not deleted"))
    caveat: str = field(default=CAVEAT, metadata=_help("what a score is not"))
    method: str = field(default="", metadata=_help("method, checkpoints and learning rates in one line"))

    @property
    def largest_loss(self) -> float:
        """Length of a full bar."""
        return max((loss for _, loss in self.losses), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedHit:
    """One training example in one of several rankings."""

    rank: int = field(metadata=_help("1 is the strongest"))
    id: str = field(metadata=_help("id of the training example"))
    url: str = field(metadata=_help("its page"))
    text: str = field(metadata=_help("the text"))
    label: str | None = field(metadata=_help("given class"))
    score: float = field(metadata=_help("in the unit of its ranking"))
    change: str = field(metadata=_help('against the first ranking: "same", "up 3", "down 2", "new", or empty'))
    first: int | None = field(default=None, metadata=_help("rank in the first ranking; None when it is not in it"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonColumn:
    """One of several rankings side by side."""

    title: str = field(metadata=_help("name of the method or the baseline"))
    note: str = field(metadata=_help("index, checkpoints"))
    hits: tuple[ComparedHit, ...] = field(metadata=_help("its first k"))
    overlap: str = field(metadata=_help("how many of them the first ranking has too, in words"))
    problem: str = field(default="", metadata=_help("why there is nothing"))
    ask: str = field(default="", metadata=_help("index to ask; empty when there is nothing to ask"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareScreen(Screen):
    """Up to four rankings of the training examples for one question."""

    template: ClassVar[str] = "explorer/compare.html.j2"

    form: Form = field(metadata=_help("the question"))
    columns: tuple[ComparisonColumn, ...] = field(metadata=_help("the rankings; the first is the one compared with"))
    choices: tuple[Link, ...] = field(metadata=_help("rankings to show or leave out"))
    asked: bool = field(metadata=_help("whether there is an answer at all"))
    caveat: str = field(default=CAVEAT, metadata=_help("what a score is not"))
    method: str = field(default="", metadata=_help("method, checkpoints and learning rates in one line"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSum:
    """What the training examples with one value did together."""

    name: str = field(metadata=_help("the value; empty for none"))
    n: int = field(metadata=_help("training examples"))
    total: float = field(metadata=_help("sum of their scores"))
    proponents: float = field(metadata=_help("sum of the scores above zero"))
    opponents: float = field(metadata=_help("sum of the scores below zero"))
    mean: float = field(metadata=_help("total divided by n"))
    url: str = field(metadata=_help("the table of these examples"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScreen(Screen):
    """Sums of influence by label or source."""

    template: ClassVar[str] = "explorer/groups.html.j2"

    form: Form = field(metadata=_help("the question"))
    headline: str = field(metadata=_help("what is explained; empty without an answer"))
    by: tuple[Link, ...] = field(metadata=_help("columns to sum by"))
    sums: tuple[GroupSum, ...] = field(metadata=_help("one per value, largest total first"))
    answer: str = field(metadata=_help("URL of the answer"))
    exports: tuple[Link, ...] = field(default=(), metadata=_help("files of these sums"))
    caveat: str = field(default=CAVEAT, metadata=_help("what a score is not"))
    method: str = field(default="", metadata=_help("method, checkpoints and learning rates in one line"))

    @property
    def largest(self) -> float:
        """Length of a full bar."""
        return max((max(one.proponents, -one.opponents) for one in self.sums), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedScreen(Screen):
    """All questions that were asked of an index."""

    template: ClassVar[str] = "explorer/asked.html.j2"

    index: str = field(metadata=_help("name of the index"))
    questions: tuple[PastQuestion, ...] = field(metadata=_help("latest first"))
    total: int = field(metadata=_help("how many there are"))
    file: str = field(metadata=_help("name of the folder in which they are kept"))
    exports: tuple[Link, ...] = field(default=(), metadata=_help("files of all answers"))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobScreen(Screen):
    """A question on its way."""

    template: ClassVar[str] = "explorer/job.html.j2"

    id: str = field(metadata=_help("of the job"))
    url: str = field(metadata=_help("this page"))
    text: str = field(metadata=_help("what is asked"))
    stage: str = field(metadata=_help("what is being done"))
    ahead: int = field(metadata=_help("questions that are answered before it"))
    seconds: float = field(metadata=_help("how long it has been under way"))
    error: str = field(default="", metadata=_help("why it failed; empty while it has not"))
    again: str = field(default="", metadata=_help("URL of the form, filled in"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildScreen(Screen):
    """An index that is being built."""

    template: ClassVar[str] = "explorer/build.html.j2"

    index: str = field(metadata=_help("name of the index"))
    method: str = field(metadata=_help("name of the method"))
    data: str = field(metadata=_help("name of the data set"))
    n: int = field(metadata=_help("training examples"))
    share: float = field(metadata=_help("part of the gradients that is finished, 0 to 1"))
    steps: tuple[tuple[int, int], ...] = field(metadata=_help("checkpoint and finished examples"))
    rate: str = field(metadata=_help("examples per second, in words"))
    left: str = field(metadata=_help("time left, in words"))
    idle: str = field(metadata=_help("time since the last finished shard, in words"))
    free: str = field(metadata=_help("space left on the disk, in words"))
    skipped: str = field(metadata=_help("rows without a finite gradient so far, in words"))
    table: str = field(default="", metadata=_help("URL of the table of what is there; empty before the first shard"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AboutScreen(Screen):
    """What an index holds, and how to read scores."""

    template: ClassVar[str] = "explorer/about.html.j2"

    index: str = field(metadata=_help("name of the index"))
    facts: tuple[tuple[str, str], ...] = field(metadata=_help("name and value"))
    checkpoints: tuple[tuple[int, float, str], ...] = field(metadata=_help("step, learning rate, rule"))
    notes: tuple[str, ...] = field(metadata=_help("what every answer repeats"))
    decisions: tuple[tuple[str, int], ...] = field(metadata=_help("decision and how many examples"))
    exports: tuple[Link, ...] = field(metadata=_help("the mended data set, and the decisions"))
    command: str = field(metadata=_help("the command that writes the mended data set"))
    caveat: str = field(default=CAVEAT, metadata=_help("what a score is not"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemScreen(Screen):
    """Something that cannot be shown, and the way out."""

    template: ClassVar[str] = "explorer/problem.html.j2"

    title: str = field(metadata=_help("what it is about"))
    description: str = field(metadata=_help("what is wrong, and how to mend it"))
    status: int = field(metadata=_help("of the answer"))
    links: tuple[Link, ...] = field(default=(), metadata=_help("where to go from here"))
