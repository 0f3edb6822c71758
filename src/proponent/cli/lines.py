"""Lines on the terminal: data in them is text, never a command of the terminal."""

import json
from typing import Any

import typer

from proponent.plain_text import visible
from proponent.shown_places import as_shown
from proponent.views.text_marks import escaped


def echo(text: str, *, err: bool = False) -> None:
    """Write lines; invisible and control characters become glyphs."""
    typer.echo(visible(as_shown(text)), err=err)


def echo_json(content: Any, *, ascii_only: bool) -> None:
    """Write one line of JSON; invisible and control characters are escaped, which changes no value."""
    typer.echo(escaped(as_shown(json.dumps(content, ensure_ascii=ascii_only, allow_nan=False))))
