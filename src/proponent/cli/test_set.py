"""A test set: predictions of a classifier and what is behind the wrong ones, or losses of a language model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer
from rich.console import Console

from proponent.cli.data_options import ColumnOptions
from proponent.cli.options import OpenOptions, OutputOptions, TestFile
from proponent.errors import InputError


@dataclass(frozen=True)
class TestSetOptions:
    """A test set in place of a question."""

    PANEL: ClassVar = "Test set"

    test: TestFile = None
    most_errors: Annotated[
        int, typer.Option(min=0, help="Wrong predictions that are explained, evenly spread; 0: none.")
    ] = 500

    def refuse_other(self, given: Mapping[str, object]) -> None:
        """Refuse options of a question beside a test set."""
        taken = next((name for name, said in given.items() if said), None)
        if taken is not None:
            raise InputError(f"{taken} is about questions, and --test FILE is a test set: leave one of them out")


def report_test_set(
    index: Path,
    tested: TestSetOptions,
    opening: OpenOptions,
    columns: ColumnOptions,
    output: OutputOptions,
    k: int,
    html: Path | None,
) -> None:
    """Predict a test set, and explain its wrong predictions together; of a language model, measure its loss."""
    from proponent.api import open as open_index
    from proponent.index.error_hits import report_predictions
    from proponent.index.held_out import report_losses
    from proponent.views.loss_report import print_losses
    from proponent.views.page import document, write
    from proponent.views.prediction_report import print_predictions

    rows = columns.read_test_set(tested.test or "", output)
    opened = open_index(index, **vars(opening))
    name = Path(rows.name).name
    if opened.store.plan.predicted in {"tokens", "next tokens"}:
        measured = report_losses(opened, rows, name)
        output.show(measured.to_dict, lambda: print_losses(measured, Console()))
        output.hint(f"the rows are measured, not explained: `proponent report {index} FILE` explains each")
        made = measured
    else:
        report = report_predictions(opened, rows, name, k, tested.most_errors)
        output.show(report.to_dict, lambda: print_predictions(report, Console()))
        made = report
    if html is not None:
        write(html, document(made))
        output.hint(f"HTML page: {html}")
