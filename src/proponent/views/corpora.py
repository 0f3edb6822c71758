"""The page of `proponent unlearn`: influence of whole corpora on test sets."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from rich.console import Console

from proponent.views.evaluation import EvaluationReport, MethodFigures, markdown_cell, markdown_table
from proponent.views.plot import Plot
from proponent.views.tables import print_table


@dataclass(frozen=True, slots=True)
class CorpusTable:
    """Figures of corpora by another method, or the agreement of the methods with the truth."""

    title: Annotated[str, "what the figures are"]
    row_name: Annotated[str, "what a row is: corpus or method"]
    columns: Annotated[tuple[str, ...], "names of the figures"]
    rows: Annotated[tuple[MethodFigures, ...], "figures of each corpus or method"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CorpusReport(EvaluationReport):
    """Influence of whole corpora on test sets, by every method; the main table is UnTrac's."""

    template: ClassVar[str] = "corpora_fragment.html.j2"

    others: Annotated[tuple[CorpusTable, ...], "the same by other methods; agreement with retraining last"] = ()
    plots: Annotated[tuple[Plot, ...], "losses of each test set while corpora are unlearned"] = ()

    @property
    def row_name(self) -> str:
        """Meaning of a row of the table."""
        return "corpus"

    def markdown(self) -> str:
        """The tables as Markdown."""
        # super() needs an explicit base: a dataclass with slots is a new class
        parts = [EvaluationReport.markdown(self)]
        for one in self.others:
            parts.append(f"\n## {markdown_cell(one.title)}\n\n")
            parts.append(markdown_table((one.row_name, *one.columns), one.rows))
        return "".join(parts)


def print_corpora(page: CorpusReport) -> None:
    """Print all tables in the terminal."""
    facts = [f"{name}: {value}" for name, value in page.facts]
    columns, rows = (page.row_name, *page.columns), [_cells(one) for one in page.rows]
    print_table(Console(), page.title, columns, rows, [page.said, *facts, *page.notes])
    for one in page.others:
        print_table(Console(), one.title, (one.row_name, *one.columns), [_cells(row) for row in one.rows], [])


def _cells(row: MethodFigures) -> tuple[str, ...]:
    return (f"{row.method} (control)" if row.control else row.method, *(figure.text for figure in row.figures))
