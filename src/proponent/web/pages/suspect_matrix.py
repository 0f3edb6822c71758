"""Where the suspects of the table are: by given and predicted class, each cell a link to its examples."""

from collections.abc import Mapping

import numpy as np

from proponent.actions.decisions import Decision
from proponent.web.pages.confusion import MOST_CELLS, Cell
from proponent.web.states import TableState
from proponent.web.table import ExampleTable

MOST_CLASSES = 12
"""Classes that the matrix has room for above the table; of more, the largest cells are listed."""


def suspects(
    table: ExampleTable, state: TableState, decisions: Mapping[str, Decision]
) -> tuple[tuple[tuple[Cell, ...], ...], tuple[Cell, ...]]:
    """The matrix and no list, or no matrix and the list of its largest cells; neither without suspects."""
    names = table.names
    if names is None or state.flag != "yes":
        return (), ()
    counts = table.crossed(state, decisions)
    totals = counts.sum(axis=1)

    def cell(row: int, at: int) -> Cell:
        given, predicted, count = names[row], names[at], int(counts[row, at])
        here = (state.label, state.predicted) == ((given,), (predicted,))
        chosen = {"label": (), "predicted": ()} if here else {"label": (given,), "predicted": (predicted,)}
        return Cell(
            given=given,
            predicted=predicted,
            count=count,
            right=row == at,
            url=state.url("/table", **chosen, page=1) if count else "",
            here=here,
            share=count / int(totals[row]) if totals[row] else 0.0,
        )

    if not counts.any():
        return (), ()
    if len(names) <= MOST_CLASSES:
        return tuple(tuple(cell(row, at) for at in range(len(names))) for row in range(len(names))), ()
    order = np.argsort(-counts, axis=None, kind="stable")[: min(MOST_CELLS, int((counts > 0).sum()))]
    return (), tuple(cell(*map(int, divmod(one, len(names)))) for one in order)
