"""Suspect rows of a language model in a terminal."""

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from proponent.views.row_suspects import RowReport, SuspectRow
from proponent.views.text_marks import clip, plain

LONGEST = 240
"""Characters shown of a prompt, of an answer, and of a reason."""


def print_rows(report: RowReport, console: Console, limit: int | None = 20) -> None:
    """Print suspect rows, most suspect first, with what speaks against them."""
    console.print(Text(report.headline, style="bold"))
    head = f"{report.flagged:,} flagged of {report.n_examples:,} training rows; ordered by {report.ranking}"
    console.print(Text(plain(head)))
    counts = ", ".join(f"{name} {count:,}" for name, _, count in report.found)
    console.print(Text(f"flagged by one signal alone: {counts}", style="dim"))
    shown = [row for row in report.rows[:limit] if row.reasons]
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(ratio=1)
    for row in shown:
        grid.add_row(Text(str(row.rank)), _row(row))
    console.print(grid)
    if len(shown) < report.n_examples:
        left = f"showing {len(shown):,} of {report.n_examples:,} rows; those with nothing found are left out"
        console.print(left, style="dim", highlight=False)
    for note in report.notes:
        console.print(Text(plain(note), style="dim"))


def _row(row: SuspectRow) -> RenderableType:
    identity = f"row {row.row}" if row.id == str(row.row) else f"id {clip(row.id, 60)} · row {row.row}"
    head = Text(f"{row.suspicion:.2f}" + (" suspect" if row.flagged else ""), style="bold" if row.flagged else "")
    lines = [head.append(f"  {plain(identity)}", style="not bold dim")]
    lines += [Text(f"- {plain(clip(str(one), LONGEST))}", overflow="fold") for one in row.reasons]
    if row.prompt is not None:
        lines.append(Text("asked: ", style="dim").append(plain(clip(row.prompt, LONGEST)), style="not dim"))
    answer = plain(clip(row.answer, LONGEST)) if row.answer.strip() else "(empty)"
    lines.append(
        Text("answered: " if row.prompt is not None else "text: ", style="dim").append(answer, style="not dim")
    )
    return Padding(Group(*lines), (0, 0, 1, 0))
