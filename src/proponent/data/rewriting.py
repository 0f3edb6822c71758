"""Write a data set again with some rows removed and some values changed; every other value stays unchanged."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import IO, Any

import numpy as np

from proponent.data.arrow import arrow_rows, arrow_table, joined_arrow, write_arrow, write_parquet
from proponent.data.columns import select
from proponent.data.examples import Examples
from proponent.data.same_bytes import header_of, same_bytes, separator_of
from proponent.data.separated import SEPARATORS
from proponent.data.spreadsheet import text_sink, write_csv_rows
from proponent.data.table import short
from proponent.data.text_files import raw_records, spliced
from proponent.disk import write_stream
from proponent.errors import DataError, InputError

KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")


@dataclass(frozen=True)
class Part:
    """A part of a new data set: rows of an old one in order, and new values by row for one column (empty for none).

    A column that the old data set lacks is added.
    """

    examples: Examples
    rows: Sequence[int]
    column: str
    changes: Mapping[int, object]

    @property
    def added(self) -> tuple[str, ...]:
        """The column, if the old data set lacks it."""
        return (self.column,) if self.changes and self.column not in self.examples.column_names else ()


def write_parts(path: Path, parts: Sequence[Part], kind: str, *, guard: bool) -> int:
    """Write a new data set: all columns of all parts, in order."""
    if kind == ".parquet":
        write_arrow(path, joined_arrow([_arrow(one) for one in parts]), replace=False)
        return 0
    if kind in {".jsonl", ".ndjson", ".json"} and all(_holds_json(one.examples.name) for one in parts):
        _write_records(path, (record for one in parts for record in _records(one)), listed=kind == ".json")
        return 0
    if kind in {".csv", ".tsv"} and not guard and _same_file_kind(parts, kind):
        _write_as_it_is(path, parts)
        return 0
    names = list(dict.fromkeys(name for one in parts for name in (*one.examples.column_names, *one.added)))
    rows = (cells for one in parts for cells in zip(*(_column(one, name) for name in names), strict=True))
    return _write_rows(path, names, rows, kind, guard=guard)


def _same_file_kind(parts: Sequence[Part], kind: str) -> bool:
    """Whether all parts are files of this kind whose first line names the same columns."""
    separator, names = SEPARATORS[kind], list(parts[0].examples.column_names) if parts else []
    return bool(parts) and all(
        not one.added
        and not one.examples.written  # another separator, other quotes or no header: the columns are written anew
        and separator_of(one.examples.name) == separator
        and list(one.examples.column_names) == names
        and header_of(Path(one.examples.name), separator) == names
        for one in parts
    )


def _write_as_it_is(path: Path, parts: Sequence[Part]) -> None:
    """Write CSV or TSV with every untouched byte of the old files."""

    def fill(file: IO[bytes]) -> None:
        for number, one in enumerate(parts):
            names = list(one.examples.column_names)
            at = names.index(one.column) if one.changes else 0
            changes = {row: str(value) for row, value in one.changes.items()}
            more = any(len(other.rows) for other in parts[number + 1 :])
            file.writelines(same_bytes(Path(one.examples.name), one.rows, at, changes, header=number == 0, more=more))

    write_stream(path, fill, replace=False)


def write_columns(path: Path, columns: Mapping[str, Sequence[Any]], kind: str, *, guard: bool) -> int:
    """Write columns as CSV, TSV, JSON, JSON Lines or Parquet; return the number of cells that a guard changed."""
    if kind == ".parquet":
        write_parquet(path, columns, replace=False)
        return 0
    return _write_rows(path, list(columns), zip(*columns.values(), strict=True), kind, guard=guard)


def _write_rows(path: Path, names: Sequence[str], rows: Iterable[Sequence[Any]], kind: str, *, guard: bool) -> int:
    if kind not in KINDS:
        raise InputError(f"{path} ends in {kind or 'nothing'}: choose .csv, .jsonl or .parquet")
    if kind in {".csv", ".tsv"}:
        return write_csv_rows(path, names, rows, guard, "\t" if kind == ".tsv" else ",", replace=False)
    records = (_dumped(dict(zip(names, cells, strict=True)), path) for cells in rows)
    _write_records(path, records, listed=kind == ".json")
    return 0


def _dumped(record: Mapping[str, Any], path: Path) -> str:
    try:
        return json.dumps(record, ensure_ascii=False)
    except TypeError as error:
        raise DataError(f"{path}: a value cannot be written as JSON ({error}): choose .parquet") from error


def _write_records(path: Path, records: Iterator[str], *, listed: bool) -> None:
    def fill(file: IO[bytes]) -> None:
        with text_sink(file, newline="\n") as sink:
            between = ""
            sink.write("[\n" if listed else "")
            for record in records:
                one_line = record if listed or "\n" not in record else json.dumps(json.loads(record))
                sink.write(between + one_line)
                between = ",\n" if listed else "\n"
            sink.write("\n]\n" if listed else "\n" if between else "")

    write_stream(path, fill, replace=False)


def _holds_json(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith((".json", ".jsonl", ".ndjson"))


def _records(part: Part) -> Iterator[str]:
    """The records of a part, exactly as written in the file."""
    taken = iter(part.rows)
    wanted = next(taken, None)
    for row, record in enumerate(raw_records(Path(part.examples.name))):
        if row == wanted:
            yield spliced(record, part.column, part.changes[row]) if row in part.changes else record
            wanted = next(taken, None)


def _column(part: Part, name: str) -> Iterable[Any]:
    if name in part.added:
        return [part.changes.get(row) for row in part.rows]
    if name not in part.examples.column_names:
        return repeat(None, len(part.rows))
    values = select(part.examples.as_read(name), np.asarray(part.rows, dtype=np.int64))
    if name != part.column or not part.changes:
        return values
    return [part.changes.get(row, value) for row, value in zip(part.rows, values, strict=True)]


def _arrow(part: Part) -> Any:
    """The rows of a part, with the column types of the file."""
    columns = {name: part.examples.as_read(name) for name in part.examples.column_names}
    try:
        made = arrow_rows(columns, part.examples.schema, part.rows, part.column, part.changes)
        for name in part.added:
            made = made.append_column(name, arrow_table(name, {name: list(_column(part, name))}).column(0))
        return made
    except (TypeError, ValueError) as error:
        value = short(next(iter(part.changes.values()), ""))
        raise DataError(f"{part.examples.name}: column {short(part.column)} cannot hold {value} ({error})") from error
