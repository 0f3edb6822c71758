"""Command that measures how far small models stand in for a large one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from proponent.cli.chat_options import CountingOptions
from proponent.cli.data_options import ColumnOptions
from proponent.cli.named_files import read_named, short_names
from proponent.cli.options import MaxLength, ModelOptions, OutputOptions, PageFiles, RunFolder, listed, usable
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.models import Run
    from proponent.views.comparison import ComparisonReport


@dataclass(frozen=True)
class SetOptions:
    """Training sets that are compared."""

    PANEL: ClassVar = "Training sets"

    sets: Annotated[
        list[str] | None, typer.Option("--sets", metavar="FILE...", help="Training sets, a file each; at least four.")
    ] = None
    tests: Annotated[list[str] | None, typer.Option("--tests", metavar="FILE...", help="Test sets, a file each.")] = (
        None
    )
    alike: Annotated[
        list[str] | None,
        typer.Option(
            "--alike", metavar="NAME...", help="Training sets from one source, which are also compared apart."
        ),
    ] = None
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of each set; by default those of the smallest.")] = (
        None
    )


@dataclass(frozen=True)
class ScoreOptions:
    """Scores that are compared."""

    PANEL: ClassVar = "Scores"

    data: Annotated[str | None, typer.Option("--data", metavar="DATA", help="Training set whose rows are scored.")] = (
        None
    )
    queries: Annotated[str | None, typer.Option(metavar="FILE", help="Queries, which DATA does not hold.")] = None
    methods: Annotated[str, typer.Option(help="Comma-separated method names.")] = "tracin-we"
    points: Annotated[int, typer.Option(min=1, help="Maximum number of queries.")] = 40
    subsets: Annotated[int | None, typer.Option(min=1, help="Number of random halves.")] = None
    select: Annotated[
        int | None, typer.Option(min=1, help="Also train the large model on so many rows that the scores select.")
    ] = None


def transfer(
    large: RunFolder,
    sets: SetOptions,
    scores: ScoreOptions,
    chat: CountingOptions,
    model: ModelOptions,
    columns: ColumnOptions,
    output: OutputOptions,
    small: Annotated[
        list[Path], typer.Option("--small", metavar="RUN...", help="Runs of smaller models with the same task.")
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings with each set or half.")] = 2,
    initial: Annotated[
        str | None, typer.Option(help="Initial weights of all trainings, if the runs do not record them: fresh.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of training processes.")] = 1,
    max_length: MaxLength = None,
    cache: Annotated[Path, typer.Option(help="Cache folder for retrained models; rerunning resumes.")] = Path(
        "proponent-evaluation"
    ),
    pages: PageFiles = None,
) -> None:
    """Measure whether small models stand in for a large one: losses over training sets, scores, selection."""
    for path in pages or ():
        usable(path, "--out")
    by_sets, by_scores = bool(sets.sets or sets.tests), bool(scores.data or scores.queries)
    if by_sets == by_scores:
        raise InputError("give either --sets and --tests (losses), or --data and --queries (scores)")
    if by_sets and not (sets.sets and sets.tests):
        raise InputError("losses are compared over --sets FILE... on --tests FILE...: give both")
    if by_scores and not (scores.data and scores.queries):
        raise InputError("scores are compared on --data DATA and --queries FILE: give both")
    from proponent.views.comparison import print_comparison

    names = short_names([str(path) for path in small])
    runs = dict(zip(names, map(model.open, small), strict=True))
    shared = _Shared(seeds, initial, workers, max_length, cache, chat)
    opened = model.open(large)
    if by_sets:
        page = _losses(opened, runs, sets, columns, shared, output)
    else:
        page = _scores(opened, runs, scores, columns, shared, output)
    for path in pages or ():
        page.save(path)
    output.show(page.to_dict, lambda: print_comparison(page))


@dataclass(frozen=True)
class _Shared:
    """How models are trained again."""

    seeds: int
    initial: str | None
    workers: int
    max_length: int | None
    cache: Path
    chat: CountingOptions


def _losses(
    large: "Run",
    small: "dict[str, Run]",
    sets: SetOptions,
    columns: ColumnOptions,
    shared: _Shared,
    output: OutputOptions,
) -> "ComparisonReport":
    """Compare losses over training sets."""
    found, asked = read_named(sets.sets or [], columns, output), read_named(sets.tests or [], columns, output)
    from proponent.actions.scales import ScaleSettings, compare_scales
    from proponent.evaluate.left_out import LeftOutSettings

    trainings = LeftOutSettings(shared.cache, shared.seeds, shared.initial, shared.workers)
    settings = ScaleSettings(trainings, sets.tokens, tuple(sets.alike or ()), shared.max_length, shared.chat.stated())
    return compare_scales(large, small, found, asked, settings, quiet=output.quiet)


def _scores(
    large: "Run",
    small: "dict[str, Run]",
    scores: ScoreOptions,
    columns: ColumnOptions,
    shared: _Shared,
    output: OutputOptions,
) -> "ComparisonReport":
    """Compare scores of training rows."""
    examples, queries = columns.read(str(scores.data), output), columns.read_queries(str(scores.queries), output)
    from proponent.evaluate.experiment import EvaluationRequest
    from proponent.evaluate.transfer import measure_transfer

    request = EvaluationRequest(
        large,
        examples,
        queries,
        shared.cache,
        methods=listed(scores.methods),
        points=scores.points,
        seeds=shared.seeds,
        subsets=scores.subsets,
        workers=shared.workers,
        initial=shared.initial,
        max_length=shared.max_length,
        quiet=output.quiet,
        say=output.hint,
    )
    return measure_transfer(request, small, scores.select)
