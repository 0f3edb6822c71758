"""The page of an evaluation: figures with intervals, controls, curves with bands; also as Markdown."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from rich.console import Console

from proponent.views.data_frames import data_frame
from proponent.views.page import Page, write
from proponent.views.tables import print_table
from proponent.views.text_marks import clip

VERDICT = "better than the best control?"
PLOT_WIDTH, PLOT_HEIGHT = 520.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 12.0, 12.0, 30.0


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
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """The figures of one method or control."""

    method: Annotated[str, "name of the method or control"]
    control: Annotated[bool, "true for a control, which uses no gradient"]
    figures: Annotated[tuple[Figure, ...], "numbers, in the order of the table's columns"]
    verdict: Annotated[str, "better than the best control: yes, no or within error"] = ""


@dataclass(frozen=True, slots=True)
class Band:
    """One curve with its confidence band."""

    name: Annotated[str, "method, and the side that was deleted"]
    x: Annotated[tuple[float, ...], "places"]
    y: Annotated[tuple[float, ...], "values"]
    low: Annotated[tuple[float, ...], "lower ends of the 95 % intervals"]
    high: Annotated[tuple[float, ...], "upper ends of the 95 % intervals"]


@dataclass(frozen=True, slots=True)
class CurvePath:
    """A curve in drawing coordinates."""

    name: Annotated[str, "name of the curve"]
    line: Annotated[str, "points of the line"]
    area: Annotated[str, "corners of the band"]
    kind: Annotated[int, "number of its look, from 0"]
    end: Annotated[float, "height of its last point"]


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
    def row_name(self) -> str:
        """Meaning of a row of the table."""
        return "layer" if self.metric == "cancellation" else "method"

    @property
    def has_verdicts(self) -> bool:
        """Whether any method is compared with controls."""
        return any(one.verdict or one.control for one in self.rows)

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest value of the plot, zero included."""
        ends = [value for one in self.curves for value in (*one.low, *one.high, *one.y)]
        low, high = min([0.0, *ends]), max([0.0, *ends])
        return (low, high) if high > low else (low - 1.0, high + 1.0)

    @property
    def drawn(self) -> tuple[CurvePath, ...]:
        """The curves in drawing coordinates."""
        return tuple(self._drawn(one, kind) for kind, one in enumerate(self.curves))

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Position and text of the ticks of the vertical axis."""
        low, high = self.span
        return tuple((self._up(value), f"{value:.2f}") for value in sorted({low, 0.0, high}))

    @property
    def places(self) -> tuple[tuple[float, str], ...]:
        """Position and text of the ticks of the horizontal axis."""
        found = sorted({value for one in self.curves for value in one.x})
        return tuple((self._right(value), f"{value:g}") for value in found)

    def markdown(self) -> str:
        """The tables as Markdown."""
        head = [self.row_name, *self.columns, *([VERDICT] if self.has_verdicts else [])]
        lines = [f"# {_cell(self.title)}", "", _cell(self.said), "", _line(head), _line(["---"] * len(head))]
        for one in self.rows:
            verdict = [one.verdict] if self.has_verdicts else []
            lines.append(_line([_name(one), *(figure.text for figure in one.figures), *verdict]))
        lines += ["", *(f"- {_cell(name)}: {_cell(value)}" for name, value in self.facts)]
        lines += [f"- {_cell(note)}" for note in self.notes]
        return "\n".join(lines) + "\n"

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

    def _drawn(self, one: Band, kind: int) -> CurvePath:
        points = [(self._right(x), self._up(y)) for x, y in zip(one.x, one.y, strict=True)]
        above = [(self._right(x), self._up(y)) for x, y in zip(one.x, one.high, strict=True)]
        below = [(self._right(x), self._up(y)) for x, y in zip(one.x, one.low, strict=True)]
        return CurvePath(one.name, _points(points), _points(above + below[::-1]), kind % 6, points[-1][1])

    def _right(self, x: float) -> float:
        found = sorted({value for one in self.curves for value in one.x})
        width = PLOT_WIDTH - _LEFT - _RIGHT
        share = found.index(x) / (len(found) - 1) if len(found) > 1 else 0.5
        return round(_LEFT + width * share, 1)

    def _up(self, y: float) -> float:
        low, high = self.span
        return round(_TOP + (PLOT_HEIGHT - _TOP - _BOTTOM) * (high - y) / (high - low), 1)


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(_cell(one) for one in cells) + " |"


def _cell(text: str) -> str:
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
