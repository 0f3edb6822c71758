"""One decision about all examples that the table selects."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qsl

import numpy as np

from proponent.actions.decisions import Decision
from proponent.errors import InputError
from proponent.web.open_indexes import OpenIndex
from proponent.web.states import TableState
from proponent.web.table import Selection

MOST_AT_ONCE = 10_000
"""Examples of one decision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOffer:
    """What can be decided about a selection at once."""

    list: Annotated[str, "query string of the selection"]
    selected: Annotated[int, "examples"]
    fixable: Annotated[int, "examples whose flagged label has a suggestion"]
    decided: Annotated[int, "examples with a decision, which would be replaced"]


def offered(shown: OpenIndex, state: TableState, selection: Selection) -> BulkOffer | None:
    """The offer for a selection; None for none, for too many, and for the whole table."""
    places, counts = selection.places, selection.counts["decided"]
    if not 0 < len(places) <= MOST_AT_ONCE or len(places) == int(shown.table.alive.sum()):
        return None
    undecided = counts["none"] if not state.decided or "none" in state.decided else 0
    return BulkOffer(
        list=state.url("").removeprefix("?"),
        selected=len(places),
        fixable=0 if shown.table.judged is None else int((shown.table.judged.suggested[places] >= 0).sum()),
        decided=len(places) - undecided,
    )


def decide_selected(shown: OpenIndex, fields: Mapping[str, str]) -> None:
    """Decide about all examples of a selection, as one step that one undo takes back.

    Raises:
        InputError: the selection is no longer the one that was shown, is too large, or has nothing to fix.
    """
    state, act = TableState.read(parse_qsl(fields.get("list", ""))), fields.get("act", "")
    with shown.table.searching(state):
        selection = shown.table.select(state, shown.decisions.current)
    offer = offered(shown, state, selection)
    seen = (fields.get("selected"), fields.get("fixable"))
    if offer is None or seen != (str(offer.selected), str(offer.fixable)):
        raise InputError(
            f"the selection has changed since it was shown; it has {len(selection.places):,} examples now (at most "
            f"{MOST_AT_ONCE:,} at once, and not the whole table): look at it again"
        )
    places, table = selection.places, shown.table
    labels: list[str | None] | None = None
    if act == "fix" and table.judged is not None and table.names is not None:
        places = places[table.judged.suggested[places] >= 0]
        labels = [table.names[at] for at in table.judged.suggested[places].tolist()]
    if not len(places):
        raise InputError("no example of this selection has a suggested label")
    shown.decisions.decide(table.whole.values("id", np.asarray(places)), act, labels, fields.get("note", "").strip())


def note_of(decisions: Mapping[str, Decision], identity: str) -> str:
    """The note of a decision; empty without one."""
    return decisions[identity].note if identity in decisions else ""
