"""Context of the page of suspect rows of a language model."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from proponent.views.data_frames import frame_of_columns
from proponent.views.histogram import Histogram
from proponent.views.page import Page
from proponent.views.text_marks import clip


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReason:
    """Why one row is suspect, with its evidence."""

    signal: Annotated[str, "name of the signal"]
    strength: Annotated[float, "0 to 1: how much of this signal the row shows"]
    says: Annotated[str, "what was found, in words"]
    other: Annotated[str | None, "id of the other row that it is about; None where it is about no other"] = None
    words: Annotated[tuple[str, ...], "words that show it"] = ()

    def __str__(self) -> str:
        other = "" if self.other is None else f" (id {clip(self.other, 40)})"
        words = f": {', '.join(self.words)}" if self.words else ""
        return f"{self.signal}: {self.says}{other}{words}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectRow:
    """One training row of a language model that may be poisoned, repeated or wrong."""

    rank: Annotated[int, "1 is the most suspect"]
    id: Annotated[str, "id of the training example"]
    row: Annotated[int, "0-based row of the source"]
    prompt: Annotated[str | None, "what it asks; None for a text without a prompt"]
    answer: Annotated[str, "what it answers, or the text"]
    suspicion: Annotated[float, "0 to 1, of all signals; of another ranking, the strength of that signal"]
    flagged: Annotated[bool, "whether the row is flagged as suspect"]
    reasons: Annotated[tuple[RowReason, ...], "what speaks against it, strongest first"]
    loss: Annotated[
        float | None,
        "mean loss of a counted token, or of a pair of answers, over the checkpoints, in nats; None without one",
    ]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RowReport(Page):
    """Training rows of a language model that may be poisoned, repeated or wrong, most suspect first."""

    template: ClassVar[str] = "suspect_rows_fragment.html.j2"

    ranking: Annotated[str, "name of the ranking that ordered them"]
    n_examples: Annotated[int, "training examples that were ranked"]
    rows: Annotated[tuple[SuspectRow, ...], "all rows, most suspect first"]
    found: Annotated[tuple[tuple[str, str, int], ...], "signal, what it is, and the number of rows flagged by it"]
    notes: Annotated[tuple[str, ...], "what a reader must know about this ranking"] = ()

    @property
    def headline(self) -> str:
        """Title of the page."""
        return "Suspect rows"

    @property
    def flagged(self) -> int:
        """Number of rows flagged as suspect."""
        return sum(row.flagged for row in self.rows)

    @property
    def scores(self) -> Histogram | None:
        """Rows by suspicion; None without rows."""
        from proponent.views.score_counts import flagged_scores

        flags = [row.flagged for row in self.rows]
        return flagged_scores([row.suspicion for row in self.rows], flags, "suspicion", low=False)

    def to_pandas(self) -> Any:
        """One row per training example, most suspect first.

        Returns:
            A pandas DataFrame: rank, id, row, flagged, suspicion, loss, reasons (in words), prompt, answer.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        names = ("rank", "id", "row", "flagged", "suspicion", "loss")
        columns = {name: [getattr(one, name) for one in self.rows] for name in names}
        columns["reasons"] = ["; ".join(map(str, one.reasons)) for one in self.rows]
        columns |= {name: [getattr(one, name) for one in self.rows] for name in ("prompt", "answer")}
        return frame_of_columns(columns)

    def __repr__(self) -> str:
        head = f"{self.flagged:,} of {self.n_examples:,} rows flagged (ranking: {self.ranking})"
        rows = [
            f"{row.rank}. #{clip(row.id, 12)} {row.suspicion:.2f} {row.reasons[0] if row.reasons else 'nothing found'}"
            for row in self.rows[:5]
        ]
        return "\n  ".join((clip(head, 100), *(clip(line, 98) for line in rows)))
