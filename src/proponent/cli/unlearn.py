"""Command that measures the influence of whole corpora by unlearning."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from proponent.cli.chat_options import CountingOptions
from proponent.cli.data_options import ColumnOptions
from proponent.cli.named_files import read_named
from proponent.cli.options import (
    MaxLength,
    ModelOptions,
    OutputOptions,
    PageFiles,
    RunFolder,
    choice,
    index_folder,
    usable,
)

if TYPE_CHECKING:
    from proponent.actions.corpora import UnlearnSettings
    from proponent.evaluate.left_out import LeftOutSettings


@dataclass(frozen=True)
class AscentOptions:
    """How sets are unlearned."""

    PANEL: ClassVar = "Ascent"

    optimizer: Annotated[str, typer.Option(help="adam, adafactor, rmsprop, momentum or sgd.")] = "adam"
    learning_rate: Annotated[float, typer.Option(help="Learning rate of the ascent.")] = 5e-5
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a step of UnTrac.")] = 1
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of UnTrac; by default one pass over the smallest corpus.")
    ] = None
    inverse_steps: Annotated[int, typer.Option(min=1, help="Steps of UnTrac-Inv, each on a whole test set.")] = 5
    inverse_rate: Annotated[float | None, typer.Option(help="Learning rate of UnTrac-Inv; by default the same.")] = None
    limit: Annotated[
        float, typer.Option(help="An ascent ends when the unlearned set's loss exceeds this many times its first one.")
    ] = 2.0
    rows: Annotated[int | None, typer.Option(min=1, help="Most rows of a corpus, drawn at random.")] = None
    seeds: Annotated[int, typer.Option(min=1, help="Orders of the rows.")] = 1
    max_length: MaxLength = None

    def settings(self) -> "UnlearnSettings":
        """The settings of the measurement."""
        from proponent.actions.corpora import UnlearnSettings
        from proponent.dynamics.untrac import OPTIMIZERS

        chosen = choice("--optimizer", self.optimizer, OPTIMIZERS)
        sizes = {"rows": self.rows, "seeds": self.seeds, "limit": self.limit}
        rates = {"learning_rate": self.learning_rate, "inverse_rate": self.inverse_rate}
        steps = {"steps": self.steps, "batch_size": self.batch_size, "inverse_steps": self.inverse_steps}
        return replace(UnlearnSettings(), optimizer=chosen, **sizes, **rates, **steps)


@dataclass(frozen=True)
class TruthOptions:
    """How models are trained again without a corpus."""

    PANEL: ClassVar = "Truth"

    truth: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also train without each corpus, and keep the outputs there."),
    ] = None
    truth_seeds: Annotated[int, typer.Option(min=1, help="Trainings without each corpus.")] = 1
    initial: Annotated[str | None, typer.Option(help="Initial weights of these trainings: a model, or fresh.")] = None
    workers: Annotated[int, typer.Option(min=1, help="Number of training processes.")] = 1

    def settings(self) -> "LeftOutSettings | None":
        """The settings of the trainings; None for no trainings."""
        from proponent.evaluate.left_out import LeftOutSettings

        return None if self.truth is None else LeftOutSettings(self.truth, self.truth_seeds, self.initial, self.workers)


def unlearn(
    run: RunFolder,
    ascent: AscentOptions,
    truth: TruthOptions,
    chat: CountingOptions,
    model: ModelOptions,
    columns: ColumnOptions,
    output: OutputOptions,
    corpora: Annotated[
        list[str], typer.Option("--corpora", metavar="FILE...", help="The corpora of the training set, a file each.")
    ],
    tests: Annotated[list[str], typer.Option("--tests", metavar="FILE...", help="Test sets, a file each.")],
    index: Annotated[
        Path | None,
        typer.Option(
            metavar="INDEX", parser=index_folder, help="Index of all corpora, whose mean scores stand beside."
        ),
    ] = None,
    pages: PageFiles = None,
) -> None:
    """Measure how much whole corpora helped on test sets, by unlearning them (UnTrac, UnTrac-Inv)."""
    for path in pages or ():
        usable(path, "--out")
    settings = ascent.settings()
    sets, asked = read_named(corpora, columns, output), read_named(tests, columns, output)
    from proponent.actions.corpora import unlearn as measure
    from proponent.api import open as open_index
    from proponent.views.comparison import print_comparison

    page = measure(
        model.open(run),
        sets,
        asked,
        settings,
        index=None if index is None else open_index(index),
        truth=truth.settings(),
        max_length=ascent.max_length,
        stated=chat.stated(),
        quiet=output.quiet,
    )
    for path in pages or ():
        page.save(path)
    output.show(page.to_dict, lambda: print_comparison(page))
