"""CSV for spreadsheets: a cell never becomes a formula when the file is opened."""

import csv
import io
import json
import os
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from proponent.disk import write_stream
from proponent.errors import DataError

_SIGNS = "=+-@＝＋－＠﹢﹣﹦﹫"  # full-width and small forms, too: some programs read them as the plain ones
_CONTROLS = "\t\r\n\0\v\f"
_LEADING = re.compile("[\\s\ufeff\u200b-\u200f\u2060\u00ad]*")
"""What programs may ignore before a formula: blanks, a byte order mark, invisible characters."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@runtime_checkable
class TextSink(Protocol):
    """Anything that accepts text: an open file, standard output, a StringIO."""

    def write(self, text: str, /) -> object:
        """Accept some text."""
        ...


def write_csv(
    path_or_file: str | os.PathLike[str] | TextSink,
    columns: Mapping[str, Sequence[object] | Shaped[np.ndarray, " n"]],
    *,
    guard: bool = True,
    delimiter: str = ",",
    replace: bool = True,
) -> int:
    """Write a table as CSV (UTF-8, RFC 4180 line ends)."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"CSV: the columns have different lengths {lengths}")
    values = [cast("Any", column).tolist() if isinstance(column, np.ndarray) else column for column in columns.values()]
    return write_csv_rows(path_or_file, list(columns), zip(*values, strict=True), guard, delimiter, replace=replace)


def write_csv_rows(
    path_or_file: str | os.PathLike[str] | TextSink,
    names: Sequence[str],
    rows: Iterable[Sequence[object]],
    guard: bool,
    delimiter: str,
    *,
    replace: bool,
) -> int:
    """Write rows as CSV; return the number of cells prefixed with '."""
    if not isinstance(path_or_file, str | os.PathLike):
        return _write(path_or_file, names, rows, guard, delimiter)

    def fill(file: IO[bytes]) -> int:
        with text_sink(file, newline="") as sink:
            return _write(sink, names, rows, guard, delimiter)

    return write_stream(Path(path_or_file), fill, replace=replace)


@contextmanager
def text_sink(file: Any, newline: str) -> Generator[TextSink]:
    """Write text to an open file, which is flushed but not closed."""
    sink = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline=newline)
    try:
        yield sink
    finally:
        sink.detach()


def _write(file: TextSink, names: Sequence[str], rows: Iterable[Sequence[object]], guard: bool, delimiter: str) -> int:
    guarded = 0

    def safe(cells: Iterable[object]) -> list[object]:
        nonlocal guarded
        row = list(cells)
        for at, cell in enumerate(row):
            if cell is None or isinstance(cell, int | float):
                continue
            text = row[at] = cell if isinstance(cell, str) else _plain(cell)
            if guard and text and not text[0].isalnum() and _may_be_formula(text):  # nearly every cell ends before it
                row[at] = "'" + text
                guarded += 1
        return row

    # \r\n: with \n alone, csv before Python 3.13 leaves a lone \r in a text unquoted, which readers see as a new row
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(safe(names))
    writer.writerows(map(safe, rows))
    return guarded


def _may_be_formula(cell: str) -> bool:
    if cell.startswith(tuple(_CONTROLS)):
        return True
    begin = _LEADING.match(cell)
    bare = cell[begin.end() :] if begin else cell
    return bare.startswith(tuple(_SIGNS)) and not _NUMBER.fullmatch(cell.strip(" "))


def _plain(cell: object) -> str:
    return json.dumps(cell, ensure_ascii=False, default=str) if isinstance(cell, list | tuple | dict) else str(cell)
