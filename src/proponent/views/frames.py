"""What stands around every screen of the explorer, and the parts that several screens share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import urlencode


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass(frozen=True, slots=True)
class Link:
    """A way to another state of the explorer."""

    text: str = field(metadata=_help("what it says"))
    url: str = field(metadata=_help("path and query string on this server; never made of data but percent-encoded"))
    here: bool = field(default=False, metadata=_help("whether it is the state that is shown"))
    note: str = field(default="", metadata=_help("a few words more, such as a count"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What stands around every screen."""

    title: str = field(metadata=_help("title of the document"))
    nav: tuple[Link, ...] = field(metadata=_help("the screens"))
    indexes: tuple[Link, ...] = field(metadata=_help("the same screen of every index of this server"))
    token: str = field(metadata=_help("of this run; every form sends it back"))
    back: str = field(metadata=_help("URL of the state that is shown; forms return to it"))
    theme: str = field(metadata=_help('"light", "dark", or "" for the wish of the system'))
    style: str = field(metadata=_help("URL of the style sheet"))
    scripts: tuple[str, ...] = field(metadata=_help("URLs of the scripts"))
    notices: tuple[str, ...] = field(default=(), metadata=_help("what a reader must know before anything else"))
    undo: str = field(default="", metadata=_help("the last decision in words; empty when there is nothing to undo"))
    keys: tuple[tuple[str, str], ...] = field(default=(), metadata=_help("key and what it does"))
    refresh: float = field(default=0.0, metadata=_help("seconds after which the page is asked for again; 0 for never"))


class Screen:
    """What one screen shows."""

    __slots__ = ()
    template: ClassVar[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLinks:
    """Ways out of an answer, and forms for its examples; an answer in a file or a notebook has none."""

    index: str = field(metadata=_help("name of the index"))
    state: tuple[tuple[str, str], ...] = field(metadata=_help("names and values of the state that is shown"))
    token: str = field(metadata=_help("of this run"))
    back: str = field(metadata=_help("URL of the state that is shown"))
    names: tuple[str, ...] = field(metadata=_help("classes that a label may be changed to; none of a language model"))
    decided: Mapping[str, str] = field(metadata=_help("id of an example to its decision in words"))
    word: str = field(default="", metadata=_help("only hits that share this word are shown; empty for all"))

    def example(self, identity: str) -> str:
        """URL of the page of a training example."""
        return _url("/example", [("in", self.index), ("id", identity)])

    def filtered(self, word: str) -> str:
        """URL of this state with only the hits that share a word."""
        kept = [pair for pair in self.state if pair[0] != "word"]
        return _url("/ask", [*kept, ("word", word)] if word else kept)

    def holding(self, word: str) -> str:
        """URL of the table of all training examples with a word."""
        return _url("/table", [("in", self.index), ("q", word), ("how", "word")])

    def decision(self, identity: str) -> str:
        """What was decided about an example."""
        return self.decided.get(identity, "")


def _url(path: str, pairs: list[tuple[str, str]]) -> str:
    return f"{path}?{urlencode(pairs, errors='surrogatepass')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One column by which the training examples that may be found are chosen."""

    name: str = field(metadata=_help("of the field of the state"))
    title: str = field(metadata=_help("what the values are"))
    options: tuple[Link, ...] = field(metadata=_help("values; here: is chosen"))
    total: int = field(metadata=_help("values that the index has"))

    @property
    def chosen(self) -> tuple[str, ...]:
        """The chosen values."""
        return tuple(link.text for link in self.options if link.here)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The form in which a question is asked, as it is filled in."""

    index: str = field(metadata=_help("name of the index"))
    text: str = field(metadata=_help("the text"))
    pair: str = field(metadata=_help("the second text"))
    target: str = field(metadata=_help("the part that counts"))
    label: str = field(metadata=_help("class to explain; empty for the predicted one"))
    against: str = field(metadata=_help("class to compare with; empty for none"))
    k: int = field(metadata=_help("hits on each side"))
    names: tuple[str, ...] = field(metadata=_help("classes; none of a language model"))
    paired: bool = field(metadata=_help("whether the training examples are pairs"))
    others: tuple[Link, ...] = field(default=(), metadata=_help("all indexes, to ask several; here: is asked"))
    only: tuple[Filter, ...] = field(default=(), metadata=_help("which training examples may be found"))

    @property
    def narrowed(self) -> bool:
        """Whether some training examples cannot be found."""
        return any(one.chosen for one in self.only)


@dataclass(frozen=True, slots=True, kw_only=True)
class PastQuestion:
    """A question that was asked before."""

    text: str = field(metadata=_help("the text, or its beginning"))
    label: str = field(metadata=_help("class that was explained; empty for a language model"))
    predicted: str = field(metadata=_help("class that the model predicts; empty for a language model"))
    when: str = field(metadata=_help("date and time, UTC"))
    url: str = field(metadata=_help("where its answer is"))
    only: str = field(default="", metadata=_help("labels and sources that could be found; empty for all"))
