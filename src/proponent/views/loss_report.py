"""A test set of a language model on one page: its loss, the losses of its rows, and the rows that it predicts worst."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from rich.console import Console

from proponent.version import __version__
from proponent.views.histogram import Histogram
from proponent.views.page import Page
from proponent.views.tables import print_table
from proponent.views.text_marks import clip

SHOWN_ROWS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRow:
    """One row with its loss."""

    id: Annotated[str, "id of the row"]
    row: Annotated[int, "0-based row of the source"]
    text: Annotated[str, "its texts"]
    loss: Annotated[float, "mean loss of its tokens, in nats"]
    tokens: Annotated[int, "tokens that count"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LossReport(Page):
    """How well a language model predicts a test set."""

    template: ClassVar[str] = "losses_fragment.html.j2"

    version: Annotated[str, "version that made it"] = field(default=__version__, metadata={"json": "proponent"})
    data: Annotated[str, "name of the test set"]
    rows: Annotated[int, "rows of the test set"]
    measured: Annotated[int, "rows that have a loss"]
    tokens: Annotated[int, "tokens that count, in all rows that have a loss"]
    loss: Annotated[float | None, "mean loss of these tokens, in nats; None without any"]
    perplexity: Annotated[float | None, "exponential of the loss; None if it is too large for a number"]
    truncated: Annotated[int, "rows that are longer than the model reads"]
    trained: Annotated[int, "rows whose texts stand in the training data"]
    losses: Annotated[tuple[float | None, ...], "loss of each row, in nats; None where no token counts"]
    counts: Annotated[tuple[int, ...], "tokens of each row that count"]
    worst: Annotated[tuple[LossRow, ...], "rows of the highest loss, highest first"]

    @property
    def headline(self) -> str:
        """The loss in a sentence."""
        name = clip(self.data, 60)
        if self.loss is None:
            return f"{self.rows:,} rows of {name}: no token counts, so there is no loss"
        perplexity = "" if self.perplexity is None else f", perplexity {self.perplexity:,.4g}"
        return f"loss {self.loss:.4f} per token{perplexity}: {self.tokens:,} tokens of {self.measured:,} rows of {name}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the test set."""
        left = self.rows - self.measured
        lines = [f"{left:,} rows have no token that counts, or no finite loss: they are left out"] if left else []
        if self.truncated:
            lines.append(f"{self.truncated:,} rows are longer than the model reads: the rest of them does not count")
        if self.trained:
            lines.append(
                f"{self.trained:,} rows stand in the training data, too: the model has seen them, and the loss is too "
                "low"
            )
        return tuple(lines)

    @property
    def plot(self) -> Histogram | None:
        """Rows by loss; None without any."""
        from proponent.views.score_counts import histogram

        found = [one for one in self.losses if one is not None]
        return histogram(found, title="Rows by loss", value_name="loss") if found else None

    def __repr__(self) -> str:
        lines = [f"{one.loss:.3f} #{one.id}: {one.text}" for one in self.worst[:SHOWN_ROWS]]
        return "\n  ".join(clip(line, 98) for line in (self.headline, *lines))


def print_losses(report: LossReport, console: Console) -> None:
    """Print a test set: its loss, and the rows of the highest loss."""
    rows = [(one.id, f"{one.loss:.4f}", f"{one.tokens:,}", clip(one.text, 90)) for one in report.worst[:SHOWN_ROWS]]
    print_table(console, report.headline, ("id", "loss", "tokens", "text"), rows, report.notes)
