"""The page of an evaluation: figures with intervals, controls, curves with bands; also as Markdown."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from rich.console import Console

from proponent.views.data_frames import data_frame
from proponent.views.page import Page, write
from proponent.views.plot import Band, Plot
from proponent.views.tables import print_table
from proponent.views.text_marks import clip

VERDICT = "better than the best control?"
_SMALL = 1e-3
"""Below it, three decimals are hardly a number."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its 95 % interval."""

    name: Annotated[str, "what is measured, such as LDS"]
    value: Annotated[float | None, "the number; None when it could not be had"]
    low: Annotated[float | None, "lower end of the 95 % interval; None when unknown"] = None
    high: Annotated[float | None, "upper end of the 95 % interval; None when unknown"] = None

    @property
    def text(self) -> str:
        """The number as displayed text."""
        if self.value is None:
            return "-"
        if self.low is None or self.high is None:
            return _number(self.value)
        return f"{_number(self.value)} [{_number(self.low)}, {_number(self.high)}]"


def _number(value: float) -> str:
    """Three decimals; two digits of a number that would look like 0."""
    return f"{value:.3f}" if value == 0 or abs(value) >= _SMALL else f"{value:.2g}"


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """The figures of one method or control."""

    method: Annotated[str, "name of the method or control"]
    control: Annotated[bool, "true for a control, which uses no gradient"]
    figures: Annotated[tuple[Figure, ...], "numbers, in the order of the table's columns"]
    verdict: Annotated[str, "better than the best control: yes, no or within error"] = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EvaluationReport(Page):
    """The results of `proponent evaluate`."""

    template: ClassVar[str] = "evaluation_fragment.html.j2"

    metric: Annotated[str, "deletion, lds, ndr, mislabel, facts, tailpatch or cancellation"]
    title: Annotated[str, "title of the page"]
    said: Annotated[str, "what the figures mean, in one sentence"]
    columns: Annotated[tuple[str, ...], "names of the figures"]
    rows: Annotated[tuple[MethodFigures, ...], "methods first, then controls"]
    curves: Annotated[tuple[Band, ...], "curves of case deletion"] = ()
    x_name: Annotated[str, "what the curves run over"] = ""
    y_name: Annotated[str, "what the curves show"] = ""
    facts: Annotated[tuple[tuple[str, str], ...], "name and value: retrains, noise, ceiling"] = ()
    notes: Annotated[tuple[str, ...], "what a reader must know"] = ()
    version: Annotated[str, "version of proponent"] = ""

    @property
    def headline(self) -> str:
        """Title of the page."""
        return self.title

    @property
    def goes_on(self) -> bool:
        """Whether other tables follow, and the notes after them."""
        return False

    @property
    def row_name(self) -> str:
        """Meaning of a row of the table."""
        return "layer" if self.metric == "cancellation" else "method"

    @property
    def has_verdicts(self) -> bool:
        """Whether any method is compared with controls."""
        return any(one.verdict or one.control for one in self.rows)

    @property
    def plot(self) -> Plot:
        """The plot of the curves."""
        return Plot(self.curves, self.x_name, self.y_name, "bands are 95 % intervals over queries")

    def markdown(self) -> str:
        """The tables as Markdown."""
        head = (self.row_name, *self.columns, *((VERDICT,) if self.has_verdicts else ()))
        table = markdown_table(head, self.rows, verdicts=self.has_verdicts)
        lines = [f"- {markdown_cell(name)}: {markdown_cell(value)}" for name, value in self.facts]
        lines += [f"- {markdown_cell(note)}" for note in self.notes]
        above = f"# {markdown_cell(self.title)}\n\n{markdown_cell(self.said)}\n\n"
        return above + table + "\n" + "".join(f"{line}\n" for line in lines)

    def save(self, path: str | Path) -> None:
        """Write the page: Markdown for the suffix .md, JSON for .json, otherwise HTML."""
        if Path(path).suffix.lower() == ".md":
            write(Path(path), self.markdown())
        else:
            # super() needs an explicit base: a dataclass with slots is a new class
            Page.save(self, path)

    def to_pandas(self) -> Any:
        """One row per method or control.

        Returns:
            A pandas DataFrame: the method, whether it is a control, each figure with the ends of its interval
            (`accuracy`, `accuracy low`, `accuracy high`; missing numbers are NaN), and the verdict.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        names = dict.fromkeys(one.name for row in self.rows for one in row.figures)
        columns = [end for name in names for end in (name, f"{name} low", f"{name} high")]
        rows: list[list[object]] = []
        for row in self.rows:
            found = {one.name: (one.value, one.low, one.high) for one in row.figures}
            numbers = [end for name in names for end in found.get(name, (None, None, None))]
            rows.append([row.method, row.control, *numbers, row.verdict])
        frame = data_frame(rows, [self.row_name, "control", *columns, "verdict"])
        return frame.astype(dict.fromkeys(columns, "float64"))

    def __repr__(self) -> str:
        rows = [f"{one.method}: {', '.join(figure.text for figure in one.figures)}" for one in self.rows[:12]]
        return "\n  ".join((clip(self.title, 100), *(clip(line, 98) for line in rows)))


def markdown_table(head: Sequence[str], rows: Sequence[MethodFigures], *, verdicts: bool = False) -> str:
    """A table of figures as Markdown."""
    cells = [[_name(one), *(each.text for each in one.figures), *([one.verdict] if verdicts else [])] for one in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "".join(f"| {' | '.join(markdown_cell(cell) for cell in line)} |\n" for line in lines)


def markdown_cell(text: str) -> str:
    """A text that cannot break the table or the page."""
    return re.sub(r"([\\|<>`*])", r"\\\1", " ".join(text.split()))


def print_report(page: EvaluationReport) -> None:
    """Print an evaluation in the terminal."""
    rows = [
        (_name(one), *(figure.text for figure in one.figures), *([one.verdict] if page.has_verdicts else []))
        for one in page.rows
    ]
    columns = (page.row_name, *page.columns, *([VERDICT] if page.has_verdicts else []))
    facts = [f"{name}: {value}" for name, value in page.facts]
    print_table(Console(), page.title, columns, rows, [page.said, *facts, *page.notes])


def print_tuning(page: EvaluationReport) -> None:
    """Print one line per method: the rules side by side and the interval of the best; the page has all intervals."""
    rows: list[tuple[str, ...]] = []
    for one in page.rows:
        *rules, noise = one.figures
        best = max(rules, key=lambda figure: figure.value or 0.0)
        values = [f"{figure.value or 0.0:.3f}" for figure in rules]
        interval, verdict = best.text.partition(" ")[2], one.verdict.partition(" (")[0]
        rows.append((_name(one), *values, interval, noise.text.partition(" ")[0], verdict))
    columns = ("method", "mean", "rank", "vote", "of the best", "NDR@30%", "beats control?")
    facts = [f"{name}: {value}" for name, value in page.facts]
    facts.append("the intervals of every rule and of the gaps to the best control: --json, or --report FILE")
    print_table(Console(), page.title, columns, rows, [page.said, *facts, *page.notes])


def _name(one: MethodFigures) -> str:
    return f"{one.method} (control)" if one.control else one.method
