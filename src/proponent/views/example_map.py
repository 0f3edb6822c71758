"""Context of the page with the map of the training examples."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from proponent.views.page import Page
from proponent.views.scatter import Scatter
from proponent.views.text_marks import clip


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class MapReport(Page):
    """Training examples by the two main directions of their vectors."""

    template: ClassVar[str] = "map_fragment.html.j2"

    plot: Annotated[Scatter, "the map"]
    said: Annotated[str, "what it shows, in words"]
    notes: Annotated[tuple[str, ...], "what a reader must know"] = ()

    @property
    def headline(self) -> str:
        """Title of the page."""
        return "Map of the training examples"

    def __repr__(self) -> str:
        lines = [f"{one.name}: {one.count:,}" for one in self.plot.kinds]
        return "\n  ".join((clip(f"{self.headline}: {self.plot.drawn_words}", 100), *(clip(one, 98) for one in lines)))
