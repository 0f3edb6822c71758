"""The explorer's additions to a page: links to its other states, and links from an answer to examples and filters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar
from urllib.parse import urlencode

from proponent.views.explanation import CAVEAT
from proponent.views.page import Limits


@dataclass(frozen=True, slots=True)
class Link:
    """A link to another state of the explorer."""

    text: Annotated[str, "what it says"]
    url: Annotated[str, "path and query string on this server; data in it is percent-encoded"]
    here: Annotated[bool, "whether it is the state that is shown"] = False
    note: Annotated[str, "a few words more, such as a count"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLinks:
    """Links and forms for the examples of an answer; empty for an answer in a file or a notebook."""

    index: Annotated[str, "name of the index"]
    state: Annotated[tuple[tuple[str, str], ...], "names and values of the state that is shown"]
    token: Annotated[str, "of this run"]
    back: Annotated[str, "URL of the state that is shown"]
    names: Annotated[tuple[str, ...], "classes that a label may be changed to"]
    decided: Annotated[Mapping[str, str], "id of an example to its decision in words"]
    word: Annotated[str, "only hits that share this word are shown; empty for all"] = ""
    switch: Annotated[str, "URL of the same answer with function words hidden, or shown again"] = ""

    def example(self, identity: str) -> str:
        """URL of the page of a training example."""
        return _url("/example", [("in", self.index), ("id", identity)])

    def filtered(self, word: str) -> str:
        """URL of this state restricted to hits that share a word."""
        kept = [pair for pair in self.state if pair[0] != "word"]
        return _url("/ask", [*kept, ("word", word)] if word else kept)

    def holding(self, word: str) -> str:
        """URL of the table of all training examples that contain a word."""
        return _url("/table", [("in", self.index), ("q", word), ("how", "word")])

    def decision(self, identity: str) -> str:
        """The decision about an example."""
        return self.decided.get(identity, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """The contents of one screen."""

    template: ClassVar[str]
    limits: ClassVar[Limits] = Limits()

    title: Annotated[str, "title of the document"]
    index: Annotated[str, "name of the index"] = ""
    names: Annotated[tuple[str, ...], "classes; none of a language model"] = ()
    refresh: Annotated[float, "seconds after which the page reloads; 0 for never"] = 0.0
    answer_links: Annotated[AnswerLinks | None, "links of the answer to its examples; None without an answer"] = None
    exports: Annotated[tuple[Link, ...], "files of what is shown"] = ()
    caveat: Annotated[str, "caution about the meaning of a score"] = CAVEAT
    warnings: Annotated[tuple[str, ...], "what a reader must know of this page before anything else"] = ()
    method: Annotated[str, "method, checkpoints and learning rates in one line"] = ""


def _url(path: str, pairs: list[tuple[str, str]]) -> str:
    return f"{path}?{urlencode(pairs, errors='surrogatepass')}"
