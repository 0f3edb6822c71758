"""One decision about all examples that the table selects."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qsl

import xxhash

from proponent.actions.decisions import Decision
from proponent.errors import InputError
from proponent.web.open_indexes import OpenIndex
from proponent.web.states import LONGEST_LIST, TableState
from proponent.web.table import Selection

MOST_AT_ONCE = 10_000
"""Examples of one decision."""

TOO_MANY = f"More than {MOST_AT_ONCE:,} examples are selected: narrow them down to decide about all at once."

MOST_TARGETS = 5
"""Suggested labels that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOffer:
    """What can be decided about a selection at once."""

    list: Annotated[str, "query string of the selection"]
    seal: Annotated[str, "digest of the examples, their decisions and suggestions"]
    selected: Annotated[int, "examples"]
    fixable: Annotated[int, "examples whose flagged label has a suggestion"]
    targets: Annotated[tuple[tuple[str, int], ...], "suggested labels, most frequent first"]
    decided: Annotated[int, "examples with a decision, which would be replaced"]


def offered(
    shown: OpenIndex, state: TableState, selection: Selection, decisions: Mapping[str, Decision]
) -> BulkOffer | None:
    """The offer for a selection; None for none, for too many, and for the whole table."""
    places, table, query = selection.places, shown.table, state.url("").removeprefix("?")
    if not 0 < len(places) <= MOST_AT_ONCE or len(places) == int(table.alive.sum()) or len(query) > LONGEST_LIST:
        return None
    ids: list[str] = table.whole.values("id", places)
    better = [-1] * len(ids) if table.judged is None else table.judged.suggested[places].tolist()
    held = [decisions.get(one) for one in ids]
    told = [(one, new, made and (made.act, made.label, made.note, made.when)) for one, new, made in zip(
        ids, better, held, strict=True)]  # fmt: skip
    counts = Counter((table.names or ())[one] for one in better if one >= 0)
    return BulkOffer(
        list=query,
        seal=xxhash.xxh3_128_hexdigest(json.dumps(sorted(told, key=lambda one: one[0])).encode()),
        selected=len(places),
        fixable=counts.total(),
        targets=tuple(counts.most_common(MOST_TARGETS)),
        decided=sum(one is not None for one in held),
    )


def decide_selected(shown: OpenIndex, fields: Mapping[str, str]) -> None:
    """Decide about all examples of a selection, as one step that one undo takes back.

    Raises:
        InputError: the selection is no longer the one that was shown, is too large, or has nothing to fix.
    """
    state, act, table = TableState.read(parse_qsl(fields.get("list", ""))), fields.get("act", ""), shown.table
    with table.searching(state):
        places = table.select(state, shown.decisions.current).places
    labels: list[str | None] | None = None
    if act == "fix" and table.judged is not None and table.names is not None:
        places = places[table.judged.suggested[places] >= 0]
        labels = [table.names[at] for at in table.judged.suggested[places].tolist()]
    if act == "fix" and not len(places):
        raise InputError("no example of this selection has a suggested label")

    def still(current: Mapping[str, Decision]) -> bool:
        offer = offered(shown, state, table.select(state, current), current)
        return offer is not None and offer.seal == fields.get("seal")

    note = fields.get("note", "").strip() or None
    shown.decisions.decide(table.whole.values("id", places), act, labels, note, still)


def note_of(decisions: Mapping[str, Decision], identity: str) -> str:
    """The note of a decision; empty without one."""
    return (decisions[identity].note or "") if identity in decisions else ""
