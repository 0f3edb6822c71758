"""Command that finds words that give the label away, removes them by example weights, and tests a model."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer
from rich.console import Console

from proponent.cli.data_options import DataOptions
from proponent.cli.options import Data, ModelOptions, OutputOptions, index_folder, listed, usable
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.data import Examples
    from proponent.index import Index


@dataclass(frozen=True)
class TestOptions:
    """How a run is tested, and which answers are judged."""

    PANEL: ClassVar = "Run and answers"

    strong: Annotated[int, typer.Option("--strongest", min=1, help="Strongest words per label in the test.")] = 50
    draws: Annotated[int, typer.Option(min=19, help="Permutations of the test.")] = 1000
    seed: Annotated[int, typer.Option(min=0, help="Seed of shuffled labels and permutations.")] = 0
    index: Annotated[
        Path | None,
        typer.Option(metavar="INDEX", parser=index_folder, help="With --queries: rank words by use in these answers."),
    ] = None
    queries: Annotated[
        str | None, typer.Option(metavar="FILE", help="Queries to explain with --index, in the columns of DATA.")
    ] = None
    k: Annotated[int, typer.Option("-k", min=1, help="Proponents and opponents of each answer that count.")] = 10

    def check(self) -> None:
        """Refuse one of two options that belong together."""
        if (self.index is None) != (self.queries is None):
            raise InputError(
                "--index and --queries belong together: the words of the answers to the queries are ranked"
            )


def bias(
    data: Data,
    columns: DataOptions,
    model: ModelOptions,
    testing: TestOptions,
    output: OutputOptions,
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="A run trained on DATA: test whether it leans on the words (--heldout)."),
    ] = None,
    heldout: Annotated[
        str | None, typer.Option(metavar="FILE", help="Data that nothing was trained on, in the columns of DATA.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write a copy of DATA with the weights as a column (.csv, .tsv, .jsonl, .json, .parquet)."),
    ] = None,
    weight_name: Annotated[str, typer.Option(help="Name of that column.")] = "weight",
    words_in: Annotated[
        str | None, typer.Option(metavar="A,B", help="Columns whose words are counted (default: the texts).")
    ] = None,
    min_count: Annotated[int, typer.Option(min=1, help="Least rows that hold a counted word.")] = 20,
    beta: Annotated[float, typer.Option(min=0.0, help="Penalty of uneven weights.")] = 1e-3,
    limit: Annotated[int, typer.Option(min=0, help="Words to print.")] = 20,
    page: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Also write .html or .json.")] = None,
) -> None:
    """Find words that give the label away, fit weights that remove them, and test whether a model leans on them."""
    usable(out, "--out")
    usable(page, "--report")
    testing.check()
    if run is not None and heldout is None:
        raise InputError(f"the test of {run} needs data that it was not trained on: give --heldout FILE")
    examples = columns.read(data, output)
    _check_target(examples, out, weight_name)
    other = None if heldout is None else columns.read_queries(heldout, output)
    asked = None if testing.queries is None else columns.read_queries(testing.queries, output)
    from proponent.actions.lexical_bias import Weighting, lexical_bias, write_weighted
    from proponent.views.bias import print_bias

    found = lexical_bias(
        examples,
        None if run is None else model.open(run),
        other,
        index=None if testing.index is None else _opened(testing.index),
        queries=asked,
        columns=None if words_in is None else listed(words_in),
        min_count=min_count,
        weighting=Weighting(beta=beta),
        most=testing.strong,
        draws=testing.draws,
        k=testing.k,
        seed=testing.seed,
        quiet=output.quiet,
    )
    if out is not None:
        write_weighted(examples, found.weights, out, weight_name)
    if page is not None:
        found.report.save(page)
    output.show(found.report.to_dict, lambda: print_bias(found.report, Console(), limit))
    if out is not None:
        output.hint(f"{out}: to train on it, `proponent train {shlex.quote(str(out))} --weight-column {weight_name}`")


def _check_target(examples: "Examples", out: Path | None, name: str) -> None:
    """Refuse a file or column that cannot be written, before any work is done."""
    if out is not None:
        from proponent.actions.lexical_bias import refuse_target

        refuse_target(examples, out, name)


def _opened(index: Path) -> "Index":
    from proponent.api import open as open_index

    return open_index(index)
