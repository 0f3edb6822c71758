"""What the commands say: results on stdout, hints on stderr."""

import json
import sys
from collections.abc import Callable
from typing import Any

import typer


def hint(message: str, *, quiet: bool = False) -> None:
    """Say something that is not a result."""
    if not quiet:
        typer.echo(message, err=True)


def show(as_json: bool, content: Callable[[], Any], draw: Callable[[], object]) -> None:
    """Give a result: one line of JSON, or what people read."""
    if not as_json:
        draw()
        return
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    typer.echo(json.dumps(content(), ensure_ascii=not unicode, allow_nan=False))


def fail(message: str) -> None:
    """Say in one line what went wrong."""
    typer.echo("proponent: " + " ".join(message.split()), err=True)
