"""Plain tables for the terminal: methods, checks, suspects. Data never reaches the markup parser."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proponent.views.text_marks import plain

LONGEST_NAME = 24
"""A first column with longer names is wrapped like the others."""


def table(*names: str) -> Table:
    """Create a table: headings and one rule, no frame."""
    made = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for name in names:
        made.add_column(Text(plain(name)), overflow="fold")
    return made


def print_table(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
) -> None:
    """Print a table."""
    made = table(*columns)
    made.columns[0].no_wrap = max((len(row[0]) for row in rows), default=0) <= LONGEST_NAME
    for row in rows:
        made.add_row(*[Text(plain(cell)) for cell in row])
    console.print(Text(plain(title), style="bold"))
    console.print(made)
    for note in notes:
        console.print(Text(plain(note), style="dim"))
