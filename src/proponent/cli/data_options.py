"""Options that say how data is read."""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from proponent.cli.options import OutputOptions, listed
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.data import Columns, Examples


@dataclass(frozen=True)
class ColumnOptions:
    """Which column of a file has which role."""

    PANEL: ClassVar = "Data"

    split: Annotated[str | None, typer.Option(help="Split of a data set that has several.")] = None
    text_column: Annotated[str, typer.Option(help="Column of the texts.")] = "text"
    pair_column: Annotated[str, typer.Option(help="Column of the second texts of pairs.")] = "text_pair"
    label_column: Annotated[str, typer.Option(help="Column of the labels.")] = "label"
    id_column: Annotated[str, typer.Option(help="Column of the ids.")] = "id"
    target_column: Annotated[
        str, typer.Option(help="Column of the completion (language model); only its tokens count.")
    ] = "target"
    messages_column: Annotated[
        str, typer.Option(help="Column of conversations; '' reads no column of chat data, but texts.")
    ] = "messages"
    weight_column: Annotated[
        str, typer.Option(help="Column of example weights: factors of the losses of a training set.")
    ] = ""
    header: Annotated[str, typer.Option(help="Names of the columns of a CSV or TSV file without a header: a,b,c")] = ""
    separator: Annotated[
        str,
        typer.Option(
            help="Separator of a CSV or TSV file: one character, or tab, comma, semicolon, pipe, colon, space."
        ),
    ] = ""
    quotes: Annotated[
        str,
        typer.Option(help="Quotes in a CSV or TSV file: double (they quote fields), none (they mean nothing), auto."),
    ] = "auto"

    @property
    def columns(self) -> "Columns":
        """The names of the columns."""
        from proponent.data import Columns

        return Columns(
            text=self.text_column,
            text_pair=self.pair_column,
            label=self.label_column,
            id=self.id_column,
            target=self.target_column,
            source=getattr(self, "source_column", ""),
            messages=self.messages_column,
            weight=self.weight_column,
        )

    def read(self, data: str, out: OutputOptions) -> "Examples":
        """Read the data set of a command and show its warnings."""
        return self._read(data, out, split=self.split)

    def read_queries(self, data: str, out: OutputOptions) -> "Examples":
        """Read a second file with the same columns, no splits and no weights."""
        return replace(self, weight_column="")._read(data, out)

    def read_test_set(self, data: str, out: OutputOptions) -> "Examples":
        """Read a test set, perhaps a split, without weights."""
        return replace(self, weight_column="")._read(data, out, split=self.split)

    def refuse(self, wanted: str) -> None:
        """Refuse options about the columns of a file that is not given."""
        given = next((one.name for one in fields(self) if getattr(self, one.name) != one.default), None)
        if given is not None:
            raise InputError(f"--{given.replace('_', '-')} is for {wanted}: give that, or leave the option out")

    def _read(self, data: str, out: OutputOptions, **how: Any) -> "Examples":
        from proponent.data import read

        written = {"header": listed(self.header), "separator": self.separator, "quotes": self.quotes}
        examples = read(data, columns=self.columns, **written, **how)
        for line in examples.warnings:
            out.hint(line)
        return examples


@dataclass(frozen=True)
class DataOptions(ColumnOptions):
    """Which rows and columns of a training set are read."""

    revision: Annotated[str | None, typer.Option(help="Revision of a hub data set.")] = None
    allow_empty: Annotated[bool, typer.Option("--allow-empty", help="Keep rows with empty texts.")] = False

    def read(self, data: str, out: OutputOptions) -> "Examples":
        """Read the training set and show its warnings."""
        return self._read(data, out, split=self.split, revision=self.revision, allow_empty=self.allow_empty)


@dataclass(frozen=True)
class IndexDataOptions(DataOptions):
    """Which rows and columns of a training set are indexed."""

    source_column: Annotated[str, typer.Option(help="Column with the source of each row, for --where source=...")] = (
        "source"
    )
