"""Page of the sums of scores by label or source."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from proponent.views.frames import Link, Screen
from proponent.web.layout import Form, file_links, form, method_line
from proponent.web.open_indexes import OpenIndex, OpenIndexes
from proponent.web.pages.ask import find_answer
from proponent.web.questions import GroupScores, StoredAnswer
from proponent.web.states import QuestionState, TableState

FACETS = {"label": "label", "source": "source", "system prompt": "system", "format": "format"}
"""Columns that are facets of the table, too."""

GROUP_FILES = ("csv", "jsonl", "parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScreen(Screen):
    """Sums of influence by label or source."""

    template: ClassVar[str] = "explorer/groups.html.j2"

    form: Annotated[Form, "the question"]
    headline: Annotated[str, "what is explained; empty without an answer"]
    by: Annotated[tuple[Link, ...], "columns to sum by"]
    sums: Annotated[tuple[tuple[GroupScores, str], ...], "sums of a value, and the table of its examples or empty"]
    answer: Annotated[str, "URL of the answer"]

    @property
    def largest(self) -> float:
        """Length of a full bar."""
        return max((max(one.proponents, -one.opponents) for one, _ in self.sums), default=0.0)


def group_screen(open_indexes: OpenIndexes, shown: OpenIndex, state: QuestionState) -> GroupScreen:
    """Show sums over groups."""
    kept = find_answer(shown, state)
    known = tuple(kept.groups) if kept is not None else ()
    by = state.grouped if state.grouped in known else next(iter(known), "label")
    table = TableState(index=shown.name)
    return GroupScreen(
        title="Groups",
        form=form(open_indexes, shown, state),
        headline=kept.answer.headline if kept is not None else "",
        by=tuple(Link(one, state.url("/groups", **_by(one)), one == by) for one in known),
        sums=tuple((one, _table(table, by, one.name)) for one in sums(kept, by)) if kept is not None else (),
        answer=state.url("/ask"),
        exports=file_links(state, "groups", GROUP_FILES),
        method=method_line(shown.plan),
    )


def _by(column: str) -> dict[str, str]:
    """The fields of a state that choose a column."""
    return {"by": column, "column": ""} if column in FACETS else {"by": "column", "column": column}


def _table(table: TableState, by: str, name: str) -> str:
    """The table of the examples with one value; empty for a column that the index does not keep."""
    return table.url("/table", **{FACETS[by]: (name,)}) if by in FACETS and name else ""


def sums(kept: StoredAnswer, by: str) -> list[GroupScores]:
    """The sums over the values of a column, largest total first."""
    return sorted(kept.groups.get(by, ()), key=lambda one: (-one.total, one.name))
