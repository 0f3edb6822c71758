"""Names and values of one object as a page."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from proponent.views.page import Page


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts(Page):
    """Names and values."""

    template: ClassVar[str] = "facts_fragment.html.j2"

    title: Annotated[str, "what they are about"]
    facts: Annotated[tuple[tuple[str, str], ...], "name and value"]

    @property
    def headline(self) -> str:
        """Title of the page if it stands alone."""
        return self.title
