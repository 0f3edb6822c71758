"""The command that sums scores over groups of training examples."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from proponent.cli.chat_options import AskingOptions
from proponent.cli.explain import read_stdin
from proponent.cli.options import Against, IndexFolder, OpenOptions, OutputOptions, usable
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.index.group_sums import Sums


def groups(
    index: IndexFolder,
    opening: OpenOptions,
    asking: AskingOptions,
    output: OutputOptions,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The text; - reads stdin.")] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help='"label", "source", "system prompt", "format", or a column of the data (default: what the index has).',
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Class to explain (default: the predicted one).")] = None,
    against: Against = None,
    pair: Annotated[str | None, typer.Option(help="Second text of the pair.")] = None,
    target: Annotated[str | None, typer.Option(help="The completion to explain (language model).")] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="The data set of the index, where it has moved; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the sums: .csv, .jsonl or .parquet.")] = None,
) -> None:
    """Sum the scores of all training examples by label, source, system prompt, format or column."""
    usable(out, "--out")
    if out is not None and out.suffix.lower() not in {".csv", ".jsonl", ".parquet"}:
        raise InputError(f"--out {out}: choose a name that ends in .csv, .jsonl or .parquet")
    messages = asking.read()
    if (text is None) == (messages is None):
        raise InputError("give either a TEXT or (to a language model) --messages FILE")
    given: dict[str, Any] = {"text": _said(text or "")} if messages is None else {"messages": messages}
    given = messages if isinstance(messages, dict) else given
    given |= {name: one for name, one in (("label", label), ("text_pair", pair), ("target", target)) if one is not None}
    how: dict[str, Any] = {"against": against, "span": asking.span, "generate": asking.generate}
    headline, sums = _sums(index, given, how | {"against_target": asking.against_target}, vars(opening), by, data or [])
    output.show(lambda: {"groups": sums}, lambda: _print(headline, sums))
    if out is not None:
        _write(out, sums)
        output.hint(f"sums: {out}")


def _said(text: str) -> str:
    return read_stdin() if text == "-" else text


def _sums(
    index: Path,
    given: dict[str, Any],
    how: dict[str, Any],
    opening: dict[str, Any],
    by: list[str] | None,
    data: list[str],
) -> "tuple[str, Sums]":
    from proponent.actions.group_columns import data_column
    from proponent.api import open as open_index
    from proponent.index.group_columns import group_columns
    from proponent.index.group_sums import answered_scores, group_sums

    opened = open_index(index, **opening)
    known = group_columns(opened.store)
    columns = {name: known[name] if name in known else data_column(opened.store, name, data) for name in by or known}
    answer = opened.explain(None if "messages" in given else given, **_named(given), **how, k=1, baselines=False)
    return answer.headline, group_sums(opened, answered_scores(opened, given, answer, **how), columns)


def _named(given: dict[str, Any]) -> dict[str, Any]:
    """What `explain` takes beside a text: a conversation."""
    return {name: one for name, one in given.items() if "messages" in given and name in {"messages", "target"}}


def _print(headline: str, sums: "Sums") -> None:
    from proponent.views.explanation import CAVEAT
    from proponent.views.tables import print_table
    from proponent.views.text_marks import clip, score_in_words, signed

    for column, rows in sums.items():
        ordered = sorted(rows, key=lambda one: (-(one["proponents"] + one["opponents"]), one["name"]))
        cells = [
            (
                clip(one["name"], 60) or "(none)",
                f"{one['n']:,}",
                score_in_words(one["proponents"] + one["opponents"]),
                signed((one["proponents"] + one["opponents"]) / max(1, one["n"])),
                signed(one["proponents"]),
                signed(one["opponents"]),
            )
            for one in ordered
        ]
        names = (column, "examples", "total", "mean", "helped", "hurt")
        print_table(Console(), f"{headline} Sums by {column}", names, cells)
    Console().print(CAVEAT, style="dim", markup=False, highlight=False)


def _write(out: Path, sums: "Sums") -> None:
    from proponent.data import write_columns

    rows = [{"column": column, **one} for column, some in sums.items() for one in some]
    names = ("column", "name", "n", "proponents", "opponents")
    write_columns(out, {name: [row[name] for row in rows] for name in names}, out.suffix.lower(), guard=True)
