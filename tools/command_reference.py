"""Write docs/reference/commands.md from the commands themselves.

python tools/command_reference.py
"""

from pathlib import Path
from typing import Any

import typer

from proponent.cli.application import HELP, PANELS, app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "commands.md"


def cell(text: object) -> str:
    """Text of a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def row(one: Any, context: Any) -> str:
    """A parameter as the help shows it."""
    said, what = one.get_help_record(context)
    return f"| `{' '.join(said.split())}` | {cell(what)} |"


def section(name: str, command: Any) -> list[str]:
    """One command: its purpose, then a table of its parameters for each heading of its help."""
    context = typer.Context(command, info_name=f"proponent {name}")
    lines = [f"### {name}", "", cell(command.help), "", f"`{command.get_usage(context).removeprefix('Usage: ')}`", ""]
    panels: dict[str, list[Any]] = {}
    for one in command.params:
        if not getattr(one, "hidden", False):
            kind = "Arguments" if one.param_type_name == "argument" else "Options"
            panels.setdefault(getattr(one, "rich_help_panel", None) or kind, []).append(one)
    for panel, some in panels.items():
        lines += [f"| {panel.lower()} | what it does |", "|---|---|", *(row(one, context) for one in some)]
        lines.append("")
    return lines


def page() -> str:
    """The whole page."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    lines = [
        "# Commands", "",
        f"{HELP} Written from the commands by `tools/command_reference.py`. Every command takes `--help`; "
        "results go to stdout, progress and hints to stderr. Exit codes: 0 done, 1 a bug or a closed stdout, 2 wrong "
        "usage or input, 3 parts that do not match, 4 a damaged index, 74 a full disk, 75 a bucket that cannot be "
        "reached now, 130 interrupted.", "",
    ]  # fmt: skip
    for panel, functions in PANELS.items():
        lines += [f"## {panel}", ""]
        for function in functions:
            lines += section(function.__name__, commands[function.__name__])
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
