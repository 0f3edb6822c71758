"""Command that probes a classifier by its labels alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from proponent.cli.data_options import ColumnOptions
from proponent.cli.encoding_options import EncodingOptions, encoder_of
from proponent.cli.options import Data, OutputOptions, PageFiles, numbers, usable

if TYPE_CHECKING:
    from proponent.actions.probe import ProbeSettings


@dataclass(frozen=True)
class ProbeOptions:
    """How a classifier is probed."""

    PANEL: ClassVar = "Probe"

    budget: Annotated[int, typer.Option(min=1, help="Labels that may be asked for a point.")] = 500
    points: Annotated[int, typer.Option(min=1, help="Held-out points that are attacked.")] = 40
    seeds: Annotated[int, typer.Option(min=1, help="Attacks on each point.")] = 2
    widths: Annotated[str, typer.Option(help="Directions of the subspaces.")] = "8,16,32"
    method: Annotated[str, typer.Option(help="Who is behind a flip: tracin-last or grad-cos, at the head.")] = (
        "tracin-last"
    )
    same_half: Annotated[
        bool, typer.Option("--same-half", help="Measure distances on the rows that made the subspaces.")
    ] = False

    def settings(self) -> "ProbeSettings":
        """The settings of the action."""
        from proponent.actions.probe import ProbeSettings

        widths = numbers("--widths", self.widths, "8,16,32")
        return ProbeSettings(self.budget, self.points, self.seeds, widths, self.method, self.same_half)


def probe(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run or a model folder, whose features a head reads.")],
    data: Data,
    probing: ProbeOptions,
    columns: ColumnOptions,
    encoding: EncodingOptions,
    output: OutputOptions,
    pages: PageFiles = None,
) -> None:
    """Flip labels by few queries in the encoder's space: holes between the data, or faults on it, and who is behind."""
    for path in pages or ():
        usable(path, "--out")
    settings = probing.settings()
    settings.check()
    examples = list(columns.read(data, output))
    from proponent.actions.probe import Vectors
    from proponent.actions.probe import probe as run_probe
    from proponent.actions.text_features import class_numbers
    from proponent.views.comparison import print_comparison

    names = sorted({str(one.label) for one in examples if one.label is not None})
    labels = class_numbers(examples, names, data)
    features = encoding.features(encoder_of(run), examples, output)
    page = run_probe(Vectors(features, labels, [one.id for one in examples], names), settings, quiet=output.quiet)
    for path in pages or ():
        page.save(path)
    output.show(page.to_dict, lambda: print_comparison(page))
