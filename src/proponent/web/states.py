"""Every state of the explorer is a URL: what can be chosen, read from a query string and written back to one.

Reading is strict (an impossible value is an error that names it) and bounded; writing leaves defaults out, so that
equal states have equal URLs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast
from urllib.parse import urlencode

from proponent.errors import InputError

S = TypeVar("S", bound="PageState")
Pairs = Sequence[tuple[str, str]]

LONGEST_TEXT = 8_000
LONGEST_NAME = 4_000
MOST_VALUES = 64
SIZES = (25, 50, 100, 200)
SORTS = ("row", "id", "label", "predicted", "score", "loss", "length", "source")
HOW = ("substring", "word", "regex")
BY = ("label", "source")
MOST_HITS = 50
MOST_INDEXES = 4


@dataclass(frozen=True)
class PageState:
    """What all states share; a field named `index` is written `in`."""

    @classmethod
    def read(cls: "type[S]", pairs: Pairs) -> "S":
        """Read a query string."""
        made: dict[str, Any] = {}
        for one in fields(cls):
            given = [value for name, value in pairs if name == _written(one.name)][: MOST_VALUES + 1]
            if len(given) > MOST_VALUES:
                raise InputError(f"{_written(one.name)} is given more than {MOST_VALUES} times")
            if given:
                made[one.name] = _value(_written(one.name), given, one.default)
        state = cls(**made)
        state.check()
        return state

    def check(self) -> None:
        """Refuse what cannot be."""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Names and values that differ from the defaults, in a fixed order."""
        found: list[tuple[str, str]] = []
        for one in fields(self):
            value: Any = getattr(self, one.name)
            if value == one.default:
                continue
            several = cast("tuple[object, ...]", value if isinstance(value, tuple) else (value,))
            found += [(_written(one.name), f"{part:g}" if isinstance(part, float) else str(part)) for part in several]
        return found

    def url(self, path: str, **changes: Any) -> str:
        """Write the state as a URL."""
        pairs = replace(self, **changes).pairs
        return f"{path}?{urlencode(pairs, errors='surrogatepass')}" if pairs else path


@dataclass(frozen=True)
class QuestionState(PageState):
    """One question, and how its answer is looked at."""

    index: tuple[str, ...] = ()
    text: str = ""
    pair: str = ""
    target: str = ""
    label: str = ""
    against: str = ""
    k: int = 10
    word: str = ""
    by: str = "label"
    beside: tuple[str, ...] = ()
    only_label: tuple[str, ...] = ()
    only_source: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what cannot be."""
        for name in ("text", "pair", "target"):
            size = len(getattr(self, name))
            if size > LONGEST_TEXT:
                raise InputError(f"the {name} has {size:,} characters: ask about at most {LONGEST_TEXT:,}")
        _within("k", self.k, 1, MOST_HITS)
        _one_of("by", self.by, BY)
        if len(self.index) > MOST_INDEXES:
            raise InputError(f"{len(self.index)} indexes are to be compared: choose at most {MOST_INDEXES}")


@dataclass(frozen=True)
class TableState(PageState):
    """What the table of training examples shows."""

    index: str = ""
    q: str = ""
    how: str = "substring"
    label: tuple[str, ...] = ()
    predicted: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    flag: str = ""
    decided: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    sort: tuple[str, ...] = ()
    page: int = 1
    size: int = 50

    def check(self) -> None:
        """Refuse what cannot be."""
        _one_of("how", self.how, HOW)
        _one_of("flag", self.flag, ("", "yes", "no"))
        _one_of("size", self.size, SIZES)
        _within("page", self.page, 1, 10_000_000)
        for one in self.sort:
            _one_of("sort", one.removeprefix("-"), SORTS)
        if len(self.sort) > 3:
            raise InputError("sort by at most three columns")
        for one in self.decided:
            _one_of("decided", one, ("keep", "fix", "drop", "none"))


@dataclass(frozen=True)
class ExampleState(PageState):
    """One thing of one index: an example, a job, a page about the index."""

    index: str = ""
    id: str = ""
    sort: str = "when"


def _written(name: str) -> str:
    return "in" if name == "index" else name


def _value(name: str, given: list[str], default: Any) -> Any:
    if isinstance(default, tuple):
        return tuple(dict.fromkeys(_short(name, one) for one in given if one))
    last = given[-1]
    if default is None:
        return None if last == "" else _number(name, last)
    if isinstance(default, int):
        if not last.isascii() or not last.removeprefix("-").isdecimal() or len(last) > 12:
            raise InputError(f"{name} is {last[:40]!r}: it must be a whole number")
        return int(last)
    return last if name in {"text", "pair", "target"} else _short(name, last)


def _short(name: str, value: str) -> str:
    if len(value) > LONGEST_NAME:
        raise InputError(f"{name} has {len(value):,} characters: at most {LONGEST_NAME:,} are read")
    return value


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not -1e30 < number < 1e30:
        raise InputError(f"{name} is {value[:40]!r}: it must be a number")
    return number


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} is {value}: it must lie between {low} and {high:,}")


def _one_of(name: str, value: object, known: Sequence[object]) -> None:
    if value not in known:
        raise InputError(
            f"{name} is {str(value)[:40]!r}: it must be one of {', '.join(str(one) for one in known if one)}"
        )
