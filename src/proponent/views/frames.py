"""What the explorer adds to a page: links to its other states, and links of an answer to its examples and filters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar
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

    text: Annotated[str, "what it says"]
    url: Annotated[str, "path and query string on this server; data in it is percent-encoded"]
    here: Annotated[bool, "whether it is the state that is shown"] = False
    note: Annotated[str, "a few words more, such as a count"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLinks:
    """Links and forms for the examples of an answer; an answer in a file or a notebook has none."""

    index: Annotated[str, "name of the index"]
    state: Annotated[tuple[tuple[str, str], ...], "names and values of the state that is shown"]
    token: Annotated[str, "of this run"]
    back: Annotated[str, "URL of the state that is shown"]
    names: Annotated[tuple[str, ...], "classes that a label may be changed to"]
    decided: Annotated[Mapping[str, str], "id of an example to its decision in words"]
    word: Annotated[str, "only hits that share this word are shown; empty for all"] = ""

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
