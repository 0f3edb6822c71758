"""The command `labels`: suspected label errors of a classifier, suspect rows of a language model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from proponent.cli.data_options import ColumnOptions
from proponent.cli.options import IndexFolder, IndexOptions, OutputOptions, choice, usable
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.store import Store
    from proponent.types import Example
    from proponent.views import LabelReport, RowReport


def labels(
    index: IndexFolder,
    out: Annotated[Path, typer.Option(help="CSV file, of a classifier in the columns of cleanlab's Datalab.")],
    opening: IndexOptions,
    columns: ColumnOptions,
    output: OutputOptions,
    ranking: Annotated[
        str | None,
        typer.Option(
            help="Of a classifier: mean-probability (the default), mean-loss, last-loss, influence or self-influence. "
            "Of a language model: combined (the default), duplicate, contradiction, misplaced, repeated, fault, loss, "
            "self-influence, influence or query-influence."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Number of suspects to print.")] = 20,
    queries: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Good questions and answers: also rank rows by how much they hurt these."),
    ] = None,
) -> None:
    """Rank suspected label errors and suggest fixes; of a language model, rank suspect rows and say why."""
    usable(out, "--out")
    from proponent.store import Store

    store = Store(index, allow_missing=opening.allow_missing)
    if store.coverage < 1:
        output.hint(f"INCOMPLETE: shards are missing; {store.coverage:.0%} of the training examples are ranked")
    if store.plan.label_names is None:
        harm = None if queries is None else _harm(index, columns.read(queries, output), vars(opening))
        report, guarded = _rows(store, ranking or "combined", harm, out, limit, output)
    elif queries is not None:
        raise InputError("--queries is for a language model; `proponent explain --queries FILE --group` sums scores")
    else:
        report, guarded = _labels(store, ranking or "mean-probability", out, limit, output)
    output.hint(f"{out}: {report.n_examples} rows, {report.flagged} flagged")
    if guarded:
        output.hint(f"{out}: {guarded} cells begin like a formula and were prefixed with ' for spreadsheets")


def _labels(
    store: "Store", ranking: str, out: Path, limit: int, output: OutputOptions
) -> "tuple[LabelReport | RowReport, int]":
    """Suspected label errors of a classifier."""
    from proponent.actions.label_errors import RANKINGS, label_errors, write_label_csv
    from proponent.views.terminal import print_labels

    report = label_errors(store, choice("--ranking", ranking, tuple(RANKINGS)))
    guarded = write_label_csv(report, out)
    output.show(report.to_dict, lambda: print_labels(report, Console(), limit))
    return report, guarded


def _rows(
    store: "Store", ranking: str, harm: Any, out: Path, limit: int, output: OutputOptions
) -> "tuple[LabelReport | RowReport, int]":
    """Suspect rows of a language model."""
    from proponent.actions.suspect_rows import ROW_RANKINGS, suspect_rows, write_row_csv
    from proponent.views.row_terminal import print_rows

    report = suspect_rows(store, choice("--ranking", ranking, tuple(ROW_RANKINGS)), harm=harm)
    guarded = write_row_csv(report, out)
    output.show(report.to_dict, lambda: print_rows(report, Console(), limit))
    return report, guarded


def _harm(index: Path, queries: "Sequence[Example]", options: dict[str, Any]) -> Any:
    """How much each training row hurts some queries: minus the sum of its scores."""
    from proponent.api import open as open_index

    return -open_index(index, **options).scores(queries).sum(0)
