"""Commands that show an index and apply decisions: the explorer, the report, the corrected data set."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proponent.cli.data_options import ColumnOptions
from proponent.cli.explain import HideFunctionWords
from proponent.cli.lines import echo
from proponent.cli.options import (
    Against,
    Baselines,
    Hits,
    IndexFolder,
    IndexOptions,
    OpenOptions,
    OutputOptions,
    TestFile,
    index_folder,
    usable,
)
from proponent.errors import InputError
from proponent.suggest import nearest

if TYPE_CHECKING:
    from proponent.actions.decisions import Decisions
    from proponent.data import Examples
    from proponent.store import Store


def serve(
    indexes: Annotated[
        list[Path], typer.Argument(metavar="INDEX...", parser=index_folder, help="Folders of indexes, or urls of them.")
    ],
    opening: IndexOptions,
    columns: ColumnOptions,
    output: OutputOptions,
    test: TestFile = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 selects a free port.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to bind; another one than localhost can be reached from other machines.")
    ] = "127.0.0.1",
    no_token: Annotated[
        bool,
        typer.Option("--no-token", help="Let in every user of this machine, without the token of the printed address."),
    ] = False,
) -> None:
    """Open the explorer in a browser: explain, browse, compare, decide. Local only; stop with Ctrl-C."""
    from proponent.web.serving import serve as run_server

    if test is None:
        columns.refuse("--test FILE")
    tests = [] if test is None else [columns.read_test_set(test, output)]
    options = vars(opening) | {"run": None if opening.run is None else str(opening.run)}

    def say(address: str) -> None:
        output.show(lambda: {"address": address}, lambda: echo(address))
        output.hint("open this address in a browser; press Ctrl-C to stop")
        if not no_token:
            output.hint("the token in it lets in whoever has it, until this command ends: share it with care")

    run_server(indexes, host=host, port=port, options=options, login=not no_token, tests=tests, say=say)


def report(
    index: IndexFolder,
    queries: Annotated[
        str, typer.Argument(metavar="QUERIES", help="A file of queries, with the columns of a data set.")
    ],
    out: Annotated[Path, typer.Option(help="The page: one HTML file that needs no network; or .json.")],
    opening: OpenOptions,
    columns: ColumnOptions,
    output: OutputOptions,
    against: Against = None,
    k: Hits = 10,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Where do these outputs come from?",
    baselines: Baselines = True,
    hide_function_words: HideFunctionWords = False,
    truth_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of the true classes: shown, and what recurs behind wrong ones."),
    ] = None,
) -> None:
    """Write one self-contained HTML page with explanations of all queries in a file."""
    usable(out, "--out")
    from proponent.api import open as open_index
    from proponent.progress import track
    from proponent.views import Report

    if truth_column is not None and truth_column == columns.label_column:
        columns = replace(columns, label_column="")  # the predicted class is explained, not the true one
    asked = columns.read(queries, output)
    truths = None if truth_column is None else truths_of(asked, truth_column)
    opened = open_index(index, **vars(opening))
    answered = opened.explain_many(asked, against=against, k=k, baselines=baselines)
    answers = tuple(track(answered, total=len(asked), label="explaining", unit="queries", quiet=output.quiet))
    if hide_function_words:
        answers = tuple(one.without_function_words() for one in answers)
    Report(title=title, answers=answers, index=index.name, truths=truths).save(out)
    size = out.stat().st_size
    output.show(
        lambda: {"out": str(out), "answers": len(answers), "bytes": size},
        lambda: echo(f"{out}: {len(answers):,} explanations, {size / 1e6:.1f} MB"),
    )


def truths_of(rows: "Examples", column: str) -> tuple[str | None, ...]:
    """The true classes in a column of the queries."""
    if column not in rows.column_names:
        names = rows.column_names
        raise InputError(f"--truth-column: no column {column!r}{nearest(column, names)}; columns: {', '.join(names)}")
    return tuple(None if one is None or one == "" else str(one) for one in rows.column(column))


def apply(
    index: IndexFolder,
    output: OutputOptions,
    out: Annotated[
        Path | None,
        typer.Option(help="The new data set (.csv, .tsv, .jsonl, .json or .parquet); existing files are not replaced."),
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show what changes, row by row; without --out write nothing.")
    ] = False,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="FILE", help="The data set that the index was built from, if it has moved."),
    ] = None,
    spreadsheet_safe: Annotated[
        bool,
        typer.Option("--spreadsheet-safe", help="CSV: a ' before texts that begin like a formula; not for training."),
    ] = False,
) -> None:
    """Write a corrected data set from the decisions made in the explorer: labels fixed, dropped rows left out."""
    if out is None and not diff:
        raise InputError("nowhere to write to: give --out FILE, or --diff to see what would change")
    if out is not None:
        usable(out, "--out")
    from proponent.actions.corrections import apply as run_apply
    from proponent.actions.decisions import Decisions
    from proponent.store import Store

    store = Store(index)
    decisions = Decisions.of(store)
    if diff:
        _show_diff(store, decisions, output)
    if out is None:
        return
    done = run_apply(store, decisions, out, guard=spreadsheet_safe, data=data or ())
    content = {"out": str(out), "rows": done.rows, "fixed": done.fixed, "dropped": done.dropped, "note": done.note}
    line = f"{out}: {done.rows:,} rows; {done.fixed:,} labels fixed, {done.dropped:,} rows dropped"
    output.show(lambda: content, lambda: echo(line))
    if done.note:
        output.hint(done.note)
    if not decisions.current:
        output.hint(f"no decisions at {decisions.path}: make some with `proponent serve {index}`")
    if decisions.foreign:
        output.hint(f"{decisions.foreign} decisions refer to data that is not in this index")
    if done.guarded:
        output.hint(
            f"{out}: {done.guarded} cells begin like a formula and were prefixed with ' for spreadsheets: train on a "
            "file without --spreadsheet-safe"
        )


def _show_diff(store: "Store", decisions: "Decisions", output: OutputOptions) -> None:
    """Show what a correction changes."""
    from dataclasses import asdict

    from rich.console import Console

    from proponent.actions.correction_diff import correction_diff
    from proponent.views.tables import print_table
    from proponent.views.text_marks import clip

    changes = correction_diff(store, decisions)
    dropped = sum(one.dropped for one in changes)
    title = f"{len(changes) - dropped:,} labels fixed, {dropped:,} rows dropped; every other value stays as it is"
    rows = [
        (f"{one.row:,}", one.before or "-", "dropped" if one.dropped else one.after or "-", clip(one.text, 80))
        for one in changes
    ]
    output.show(
        lambda: {"changes": [asdict(one) for one in changes]},
        lambda: print_table(Console(), title, ("row", "before", "after", "text"), rows),
    )
