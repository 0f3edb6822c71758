"""Output of the commands: results on stdout, hints and errors on stderr."""

import json
import sys
from collections.abc import Callable
from typing import Any

import typer


def hint(message: str) -> None:
    """Write a line that is not a result."""
    typer.echo(message, err=True)


def show(as_json: bool, content: Callable[[], Any], draw: Callable[[], object]) -> None:
    """Write a result: one line of JSON, or what people read."""
    if not as_json:
        draw()
        return
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    typer.echo(json.dumps(content(), ensure_ascii=not unicode, allow_nan=False))


def fail(message: str) -> None:
    """Write one line that says what went wrong."""
    typer.echo("proponent: " + " ".join(message.split()), err=True)
