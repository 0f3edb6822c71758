"""Plain tables for the terminal: methods, checks, summaries. Data never reaches the markup parser."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from whence.views.segments import plain

LONGEST_NAME = 24
"""A first column of longer names is wrapped like the others."""


def print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table.

    Args:
        console: where to.
        title: above the table.
        columns: headings; a first column of short names is never wrapped.
        rows: cells as plain text.
    """
    table = Table(title=Text(title, style="bold"), title_justify="left", header_style="bold", expand=False)
    short = max((len(row[0]) for row in rows), default=0) <= LONGEST_NAME
    for place, column in enumerate(columns):
        table.add_column(Text(column), overflow="fold", no_wrap=short and place == 0)
    for row in rows:
        table.add_row(*[Text(plain(cell)) for cell in row])
    console.print(table)
