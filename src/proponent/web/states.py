"""Every state of the explorer is a URL: parsed strictly from a query string, written back without defaults."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Literal, TypeVar, cast
from urllib.parse import parse_qsl, urlencode

from pydantic import AfterValidator, BeforeValidator, PlainValidator, ValidationError
from pydantic.dataclasses import dataclass

from proponent.data import How
from proponent.errors import InputError
from proponent.search import Where
from proponent.types import Span
from proponent.web import conversation

S = TypeVar("S", bound="PageState")
Pairs = Sequence[tuple[str, str]]

_FIRST = frozenset({"text", "pair", "target", "label", "against", "k"})
"""Fields that every stored question has."""

LONGEST_TEXT = 8_000
LONGEST_NAME = 4_000
LONGEST_LIST = 2_000
MOST_VALUES = 64
SIZES = (25, 50, 100, 200)
SORTS = ("row", "id", "label", "predicted", "score", "loss", "length", "source")
MOST_HITS = 50
MOST_INDEXES = 4
MOST_SORTS = 3


def _string(longest: int, asked: str) -> Callable[[object], str]:
    """Any string up to a length, lone surrogates included, which pydantic's own check refuses."""

    def check(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("must be text")
        if len(value) > longest:
            raise ValueError(f"has {len(value):,} characters: {asked} at most {longest:,}")
        return value

    return check


def _whole(low: int = -(10**12), high: int = 10**12, *, empty: bool = False) -> BeforeValidator:
    """A whole number in ASCII digits: pydantic also reads "1.0" and "1_000"; perhaps none."""

    def check(value: object) -> int | None:
        if empty and value in ("", None):
            return None
        if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdecimal() and len(value) <= 12:
            value = int(value)
        if not isinstance(value, int):
            raise ValueError(f"is {str(value)[:40]!r}: it must be a whole number")
        if not low <= value <= high:
            raise ValueError(f"is {value}: it must be between {low} and {high:,}")
        return value

    return BeforeValidator(check)


def _number(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        number = float(value) if value else None
    except ValueError:
        number = float("nan")
    if number is not None and not -1e30 < number < 1e30:
        raise ValueError(f"is {value[:40]!r}: it must be a number")
    return number


def _sort_keys(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value.removeprefix("-") not in SORTS:
            raise ValueError(f"is {value[:40]!r}: it must be one of {', '.join(SORTS)}")
    if len(values) > MOST_SORTS:
        raise ValueError(f"has {len(values)} columns: sort by at most three")
    return values


def _area(value: str) -> str:
    """A cell of a map: what the map is of, its column and its row."""
    if value and not re.fullmatch(r"(hidden|gradients|probabilities) [0-9]{1,2} [0-9]{1,2}", value):
        raise ValueError(f"is {value[:40]!r}: it must be a cell of a map, such as 'hidden 3 4'")
    return value


def _few_indexes(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(values) > MOST_INDEXES:
        raise ValueError(f"has {len(values)} indexes to compare: choose at most {MOST_INDEXES}")
    return values


Text = Annotated[str, PlainValidator(_string(LONGEST_TEXT, "ask about"))]
Name = Annotated[str, PlainValidator(_string(LONGEST_NAME, "names have"))]
Names = tuple[Name, ...]
NameSet = Annotated[tuple[Name, ...], AfterValidator(lambda names: tuple(sorted(names)))]
Score = Annotated[float | None, BeforeValidator(_number)]


@dataclass(frozen=True)
class PageState:
    """Fields of all states; a field named `index` is written `in`."""

    @classmethod
    def read(cls: "type[S]", pairs: Pairs) -> "S":
        """Parse a query string."""
        made: dict[str, Any] = {}
        for one in fields(cls):
            given = [value for name, value in pairs if name == _written(one.name)][: MOST_VALUES + 1]
            if len(given) > MOST_VALUES:
                raise InputError(f"{_written(one.name)} is given more than {MOST_VALUES} times")
            if given:
                several = isinstance(one.default, tuple)
                made[one.name] = tuple(dict.fromkeys(filter(None, given))) if several else given[-1]
        try:
            return cls(**made)
        except ValidationError as error:
            raise InputError(_reason(error)) from error

    @classmethod
    def unchecked(cls: "type[S]", pairs: Pairs) -> "S":
        """What was typed, whether it is allowed or not: for the form in which it is to be changed."""
        made: S = object.__new__(cls)
        for one in fields(cls):
            given = tuple(value for name, value in pairs if name == _written(one.name))
            value = given if isinstance(one.default, tuple) else given[-1] if given else one.default
            object.__setattr__(made, one.name, value)
        return made

    @property
    def first(self) -> str:
        """Name of the queried index, or of the first one; empty for the default."""
        index: str | tuple[str, ...] = getattr(self, "index", "")
        return index if isinstance(index, str) else next(iter(index), "")

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Names and values that differ from the defaults, in a fixed order."""
        found: list[tuple[str, str]] = []
        for one in fields(self):
            value: Any = getattr(self, one.name)
            if value == one.default:
                continue
            several = cast("tuple[object, ...]", value if isinstance(value, tuple) else (value,))
            found += [(_written(one.name), number(part) if isinstance(part, float) else str(part)) for part in several]
        return found

    def url(self, path: str, **changes: Any) -> str:
        """Write the state as a URL."""
        pairs = replace(self, **changes).pairs
        return f"{path}?{urlencode(pairs, errors='surrogatepass')}" if pairs else path


@dataclass(frozen=True)
class Question(PageState):
    """A question, from the form to the model's process and the stored answer; empty fields are not given."""

    text: Text = ""
    pair: Text = ""
    target: Text = ""
    label: Name = ""
    against: Name = ""
    k: Annotated[int, _whole(1, MOST_HITS)] = 10
    only_label: NameSet = ()
    only_source: NameSet = ()
    messages: Annotated[str, PlainValidator(conversation.checked)] = ""
    span: Text = ""
    at: Annotated[int | None, _whole(0, empty=True)] = None
    generate: Literal["", "yes"] = ""
    other: Text = ""

    @property
    def given(self) -> bool:
        """Whether there is a text to explain."""
        return bool((self.text + self.pair + self.target + self.messages).strip())

    @property
    def plain(self) -> dict[str, Any]:
        """Values by name, for JSON; later fields only if they are set, so that other questions keep their names."""
        return {name: value for name, value in asdict(self).items() if name in _FIRST or value not in ((), "", None)}

    @property
    def turns(self) -> tuple[conversation.Said, ...]:
        """The turns before the answer, as the form shows them."""
        found = conversation.turns_of(self.messages)
        return found[:-1] if self._closed else found or (("user", self.text),)

    @property
    def answer(self) -> str:
        """The answer that is explained; empty if it is not given."""
        return conversation.turns_of(self.messages)[-1][1] if self._closed else self.target

    @property
    def _closed(self) -> bool:
        """Whether the conversation ends with an answer to what is before it."""
        found = conversation.turns_of(self.messages)
        return len(found) > 1 and found[-1][0] == "assistant" and bool(found[-1][1].strip()) and not self.target

    @property
    def summary(self) -> str:
        """One text that stands for the question in lists: what the user said last."""
        said = [text for role, text in self.turns if role == "user"]
        return said[-1] if said else self.turns[-1][1]

    @property
    def place(self) -> str | Span | None:
        """The span, with its place if the answer has it there."""
        counted = self.answer or self.text
        if self.at is not None and self.span and counted[self.at :].startswith(self.span):
            return self.at, self.at + len(self.span)
        return self.span or None

    @property
    def query(self) -> Mapping[str, Any]:
        """The question as a query of the library."""
        named = {"text_pair": self.pair, "target": self.answer, "label": self.label}
        said = {"messages": [{"role": role, "content": text} for role, text in self.turns]}
        return (said if self.messages else {"text": self.text}) | {
            name: value for name, value in named.items() if value
        }

    @property
    def where(self) -> Where:
        """The filter of training examples."""
        return Where(self.only_label or None, self.only_source or None)

    @property
    def filters(self) -> str:
        """Display text of the filters; empty if all examples are allowed."""
        parts = (("label", self.only_label), ("source", self.only_source))
        return " and ".join(f"{name} {' or '.join(values)}" for name, values in parts if values)


@dataclass(frozen=True)
class QuestionState(Question):
    """A question, its indexes, and how its answer is shown."""

    index: Annotated[Names, AfterValidator(_few_indexes)] = ()
    word: Name = ""
    by: Literal["label", "source", "system prompt", "format", "column"] = "label"
    column: Name = ""
    beside: Names = ()
    page: Annotated[int, _whole(1, 10_000_000)] = 1
    words: Literal["", "content"] = ""

    @classmethod
    def of(cls, question: Question, index: str = "") -> "QuestionState":
        """Return the state that shows the answer to a question."""
        return cls(**asdict(question), index=(index,) if index else ())

    @property
    def grouped(self) -> str:
        """Name of the column that sums are by."""
        return self.column if self.by == "column" else self.by

    @property
    def question(self) -> Question:
        """The question without the display options."""
        return Question(**{one.name: getattr(self, one.name) for one in fields(Question)})


def number(value: float) -> str:
    """A number in as few digits as give it back exactly."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


@dataclass(frozen=True)
class MapState(QuestionState):
    """A map of the examples: what it is of, how it is coloured, and which examples stand out."""

    space: Literal["", "hidden", "gradients", "probabilities"] = ""
    colour: Literal["", "label", "predicted", "flag", "source", "system", "format", "influence", "plain"] = ""
    id: Name = ""


@dataclass(frozen=True)
class TableState(PageState):
    """The contents of the table of training examples."""

    index: Name = ""
    q: Name = ""
    how: How = "substring"
    label: Names = ()
    predicted: Names = ()
    source: Names = ()
    system: Names = ()
    format: Names = ()
    role: Literal["", "system", "user", "assistant", "tool"] = ""
    flag: Literal["", "yes", "no"] = ""
    decided: tuple[Literal["keep", "fix", "drop", "none"], ...] = ()
    low: Score = None
    high: Score = None
    area: Annotated[str, AfterValidator(_area)] = ""
    sort: Annotated[Names, AfterValidator(_sort_keys)] = ()
    page: Annotated[int, _whole(1, 10_000_000)] = 1
    size: Annotated[Literal[25, 50, 100, 200], _whole()] = 50

    @property
    def bounds(self) -> tuple[str, str]:
        """The bounds of the label score, as they are written in the form."""
        return "" if self.low is None else number(self.low), "" if self.high is None else number(self.high)

    def chosen(self, facet: str) -> tuple[str, ...]:
        """The chosen values of a facet."""
        values: str | tuple[str, ...] = getattr(self, facet)
        return values if isinstance(values, tuple) else (values,) if values else ()


@dataclass(frozen=True)
class ExampleState(PageState):
    """One object of an index: an example, a job, an action, a page about the index."""

    index: Name = ""
    id: Name = ""


@dataclass(frozen=True)
class ListedState(ExampleState):
    """An example that was opened from a list: the query string of that list."""

    list: Annotated[str, PlainValidator(_string(LONGEST_LIST, "open it from a list with"))] = ""

    @property
    def table(self) -> TableState | None:
        """The list; None if the example was opened without one."""
        return TableState.read(parse_qsl(self.list)) if self.list else None


@dataclass(frozen=True)
class PredictedState(PageState):
    """A test set: which rows are shown, and in which order; classes of a classifier, losses of a language model."""

    index: Name = ""
    set: Name = ""
    given: Names = ()
    predicted: Names = ()
    only: Literal["", "wrong", "right", "unjudged", "trained", "truncated", "unmeasured"] = ""
    low: Score = None
    high: Score = None
    sort: Literal["", "sure", "unsure", "low", "file"] = ""
    page: Annotated[int, _whole(1, 10_000_000)] = 1
    size: Annotated[Literal[25, 50, 100, 200], _whole()] = 50

    def rows(self, **changes: Any) -> str:
        """URL of the rows of a state, below the figures of its page."""
        return f"{self.url('/test', **changes)}#rows"


@dataclass(frozen=True)
class ErrorsState(PageState):
    """What is behind the wrong predictions of a test set."""

    index: Name = ""
    set: Name = ""


@dataclass(frozen=True)
class JobState(ExampleState):
    """A question in progress, and the page that shows its answer."""

    to: Literal["/ask", "/groups"] = "/ask"


def toggled(names: Sequence[str], name: str) -> tuple[str, ...]:
    """Remove a name from names, or add it if it is missing."""
    return tuple(one for one in names if one != name) if name in names else (*names, name)


def _written(name: str) -> str:
    return "in" if name == "index" else name


def _reason(error: ValidationError) -> str:
    """Name the field and what is wrong with its value."""
    first = error.errors()[0]
    name, context = _written(str(first["loc"][0])), first.get("ctx", {})
    if "expected" in context:
        known = str(context["expected"]).replace("'", "").replace(" or ", ", ").strip(", ")
        return f"{name} is {str(first['input'])[:40]!r}: it must be one of {known}"
    return f"{name} {context.get('error', first['msg'])}"
