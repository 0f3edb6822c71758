"""The columns of a file of the table: what its pages show of each example, read while the file is written."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from proponent.actions.decisions import Decision
from proponent.data import Column, named, numbers
from proponent.web.slots import PAGES_AT_WORK
from proponent.web.table import DECIDED, ExampleTable

BLOCK = 512
"""Rows of a file that are written between two pauses."""

FileColumns = dict[str, Sequence[Any]]


class Polite(Column):
    """A column whose blocks wait while pages are being built."""

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), BLOCK):
            PAGES_AT_WORK.let_go_first()
            yield from self[start : start + BLOCK]


def columns_of(table: ExampleTable, places: Int[np.ndarray, " m"], decisions: Mapping[str, Decision]) -> FileColumns:
    """The columns of some examples, in their order; all but labels and notes of decisions in Arrow memory."""
    whole = table.whole
    made: FileColumns = {"id": Polite(whole.column("id"), places)}
    made |= {name: whole.chosen(name, places) for name in ("row", "text")}
    if whole.has("text_pair") or whole.has("target"):
        made["second"] = whole.chosen_second(places)
    judged, names = table.judged, table.names
    if judged is not None and names is not None:
        made["given_label"] = whole.chosen("label", places)
        made["predicted_label"] = named(judged.likeliest[places], names)
        made["suggested_label"] = named(judged.suggested[places], names)
        made["is_label_issue"] = numbers(judged.flagged[places])
        made["label_score"] = numbers(judged.quality[places].astype(np.float64))
    made["loss"] = numbers(table.losses[-1, places].astype(np.float64))
    if whole.has("source"):
        made["source"] = whole.chosen("source", places)
    made["decision"] = named(table.decided(decisions)[places], [*DECIDED, ""])
    labels = {whole.numbers.get(identity): one.label for identity, one in decisions.items()}
    made["new_label"] = [labels.get(place) for place in places.tolist()]
    notes = {whole.numbers.get(identity): one.note for identity, one in decisions.items() if one.note}
    if notes:
        made["note"] = [notes.get(place, "") for place in places.tolist()]
    return made
