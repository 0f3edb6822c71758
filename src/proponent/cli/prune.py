"""Command that prunes a model by the influence of its channels."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from proponent.cli.chat_options import CountingOptions
from proponent.cli.data_options import DataOptions
from proponent.cli.encoding_options import AllowOverlap, refuse_overlap
from proponent.cli.options import Data, MaxLength, ModelOptions, OutputOptions, PageFiles, RunFolder, choice, usable
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.actions.channel_pruning import PruneSettings


@dataclass(frozen=True)
class PruneOptions:
    """What is removed, and how the rest is fine-tuned."""

    PANEL: ClassVar = "Pruning"

    share: Annotated[float, typer.Option(help="Share of the channels of each layer to remove.")] = 0.5
    channels: Annotated[str, typer.Option(help="feed-forward (channels) or heads (groups of heads).")] = "feed-forward"
    order: Annotated[str, typer.Option(help="Form of the influence: first, square, second or mixed.")] = "first"
    batches: Annotated[int, typer.Option(min=1, help="Batches over which influence is a mean.")] = 30
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a batch.")] = 16
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of ranking, removing and fine-tuning.")] = 3
    steps: Annotated[int, typer.Option(min=0, help="Steps of fine-tuning after each round.")] = 100
    learning_rate: Annotated[float, typer.Option(help="Of the fine-tuning.")] = 1e-4
    seeds: Annotated[int, typer.Option(min=1, help="Orders of the rows.")] = 3
    draws: Annotated[int, typer.Option(min=1, help="Draws of random channels.")] = 5

    def settings(self) -> "PruneSettings":
        """The settings of the action."""
        from proponent.actions.channel_influence import ORDERS
        from proponent.actions.channel_pruning import PruneSettings
        from proponent.models.prunable import FEED_FORWARD, HEADS

        return PruneSettings(
            self.share,
            choice("--channels", self.channels, (FEED_FORWARD, HEADS)),
            choice("--order", self.order, ORDERS),
            self.batches,
            self.batch_size,
            self.rounds,
            self.steps,
            self.learning_rate,
            self.seeds,
            self.draws,
        )


def prune(
    run: RunFolder,
    data: Data,
    pruning: PruneOptions,
    model: ModelOptions,
    chat: CountingOptions,
    columns: DataOptions,
    output: OutputOptions,
    test: Annotated[str, typer.Option(metavar="FILE", help="Rows on which pruned copies are measured.")],
    save: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the pruned copy of the first seed.")
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="File whose first row is a query: its channels shared with --row."),
    ] = None,
    row: Annotated[str | None, typer.Option(metavar="ID", help="Training row that acts on the query.")] = None,
    max_length: MaxLength = None,
    allow_overlap: AllowOverlap = False,
    pages: PageFiles = None,
) -> None:
    """Remove the channels of least influence in rounds with fine-tuning, and measure the copy beside controls."""
    for path in pages or ():
        usable(path, "--out")
    if (query is None) != (row is None):
        raise InputError("--query and --row go together: a query, and the training row that acts on it")
    settings = pruning.settings()
    settings.check()
    examples, asked = columns.read(data, output), columns.read_queries(test, output)
    if not allow_overlap:
        refuse_overlap(examples, {"--test": list(asked)})
    between = None if query is None or row is None else (columns.read_queries(query, output)[0], row)
    from proponent.actions.prune import prune as run_pruning
    from proponent.views.comparison import print_comparison

    page = run_pruning(
        model.open(run),
        examples,
        asked,
        settings,
        save=save,
        max_length=max_length,
        between=between,
        stated=chat.stated(),
        quiet=output.quiet,
    )
    for path in pages or ():
        page.save(path)
    output.show(page.to_dict, lambda: print_comparison(page))
    if save is not None:
        output.hint(f"pruned model: {save}")
