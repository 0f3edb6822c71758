"""The page of a comparison: one table of figures beside others of the same shape, and plots."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from rich.console import Console

from proponent.views.evaluation import VERDICT, EvaluationReport, MethodFigures, markdown_cell, markdown_table
from proponent.views.plot import Plot
from proponent.views.tables import print_table


@dataclass(frozen=True, slots=True)
class FigureTable:
    """Figures by another method, or the agreement of the methods with the truth."""

    title: Annotated[str, "what the figures are"]
    row_name: Annotated[str, "what a row is, such as corpus or method"]
    columns: Annotated[tuple[str, ...], "names of the figures"]
    rows: Annotated[tuple[MethodFigures, ...], "figures of each row"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ComparisonReport(EvaluationReport):
    """A table of figures with others beside it."""

    template: ClassVar[str] = "comparison_fragment.html.j2"

    unit: Annotated[str, "what a row of the main table is, such as corpus or model"]
    others: Annotated[tuple[FigureTable, ...], "other tables, in order"] = ()
    plots: Annotated[tuple[Plot, ...], "plots, in order"] = ()

    @property
    def has_verdicts(self) -> bool:
        """Whether any row is compared with controls."""
        return any(one.verdict for one in self.rows)

    @property
    def goes_on(self) -> bool:
        """Whether other tables follow, and the notes after them."""
        return True

    @property
    def row_name(self) -> str:
        """Meaning of a row of the table."""
        return self.unit

    def markdown(self) -> str:
        """The tables as Markdown."""
        # super() needs an explicit base: a dataclass with slots is a new class
        parts = [EvaluationReport.markdown(self)]
        for one in self.others:
            parts.append(f"\n## {markdown_cell(one.title)}\n\n")
            parts.append(markdown_table((one.row_name, *one.columns), one.rows))
        return "".join(parts)


def print_comparison(page: ComparisonReport) -> None:
    """Print all tables in the terminal."""
    facts = [f"{name}: {value}" for name, value in page.facts]
    columns, rows = (page.row_name, *page.columns), [_cells(one) for one in page.rows]
    if page.has_verdicts:
        columns, rows = (*columns, VERDICT), [(*own, one.verdict) for own, one in zip(rows, page.rows, strict=True)]
    print_table(Console(), page.title, columns, rows, [page.said, *facts, *page.notes])
    for one in page.others:
        print_table(Console(), one.title, (one.row_name, *one.columns), [_cells(row) for row in one.rows], [])


def _cells(row: MethodFigures) -> tuple[str, ...]:
    return (f"{row.method} (control)" if row.control else row.method, *(figure.text for figure in row.figures))
