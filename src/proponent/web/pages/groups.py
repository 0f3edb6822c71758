"""Page of the sums of scores by label or source."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from proponent.views.frames import Link, Screen
from proponent.web.layout import Form, file_links, form, method_line
from proponent.web.open_indexes import OpenIndex, OpenIndexes
from proponent.web.pages.ask import find_answer, provenance
from proponent.web.questions import GroupScores, StoredAnswer
from proponent.web.states import QuestionState, TableState

FACETS = {"label": "label", "source": "source", "system prompt": "system", "format": "format"}
"""Columns that are facets of the table, too."""

GROUP_FILES = ("csv", "jsonl", "parquet")
PAGE = 200
"""Values on a page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScreen(Screen):
    """Sums of influence by label or source."""

    template: ClassVar[str] = "explorer/groups.html.j2"

    form: Annotated[Form, "the question"]
    headline: Annotated[str, "what is explained; empty without an answer"]
    by: Annotated[tuple[Link, ...], "columns to sum by"]
    sums: Annotated[tuple[tuple[GroupScores, str], ...], "sums of a value, and the table of its examples or empty"]
    answer: Annotated[str, "URL of the answer"]
    total: Annotated[int, "values of the column"]
    first: Annotated[int, "number of the first value shown, from 1"]
    earlier: Annotated[str, "URL of the page before; empty on the first"]
    later: Annotated[str, "URL of the next page; empty on the last"]
    largest: Annotated[float, "length of a full bar"]


def group_screen(open_indexes: OpenIndexes, shown: OpenIndex, state: QuestionState) -> GroupScreen:
    """Show sums over groups."""
    kept = find_answer(shown, state)
    known = tuple(kept.groups) if kept is not None else ()
    by = state.grouped if state.grouped in known else next(iter(known), "label")
    table = TableState(index=shown.name)
    found = sums(kept, by) if kept is not None else []
    pages = max(1, -(-len(found) // PAGE))
    page = min(state.page, pages)
    start = (page - 1) * PAGE
    return GroupScreen(
        title="Groups",
        warnings=provenance(kept),
        form=form(open_indexes, shown, replace(state, page=1)),
        headline=kept.answer.headline if kept is not None else "",
        by=tuple(Link(one, state.url("/groups", **_by(one), page=1), one == by) for one in known),
        sums=tuple((one, _table(table, by, one.name)) for one in found[start : start + PAGE]),
        total=len(found),
        first=start + 1,
        earlier=state.url("/groups", page=page - 1) if page > 1 else "",
        later=state.url("/groups", page=page + 1) if page < pages else "",
        largest=max((max(one.proponents, -one.opponents) for one in found), default=0.0),
        answer=state.url("/ask", page=1),
        exports=file_links(replace(state, page=1), "groups", GROUP_FILES),
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
