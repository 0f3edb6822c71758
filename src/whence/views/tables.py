"""Plain tables for the terminal: methods, checks, summaries. Data never reaches the markup parser."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from whence.views.segments import plain


def print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table.

    Args:
        console: where to.
        title: above the table.
        columns: headings; the first column keeps its words whole.
        rows: cells as plain text.
    """
    table = Table(title=Text(title, style="bold"), title_justify="left", header_style="bold", expand=False)
    for place, column in enumerate(columns):
        table.add_column(Text(column), overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*[Text(plain(cell)) for cell in row])
    console.print(table)
