"""Commands that show an index to people and act on what they decided: the explorer, the report, the new data set."""

from pathlib import Path
from typing import Annotated

import typer

from proponent.cli import options
from proponent.cli.options import IndexFolder, Json, Quiet
from proponent.cli.output import hint, show


def serve(
    indexes: Annotated[list[Path], typer.Argument(metavar="INDEX...", help="Folders of indexes.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to bind; any other than this machine's own asks visitors for a token.")
    ] = "127.0.0.1",
    run: Annotated[Path | None, typer.Option(help="Folder of the run, when it has moved.")] = None,
    allow_missing: options.AllowMissing = False,
    trust_remote_code: options.TrustRemoteCode = False,
    quiet: Quiet = False,
) -> None:
    """Look at indexes in a browser: ask, browse, compare, decide. On this machine only; stop it with Ctrl-C."""
    from proponent.web.serving import serve as run_server

    opened = {
        "run": None if run is None else str(run),
        "allow_missing": allow_missing,
        "trust_remote_code": trust_remote_code,
    }

    def say(address: str) -> None:
        typer.echo(address)
        hint("open this address in a browser; Ctrl-C stops", quiet=quiet)

    run_server(indexes, host=host, port=port, options=opened, say=say)


def report(
    index: IndexFolder,
    queries: Annotated[
        str, typer.Argument(metavar="QUERIES", help="A file of questions, in the columns of a data set.")
    ],
    out: Annotated[Path, typer.Option(help="The page: one HTML file that needs no network; or .json.")],
    against: Annotated[str | None, typer.Option(help="Why the label rather than this one.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits on each side.")] = 10,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Where do these outputs come from?",
    run: Annotated[Path | None, typer.Option(help="Folder of the run, when it has moved.")] = None,
    baselines: Annotated[bool, typer.Option(help="Rank by the baselines too.")] = True,
    partial: Annotated[bool, typer.Option("--partial", help="Ask an unfinished index too.")] = False,
    allow_missing: options.AllowMissing = False,
    trust_remote_code: options.TrustRemoteCode = False,
    split: options.Split = None,
    text_column: options.TextColumn = "text",
    pair_column: options.PairColumn = "text_pair",
    label_column: options.LabelColumn = "label",
    id_column: options.IdColumn = "id",
    target_column: options.TargetColumn = "target",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer a file of questions on one page that opens without a server and without a network."""
    options.usable(out, "--out")
    from proponent.api import open as open_index
    from proponent.progress import track
    from proponent.views import Report

    named = options.columns(text_column, pair_column, label_column, id_column, target_column)
    asked = options.read_data(queries, named, split, quiet=quiet)
    opened = open_index(
        index, run=run, trust_remote_code=trust_remote_code, partial=partial, allow_missing=allow_missing
    )
    answered = opened.explain_many(asked, against=against, k=k, baselines=baselines)
    answers = tuple(track(answered, total=len(asked), label="answering", unit="questions", quiet=quiet))
    Report(title=title, answers=answers, index=index.name).save(out)
    size = out.stat().st_size
    content = {"out": str(out), "answers": len(answers), "bytes": size}
    show(as_json, lambda: content, lambda: typer.echo(f"{out}: {len(answers):,} answers, {size / 1e6:.1f} MB"))


def apply(
    index: IndexFolder,
    out: Annotated[Path, typer.Option(help="The new data set: .csv, .tsv, .jsonl, .json or .parquet; must not exist.")],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="FILE", help="The data set that the index was built from, when it has moved."),
    ] = None,
    spreadsheet_safe: Annotated[
        bool,
        typer.Option("--spreadsheet-safe", help="CSV: a ' before texts that begin like a formula; not for training."),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a new data set from the decisions made in the explorer: labels fixed, dropped rows left out."""
    options.usable(out, "--out")
    from proponent.actions.corrections import apply as run_apply
    from proponent.actions.decisions import Decisions
    from proponent.store import Store

    store = Store(index)
    decisions = Decisions.of(store)
    done = run_apply(store, decisions, out, guard=spreadsheet_safe, data=data or ())
    content = {"out": str(out), "rows": done.rows, "fixed": done.fixed, "dropped": done.dropped, "note": done.note}
    line = f"{out}: {done.rows:,} rows; {done.fixed:,} labels fixed, {done.dropped:,} rows dropped"
    show(as_json, lambda: content, lambda: typer.echo(line))
    if done.note:
        hint(done.note, quiet=quiet)
    if not decisions.current:
        hint(f"no decisions at {decisions.path}: make some with `proponent serve {index}`", quiet=quiet)
    if decisions.foreign:
        hint(f"{decisions.foreign} steps were decided about other data than this index holds", quiet=quiet)
    if done.guarded:
        hint(
            f"{out}: {done.guarded} cells begin like a formula and got a leading ' for spreadsheets: train on a file "
            "without --spreadsheet-safe",
            quiet=quiet,
        )
