"""The confusion matrix of a test set: rows by true and predicted class, each cell a link to its rows."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from proponent.predictions import Predictions
from proponent.web.states import PredictedState

MOST_CLASSES = 24
"""Classes that a confusion matrix has room for; of more, the largest cells are listed."""

MOST_CELLS = 60
"""Cells of a list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Rows with one true and one predicted class."""

    given: Annotated[str, "true class"]
    predicted: Annotated[str, "predicted class"]
    count: Annotated[int, "rows"]
    right: Annotated[bool, "whether the classes are the same"]
    url: Annotated[str, "the rows; empty if there are none"]
    here: Annotated[bool, "whether its rows are shown"]
    share: Annotated[float, "share of the rows of the true class, 0 to 1"]


def _cell(found: Predictions, state: PredictedState, place: tuple[int, int], count: int, of: int) -> Cell:
    given, predicted = (found.names[at] for at in place)
    here = (state.given, state.predicted) == ((given,), (predicted,))
    rows = PredictedState(index=state.index, set=state.set, given=(given,), predicted=(predicted,), size=state.size)
    return Cell(
        given=given,
        predicted=predicted,
        count=count,
        right=place[0] == place[1],
        url=rows.rows() if count else "",
        here=here,
        share=count / of if of else 0.0,
    )


def matrix(found: Predictions, state: PredictedState) -> tuple[tuple[Cell, ...], ...]:
    """All cells, by true class and then by predicted class."""
    counts = found.confusion
    return tuple(
        tuple(_cell(found, state, (row, at), int(count), int(line.sum())) for at, count in enumerate(line))
        for row, line in enumerate(counts)
    )


def largest(found: Predictions, state: PredictedState) -> tuple[Cell, ...]:
    """The largest cells of wrong predictions."""
    counts = found.confusion
    totals = counts.sum(axis=1)
    off = counts * ~np.eye(len(counts), dtype=np.bool_)
    order = np.argsort(-off, axis=None, kind="stable")[:MOST_CELLS]
    places = [divmod(int(at), len(counts)) for at in order if off.flat[at]]
    return tuple(_cell(found, state, place, int(off[place]), int(totals[place[0]])) for place in places)
