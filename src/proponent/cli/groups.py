"""Option groups: a dataclass parameter expands into its options; help shows one section per group."""

import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, TypeVar, cast, get_args

from typer.core import TyperCommand, TyperGroup

Returned = TypeVar("Returned")


def with_groups(command: Callable[..., Returned]) -> Callable[..., Returned]:
    """Expand a command's dataclass parameters into options; Typer reads the signature built here."""
    declared = inspect.signature(command).parameters
    groups: dict[str, Any] = {name: one.annotation for name, one in declared.items() if is_dataclass(one.annotation)}
    own = [one.replace(kind=one.KEYWORD_ONLY) for name, one in declared.items() if name not in groups]
    parameters = own + [_parameter(field, group.PANEL) for group in groups.values() for field in fields(group)]

    @wraps(command)
    def run(**given: Any) -> Returned:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        return command(**given, **made)

    # typer 0.12 reads the annotations, later versions the signature
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    cast("Any", run).__signature__ = inspect.Signature(parameters)
    return run


def _parameter(field: Any, panel: str) -> inspect.Parameter:
    kind, declared = get_args(field.type)[:2]
    option = copy(declared)
    option.rich_help_panel = panel
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    annotation = cast("Any", Annotated)[kind, option]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


class PanelCommand(TyperCommand):
    """A command whose help has one section per option group; an option `NAME...` takes all words that follow it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words, and repeat the name of an option that takes several of them before each."""
        ctx.meta["proponent.words"] = list(args)
        several = {name for one in self.params if (one.metavar or "").endswith("...") for name in one.opts}
        return super().parse_args(ctx, _repeated(args, several & {word for word in args if word.startswith("--")}))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _repeated(words: list[str], several: set[str]) -> list[str]:
    """`--names a b` as `--names a --names b`."""
    made: list[str] = []
    current = ""
    for place, word in enumerate(words):
        if word.startswith("-"):
            current = word if word in several else ""
        elif current and words[place - 1] != current:
            made.append(current)
        made.append(word)
    return made


class PanelGroup(TyperGroup):
    """The command list, one section per panel."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 # as typer declares it
        """Write the sections."""
        panels: dict[str, list[tuple[str, str]]] = {}
        width = max(map(len, self.commands))
        for name, command in self.commands.items():
            panel = str(getattr(command, "rich_help_panel", ""))
            panels.setdefault(panel, []).append((name.ljust(width), command.help or ""))
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)
