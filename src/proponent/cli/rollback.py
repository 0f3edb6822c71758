"""Command that checks Gradient Rollback, and the options of a training that it can be asked about."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from proponent.cli.data_options import ColumnOptions
from proponent.cli.options import Data, ModelOptions, OutputOptions, PageFiles, RunFolder, choice, listed, usable
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.training.one_by_one import OneByOne


@dataclass(frozen=True)
class ChangeOptions:
    """What is recorded of each example's own changes."""

    PANEL: ClassVar = "Gradient Rollback (one example per step)"

    changes: Annotated[
        str | None,
        typer.Option(help="Record what each example changes in these parts: embedding, head. Trains in batches of 1."),
    ] = None
    kept_rows: Annotated[
        str, typer.Option("--kept-rows", help="Rows of the word table: the example's own, or all that moved.")
    ] = "own"
    optimizer: Annotated[str, typer.Option(help="lazy-adam (moves only rows with a gradient), adamw or sgd.")] = (
        "lazy-adam"
    )
    schedule: Annotated[str, typer.Option(help="constant, linear, or exponential (.96 for every 1,000 steps).")] = (
        "constant"
    )
    negatives: Annotated[int, typer.Option(min=0, help="Facts: other tails drawn in each step; 0 for all.")] = 0
    factors: Annotated[int, typer.Option(min=1, help="Width of the models distmult, complex, product and bag.")] = 10

    def how(self, model: str | None) -> "OneByOne | None":
        """The settings; None for a plain training."""
        from proponent.hub import KINDS

        if self.changes is None and model not in KINDS:
            if self != ChangeOptions():
                raise InputError(
                    "--kept-rows, --optimizer, --schedule, --negatives and --factors need --changes, or --model "
                    "distmult, complex, product or bag"
                )
            return None
        from proponent.training.one_by_one import OPTIMIZERS, SCHEDULES, OneByOne

        return OneByOne(
            listed(self.changes or "embedding"),
            choice("--kept-rows", self.kept_rows, ("own", "moved")),
            choice("--optimizer", self.optimizer, OPTIMIZERS),
            choice("--schedule", self.schedule, SCHEDULES),
            self.negatives,
            self.factors,
        )


def rollback(
    run: RunFolder,
    data: Data,
    model: ModelOptions,
    columns: ColumnOptions,
    output: OutputOptions,
    queries: Annotated[str, typer.Option(metavar="FILE", help="Texts to explain, with the columns of DATA.")],
    counts: Annotated[str, typer.Option("-k", help="Rows to delete, such as 1,10,all.")] = "1,10",
    points: Annotated[int | None, typer.Option(min=1, help="Only the first so many queries.")] = None,
    explained: Annotated[str, typer.Option(help="The class that is explained: predicted, or given by FILE.")] = (
        "predicted"
    ),
    neighbours: Annotated[str, typer.Option(help="Which rows are candidates: auto, entity, token or all.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the random neighbours.")] = 0,
    cache: Annotated[Path, typer.Option(help="Folder of retrained models; rerunning resumes.")] = Path(
        "proponent-rollback"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Number of training processes.")] = 1,
    pages: PageFiles = None,
) -> None:
    """Check Gradient Rollback: delete what it names, train again with the same order and draws, and compare."""
    for path in pages or ():
        usable(path, "--out")
    from proponent.dynamics.rollback import NEIGHBOURS
    from proponent.evaluate.rolled_back import ALL, RollbackSettings, check_rollback
    from proponent.views.comparison import print_comparison

    numbers = tuple(ALL if one == "all" else _count(one) for one in listed(counts))
    predicted = choice("--explained", explained, ("predicted", "given")) == "predicted"
    kind = choice("--neighbours", neighbours, NEIGHBOURS)
    examples, asked = columns.read(data, output), columns.read_queries(queries, output)
    chosen = asked if points is None else asked[:points]
    settings = RollbackSettings(cache, numbers, kind, predicted, seed, workers)
    page = check_rollback(model.open(run), examples, chosen, settings, quiet=output.quiet)
    for path in pages or ():
        page.save(path)
    output.show(page.to_dict, lambda: print_comparison(page))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"-k {text!r}: give numbers of rows from 1, or all, separated by commas")
    return int(text)
