"""What the explorer adds to a page: links to its other states, and links of an answer to its examples and filters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import urlencode

from proponent.views.page import Limits


def help_text(text: str) -> dict[str, str]:
    """Metadata of a field: what a template may rely on."""
    return {"help": text}


class Screen:
    """What one screen shows."""

    __slots__ = ()
    template: ClassVar[str]
    limits: ClassVar[Limits] = Limits()


@dataclass(frozen=True, slots=True)
class Link:
    """A link to another state of the explorer."""

    text: str = field(metadata=help_text("what it says"))
    url: str = field(metadata=help_text("path and query string on this server; data in it is percent-encoded"))
    here: bool = field(default=False, metadata=help_text("whether it is the state that is shown"))
    note: str = field(default="", metadata=help_text("a few words more, such as a count"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLinks:
    """Links and forms for the examples of an answer; an answer in a file or a notebook has none."""

    index: str = field(metadata=help_text("name of the index"))
    state: tuple[tuple[str, str], ...] = field(metadata=help_text("names and values of the state that is shown"))
    token: str = field(metadata=help_text("of this run"))
    back: str = field(metadata=help_text("URL of the state that is shown"))
    names: tuple[str, ...] = field(metadata=help_text("classes that a label may be changed to"))
    decided: Mapping[str, str] = field(metadata=help_text("id of an example to its decision in words"))
    word: str = field(default="", metadata=help_text("only hits that share this word are shown; empty for all"))

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
