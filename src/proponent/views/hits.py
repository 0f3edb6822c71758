"""One side of an explanation as a list that shows itself in a notebook."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from proponent.views.hit import Hit
from proponent.views.page import Page
from proponent.views.text_marks import clip, score_in_words


@dataclass(frozen=True, slots=True, kw_only=True)
class HitsPage(Page):
    """The training examples of one side."""

    template: ClassVar[str] = "hits_fragment.html.j2"

    title: Annotated[str, "Helped or Hurt"]
    meaning: Annotated[str, "direction in which they pushed the model"]
    hits: Annotated[tuple[Hit, ...], "strongest first"]
    method: Annotated[str, "name of the method"]
    caveat: Annotated[str, "caution about the meaning of a score"]

    @property
    def headline(self) -> str:
        """Title of the page if it stands alone."""
        return f"{self.title}: {len(self.hits):,} training examples"

    @property
    def side(self) -> str:
        """The class of its colours."""
        return "up" if self.title == "Helped" else "down"

    @property
    def total(self) -> float:
        """What the percentage of a score is of."""
        return math.fsum(abs(hit.score) for hit in self.hits)

    @property
    def longest(self) -> float:
        """Length of a full bar."""
        return max((abs(hit.score) for hit in self.hits), default=0.0)

    @property
    def largest(self) -> float:
        """Strength of a full mark."""
        return max((abs(one.share) for hit in self.hits for one in hit.shown_words), default=0.0)


class Hits(tuple[Hit, ...]):
    """The hits of one side: a tuple that shows itself in a notebook, and prints one line per hit."""

    page: HitsPage

    @classmethod
    def of(cls, hits: Iterable[Hit], title: str, meaning: str, method: str, caveat: str) -> "Hits":
        """Make the list of one side.

        Args:
            hits: strongest first.
            title: Helped or Hurt.
            meaning: direction in which they pushed the model.
            method: name of the method.
            caveat: caution about the meaning of a score.

        Returns:
            The hits.
        """
        made = cls(hits)
        made.page = HitsPage(title=title, meaning=meaning, hits=tuple(made), method=method, caveat=caveat)
        return made

    def _repr_html_(self) -> str:
        """The list for a notebook."""
        return self.page.notebook()

    def __repr__(self) -> str:
        lines = (f"{score_in_words(one.score)} {one.label or ''} #{one.id}: {one.text}" for one in self)
        return "\n".join((self.page.headline, *(clip(line, 100) for line in lines)))
