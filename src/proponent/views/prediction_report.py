"""A test set on one page: accuracy, confusion matrix, wrong predictions, and what is behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from rich.console import Console
from rich.text import Text

from proponent.version import __version__
from proponent.views.distribution import Distribution
from proponent.views.error_report import ErrorReport
from proponent.views.page import Page
from proponent.views.tables import print_table
from proponent.views.text_marks import clip, percent, plain, signed

SHOWN_ROWS = 10
MOST_CLASSES = 12
"""Classes of a confusion matrix in a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongRow:
    """A row that is predicted wrongly."""

    id: Annotated[str, "id of the row"]
    row: Annotated[int, "0-based row of the source"]
    text: Annotated[str, "the text, or the first text of a pair"]
    given: Annotated[str, "true class"]
    predicted: Annotated[str, "predicted class"]
    chance: Annotated[float, "probability of the predicted class, 0 to 1"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PredictionReport(Page):
    """What a classifier predicts for a test set."""

    template: ClassVar[str] = "predictions_fragment.html.j2"

    version: Annotated[str, "version that made it"] = field(default=__version__, metadata={"json": "proponent"})
    data: Annotated[str, "name of the test set"]
    rows: Annotated[int, "rows of the test set"]
    judged: Annotated[int, "rows whose label is a class of the model"]
    unlabelled: Annotated[int, "rows without a label"]
    unknown: Annotated[Mapping[str, int], "labels that are no class of the model, and their rows"]
    trained: Annotated[int, "rows whose texts stand in the training data"]
    accuracy: Annotated[float | None, "share of the judged rows that are predicted rightly; None without any"]
    classes: Annotated[tuple[str, ...], "classes of the model"]
    confusion: Annotated[tuple[tuple[int, ...], ...], "judged rows by true class, then by predicted class"]
    predicted: Annotated[tuple[str, ...], "predicted class of each row"]
    chances: Annotated[tuple[float, ...], "probability of that class, 0 to 1"]
    wrong: Annotated[tuple[WrongRow, ...], "wrong predictions, in data order"]
    errors: Annotated[ErrorReport | None, "what is behind the wrong predictions"] = None

    @property
    def headline(self) -> str:
        """Accuracy in a sentence."""
        name = clip(self.data, 60)
        if self.accuracy is None:
            return f"{self.rows:,} rows of {name} are predicted, none can be judged"
        return f"{self.accuracy:.1%} of {self.judged:,} rows of {name} are predicted rightly"

    @property
    def distribution(self) -> Distribution:
        """The judged rows by true and by predicted class."""
        columns = zip(*self.confusion, strict=True) if self.confusion else ()
        given = dict(zip(self.classes, map(sum, self.confusion), strict=False))
        return Distribution.of(given, dict(zip(self.classes, map(sum, columns), strict=False)))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the test set."""
        lines: list[str] = []
        if self.unlabelled:
            lines.append(f"{self.unlabelled:,} rows have no label: they are predicted only")
        if self.unknown:
            named = ", ".join(f"{clip(name, 40)} ({count:,})" for name, count in [*self.unknown.items()][:12])
            lines.append(
                f"{sum(self.unknown.values()):,} rows have a label that is no class of the model, and are not judged: "
                f"{named}"
            )
        if self.trained:
            lines.append(
                f"{self.trained:,} rows stand in the training data, too: the model has seen them, and the accuracy is "
                "too high"
            )
        return tuple(lines)

    def __repr__(self) -> str:
        lines = [f"{one.predicted} instead of {one.given} #{one.id}: {one.text}" for one in self.wrong[:SHOWN_ROWS]]
        return "\n  ".join(clip(line, 98) for line in (self.headline, *lines))


def print_predictions(report: PredictionReport, console: Console) -> None:
    """Print a test set: the confusion matrix, wrong predictions, and what is behind them."""
    few = len(report.classes) <= MOST_CLASSES and report.judged
    lines = [(name, *map(str, line)) for name, line in zip(report.classes, report.confusion, strict=True)]
    _print(console, report.headline, ("given / predicted", *report.classes), lines if few else (), report.notes)
    if report.wrong:
        rows = [
            (one.id, one.given, one.predicted, percent(one.chance), clip(one.text, 80))
            for one in report.wrong[:SHOWN_ROWS]
        ]
        title = f"{len(report.wrong):,} wrong predictions"
        title += f", the first {SHOWN_ROWS}" if len(report.wrong) > SHOWN_ROWS else ""
        print_table(console, title, ("id", "given", "predicted", "sure", "text"), rows)
    if report.errors is not None:
        print_errors(report.errors, console)


def print_errors(report: ErrorReport, console: Console) -> None:
    """Print what recurs behind wrong predictions."""
    rows = [
        (f"{one.errors:,}", one.id, one.label or "-", one.mostly, signed(one.total), clip(one.text, 60))
        for one in report.examples
    ]
    words = ", ".join(f"{one.word} ({one.errors:,})" for one in report.words)
    sums = [
        f"sums by {name}: " + ", ".join(f"{one.name or '(none)'} {signed(one.total)}" for one in some[:8])
        for name, some in report.sums.items()
    ]
    notes = [*([f"words: {words}"] if words else []), *sums, *report.notes, report.caveat]
    _print(console, report.headline, ("errors", "id", "given", "mostly", "sum", "text"), rows, notes)


def _print(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]
) -> None:
    """Print a table, or its title alone if it is empty."""
    if rows:
        print_table(console, title, columns, rows, notes)
        return
    console.print(Text(plain(title), style="bold"))
    for note in notes:
        console.print(Text(plain(note), style="dim"))
