"""The columns of a file of the table: what its pages show of each example, read while the file is written."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from jaxtyping import Int

from proponent.actions.decisions import Decision
from proponent.data import named
from proponent.web.slots import PAGES_AT_WORK
from proponent.web.table import DECIDED, ExampleTable

BLOCK = 512
"""Rows of a file that are written between two pauses."""

FileColumns = dict[str, Sequence[Any]]


class Polite(Sequence[Any]):
    """A column whose blocks wait while pages are being built."""

    def __init__(self, column: Sequence[Any]) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._column[index]

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), BLOCK):
            PAGES_AT_WORK.let_go_first()
            yield from self._column[start : start + BLOCK]


def columns_of(table: ExampleTable, places: Int[np.ndarray, " m"], decisions: Mapping[str, Decision]) -> FileColumns:
    """The columns of some examples, in their order; texts stay in Arrow memory."""
    whole = table.whole
    made: FileColumns = {"id": Polite(whole.chosen("id", places))}
    made |= {name: whole.chosen(name, places) for name in ("row", "text")}
    if whole.has("text_pair") or whole.has("target"):
        made["second"] = whole.chosen_second(places)
    judged, names = table.judged, table.names
    if judged is not None and names is not None:
        made["given_label"] = whole.chosen("label", places)
        made["predicted_label"] = named(judged.likeliest[places], names)
        made["suggested_label"] = named(judged.suggested[places], names)
        made["is_label_issue"] = judged.flagged[places].tolist()
        made["label_score"] = judged.quality[places].tolist()
    made["loss"] = table.losses[-1, places].tolist()
    if whole.has("source"):
        made["source"] = whole.chosen("source", places)
    made["decision"] = named(table.decided(decisions)[places], [*DECIDED, ""])
    labels = {whole.numbers.get(identity): one.label for identity, one in decisions.items()}
    made["new_label"] = [labels.get(place) for place in places.tolist()]
    notes = {whole.numbers.get(identity): one.note for identity, one in decisions.items() if one.note}
    if notes:
        made["note"] = [notes.get(place, "") for place in places.tolist()]
    return made
