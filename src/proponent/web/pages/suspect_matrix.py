"""Where the suspects of the table are: by given and predicted class, each cell a link to its examples."""

from collections import Counter
from collections.abc import Mapping

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
    totals = Counter[int]()
    for (row, _), count in counts.items():
        totals[row] += count

    def cell(row: int, at: int) -> Cell:
        given, predicted, count = names[row], names[at], counts.get((row, at), 0)
        here = (state.label, state.predicted) == ((given,), (predicted,))
        chosen = {"label": (), "predicted": ()} if here else {"label": (given,), "predicted": (predicted,)}
        return Cell(
            given=given,
            predicted=predicted,
            count=count,
            right=row == at,
            url=state.url("/table", **chosen, page=1) if count else "",
            here=here,
            share=count / totals[row] if totals[row] else 0.0,
        )

    if not counts:
        return (), ()
    if len(names) <= MOST_CLASSES:
        return tuple(tuple(cell(row, at) for at in range(len(names))) for row in range(len(names))), ()
    largest = sorted(counts, key=lambda pair: (-counts[pair], pair))[:MOST_CELLS]
    return (), tuple(cell(*pair) for pair in largest)
