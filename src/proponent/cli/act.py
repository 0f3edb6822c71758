"""Commands that act on what an attribution says."""

from pathlib import Path
from typing import Annotated

import typer

from proponent.cli.options import (
    BuildOptions,
    Data,
    IndexDataOptions,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    RunFolder,
    usable,
)


def mend(
    run: RunFolder,
    data: Data,
    errors: Annotated[
        str, typer.Argument(metavar="ERRORS", help="A file of labelled texts; those predicted wrongly are mended.")
    ],
    method: MethodOptions,
    building: BuildOptions,
    model: ModelOptions,
    columns: IndexDataOptions,
    output: OutputOptions,
    index: Annotated[
        Path, typer.Option("--index", help="Folder of an index of DATA; it is built there if there is none.")
    ] = Path("mend.index"),
    clean: Annotated[
        str | None,
        typer.Option("--clean", metavar="FILE", help="Labelled texts on which no accuracy should be lost."),
    ] = None,
    budget: Annotated[int, typer.Option("--step-rows", min=1, help="Training rows of a step.")] = 10,
    count: Annotated[int, typer.Option("--mend-steps", min=1, help="Steps of the fine-tuning.")] = 10,
    anchors: Annotated[int, typer.Option(min=1, help="Wrong predictions that choose the rows of a step.")] = 10,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of the fine-tuning.")] = 1e-4,
    seeds: Annotated[int, typer.Option(min=1, help="Splits of the errors into choosing and measured ones.")] = 3,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FOLDER", help="Write a copy mended with all errors.")
    ] = None,
    pages: Annotated[
        list[Path] | None, typer.Option("--out", metavar="FILE", help="Also write .html, .md or .json; repeatable.")
    ] = None,
) -> None:
    """Fine-tune a copy on the rows most helpful for wrong predictions, and measure it beside controls."""
    for path in pages or ():
        usable(path, "--out")
    from proponent.actions.mending import MendSettings
    from proponent.actions.mending import mend as run_mending
    from proponent.api import build
    from proponent.views.evaluation import print_report

    settings = MendSettings(budget, count, anchors, learning_rate, seeds)
    settings.check()
    opened, examples, wrong = model.open(run), columns.read(data, output), columns.read_queries(errors, output)
    kept = None if clean is None else columns.read_queries(clean, output)
    named = method.changed(method.named(opened, building, output))
    built = build(opened, examples, index, named, columns=columns.columns, quiet=output.quiet, **building.settings())
    page = run_mending(built, examples, wrong, kept, settings, save=save, quiet=output.quiet)
    for path in pages or ():
        page.save(path)
    output.show(page.to_dict, lambda: print_report(page))
    if save is not None:
        output.hint(f"mended model: {save}")
