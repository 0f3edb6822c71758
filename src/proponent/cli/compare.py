"""The command `compare`: two versions of a training set, trained again and measured on the same test set."""

from pathlib import Path
from typing import Annotated

import typer

from proponent.cli.data_options import ColumnOptions
from proponent.cli.encoding_options import AllowOverlap, refuse_overlap
from proponent.cli.options import MaxLength, ModelOptions, OutputOptions, RunFolder, usable


def compare(
    run: RunFolder,
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="One version of the training set.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The other one, such as the file that `apply` wrote.")],
    model: ModelOptions,
    columns: ColumnOptions,
    output: OutputOptions,
    test: Annotated[str, typer.Option("--test", metavar="FILE", help="Rows to measure on, which neither version has.")],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each version.")] = 3,
    initial: Annotated[str | None, typer.Option(help="Initial weights: a model, or fresh.")] = None,
    max_length: MaxLength = None,
    allow_overlap: AllowOverlap = False,
    pages: Annotated[
        list[Path] | None, typer.Option("--out", metavar="FILE", help="Also write .html, .md or .json; repeatable.")
    ] = None,
) -> None:
    """Train again on two versions of the data, by the settings of the run, and compare them with intervals."""
    for path in pages or ():
        usable(path, "--out")
    opened = model.open(run)
    first, second = (list(columns.read(one, output)) for one in (before, after))
    asked = list(columns.read_queries(test, output))
    if not allow_overlap:
        refuse_overlap([*first, *second], {test: asked})
    from proponent.actions.data_versions import compare_versions
    from proponent.views.evaluation import print_report

    found = compare_versions(
        opened, first, second, asked, seeds=seeds, initial=initial, max_length=max_length, quiet=output.quiet
    )
    for path in pages or ():
        found.save(path)
    output.show(found.to_dict, lambda: print_report(found))
