"""The command-line app: its commands; every error becomes one line and an exit code.

Exit codes: 0 done; 1 a bug or a closed stdout; 2 wrong usage or input; 3 parts that do not match; 4 a damaged index;
74 a full disk; 75 a bucket that cannot be reached now; 130 interrupted.
"""

import io
import os
import sys
import traceback
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

import typer

from proponent.cli import (
    act,
    bias,
    compare,
    create,
    evaluate,
    example_map,
    explain,
    explore,
    labels,
    manage,
    poison,
    probe,
    prune,
    rollback,
    sums,
    transfer,
    unlearn,
    weigh,
)
from proponent.cli.groups import PanelCommand, PanelGroup, with_groups
from proponent.cli.lines import echo
from proponent.disk import is_full
from proponent.errors import DiskFullError, ProponentError
from proponent.plain_text import one_line
from proponent.version import __version__

INTERRUPTED = 130
WIDTH = {"max_content_width": 100}

_RESUMED = "finished work is kept: run the same command to resume"
_AFTERWARDS = {
    "index": _RESUMED,
    "evaluate": _RESUMED,
    "tune": _RESUMED,
    "compare": "nothing was written",
    "transfer": _RESUMED,
    "rollback": _RESUMED,
    "train": "the unfinished run was removed",
    "demo": "run the same command to start again",
    "merge": _RESUMED,
    "poison": "the index is kept: run the same command to resume",
    "mend": "the index is kept: run the same command to resume",
    "unlearn": "trainings of --truth are kept: run the same command to resume",
    "delete": "the index is either unchanged or fully updated: run the same command to resume",
}
"""The state that an interrupted command leaves behind, by command."""

_Refused = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""Raised for every invalid command-line argument; typer takes it from click, or from its own copy of click."""

HELP = "Training-data attribution: find the training examples, and the words in them, that explain an output."

PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Start": (create.demo, create.train, explain.check),
    "Index": (manage.plan, create.index, manage.info, manage.verify, manage.delete, manage.merge),
    "Explain": (explain.explain, sums.groups, explore.report, explore.serve, example_map.map, explain.methods),
    "Clean data": (labels.labels, poison.poison, bias.bias, explore.apply, compare.compare),
    "Act": (act.mend, weigh.weigh, prune.prune, act.spectrum, act.nmtune),
    "Compare": (unlearn.unlearn, transfer.transfer, probe.probe),
    "Prove": (evaluate.evaluate, evaluate.tune, rollback.rollback),
}
"""The commands, in the order and under the headings of the help."""

app = typer.Typer(
    name="proponent",
    help=HELP,
    cls=PanelGroup,
    context_settings=WIDTH,
    add_completion=False,
    rich_markup_mode=None,  # plain text: the boxes of rich leave too little room in 80 columns
    pretty_exceptions_enable=False,
)
for panel, commands in PANELS.items():
    for command in commands:
        app.command(cls=PanelCommand, rich_help_panel=panel, context_settings=WIDTH)(with_groups(command))


def _version(asked: bool) -> bool:
    if asked:
        echo(f"proponent {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; accepted at any position.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """The options of every command."""
    # `main` has removed --debug already and `_version` handles --version: they are declared here for the help


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its exit code."""
    words, debug = _without_debug([_decoded(word) for word in (sys.argv[1:] if arguments is None else arguments)])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode still gets every line
    try:
        returned = command_tree()(words, standalone_mode=False, prog_name="proponent")
        code = returned if isinstance(returned, int) else 0
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # last handler: one line for the user, the traceback on request
        if debug and not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
        code = _code(error, words)
    if code == INTERRUPTED:
        fail("stopped" + _afterwards(words))
    sys.exit(code)


@cache
def command_tree() -> Callable[..., Any]:
    """Make the commands from their functions, once: it takes a tenth of a second."""
    return typer.main.get_command(app)


def fail(message: str) -> None:
    """Write a one-line error message."""
    echo("proponent: " + " ".join(one_line(message).split()), err=True)


def _decoded(word: str) -> str:
    """Decode a command-line word as UTF-8, even if the locale made Python read it as ASCII."""
    try:
        return os.fsencode(word).decode("utf-8")
    except UnicodeError:
        return word


def _without_debug(words: list[str]) -> tuple[list[str], bool]:
    """Remove --debug wherever it stands before a lone --."""
    stop = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:stop] if word != "--debug"]
    return kept + words[stop:], len(kept) < stop


def _code(error: BaseException, words: list[str]) -> int:
    """Report the error and return the exit code."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # Python flushes stdout at exit: redirect it to the null device, so that this raises no second error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1  # like typer, which handles most of these first
    if isinstance(error, _Refused):
        fail(_usage(error))
        return 2
    if isinstance(error, ProponentError):
        fail(str(error))
        return error.exit_code
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        fail("the memory of the device ran out: smaller batches, shorter texts, --dtype bfloat16 or --device cpu help")
        return 2
    if is_full(error):
        fail(f"no space left on the disk: free some{_afterwards(words)}")
        return DiskFullError.exit_code
    if isinstance(error, OSError):
        fail(_named(error))
        return 2
    fail(f"unexpected {type(error).__name__}: {error} (run with --debug for the traceback; please report it)")
    return 1


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    path = "proponent" if context is None else context.command_path
    return f"{error.format_message().rstrip('.')}: run `{path} --help` for the usage"


def _named(error: OSError) -> str:
    return str(error) if error.filename is None else f"cannot access {error.filename}: {error.strerror}"


def _afterwards(words: list[str]) -> str:
    command = next((word for word in words if not word.startswith("-")), "")
    return f"; {_AFTERWARDS[command]}" if command in _AFTERWARDS else ""
