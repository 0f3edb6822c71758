"""Files that are named after themselves: corpora, test sets, runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from proponent.cli.data_options import ColumnOptions
from proponent.cli.options import OutputOptions
from proponent.errors import InputError

if TYPE_CHECKING:
    from proponent.data import Examples


def short_names(files: Sequence[str]) -> list[str]:
    """Names of files without folders and endings; whole paths where two have one name."""
    twice = next((one for one in files if files.count(one) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} is given twice: give each file once")
    stems = [Path(file).name.partition(".")[0] for file in files]
    return [stem if stem and stems.count(stem) == 1 else file for stem, file in zip(stems, files, strict=True)]


def read_named(files: Sequence[str], columns: ColumnOptions, output: OutputOptions) -> "dict[str, Examples]":
    """Read data sets by their short names."""
    return {name: columns.read(file, output) for name, file in zip(short_names(files), files, strict=True)}
