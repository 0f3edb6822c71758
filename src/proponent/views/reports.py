"""The report: several explanations on one page, after a list of them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from proponent.views.explanation import Explanation
from proponent.views.page import Page
from proponent.views.text_marks import clip


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report(Page):
    """Explanations of several queries, and a link to each."""

    template: ClassVar[str] = "report_fragment.html.j2"

    title: Annotated[str, "title of the page"]
    answers: Annotated[tuple[Explanation, ...], "the answers, in the order of the questions"]
    index: Annotated[str, "name of the index that was asked"] = ""

    @property
    def headline(self) -> str:
        """Title of the page."""
        return self.title

    @property
    def wrong(self) -> int:
        """Number of predictions that differ from the label of the query."""
        asked = [one.query for one in self.answers if one.query.label is not None]
        return sum(one.predicted != one.label for one in asked)

    def __repr__(self) -> str:
        lines = [f"{len(self.answers):,} answers: {self.title}", *(one.query.text for one in self.answers[:10])]
        left = len(self.answers) - 10
        return "\n  ".join(clip(line, 98) for line in (*lines, *((f"and {left:,} more",) if left > 0 else ())))
