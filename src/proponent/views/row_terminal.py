"""Suspect rows of a language model in a terminal."""

from rich.console import Console, Group
from rich.text import Text

from proponent.views.row_suspects import RowReason, RowReport, SuspectRow
from proponent.views.tables import table
from proponent.views.text_marks import clip, plain

LONGEST = 160
"""Characters shown of a prompt and of an answer."""


def print_rows(report: RowReport, console: Console, limit: int | None = 20) -> None:
    """Print suspect rows, most suspect first, with what speaks against them."""
    console.print(Text(report.headline, style="bold"))
    head = f"{report.flagged:,} flagged of {report.n_examples:,} training rows; ordered by {report.ranking}"
    console.print(Text(plain(head)))
    counts = ", ".join(f"{name} {count:,}" for name, _, count in report.found)
    console.print(Text(f"flagged by one signal alone: {counts}", style="dim"))
    shown = [row for row in report.rows[:limit] if row.reasons]
    made = table("", "suspicion", "why", "row")
    made.columns[0].no_wrap = True
    for row in shown:
        score = Text(f"{row.suspicion:.2f}" + ("\nsuspect" if row.flagged else ""))
        made.add_row(str(row.rank), score, _why(row.reasons), _texts(row))
    console.print(made)
    if len(shown) < report.n_examples:
        left = f"showing {len(shown):,} of {report.n_examples:,}; rows with nothing found are left out"
        console.print(left, style="dim", highlight=False)
    for note in report.notes:
        console.print(Text(plain(note), style="dim"))


def _why(reasons: tuple[RowReason, ...]) -> Text:
    return Text("\n".join(plain(clip(str(one), 200)) for one in reasons[:3]))


def _texts(row: SuspectRow) -> Group:
    identity = f"row {row.row}" if row.id == str(row.row) else f"id {clip(row.id, 60)} · row {row.row}"
    parts = [] if row.prompt is None else [Text(plain(clip(row.prompt, LONGEST)))]
    answer = (
        Text(plain(clip(row.answer, LONGEST)), style="bold") if row.answer.strip() else Text("(empty)", style="dim")
    )
    return Group(*parts, answer, Text(plain(identity), style="dim"))
