"""Arrow and Parquet: read the user's files and write our own."""

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from proponent.data.arrow_bodies import FILE_MARK, refuse_bombs, refuse_kinds, unfolded_size
from proponent.data.arrow_views import plain_schema, viewed_size
from proponent.data.class_labels import class_labels
from proponent.data.columns import Column, pack_numbers
from proponent.data.decoding import BLOCK_BYTES, first_bytes, is_packed, other_kind, read_bytes
from proponent.data.door import UnfoldsError, most_repeated, size_of, too_far
from proponent.data.parquet_files import ParquetColumns
from proponent.data.table import RawTable, check_names, short
from proponent.data.untyped import ipc, pa, parquet
from proponent.disk import write_stream
from proponent.errors import DataError

UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, EOFError, OverflowError)


_STRETCH = 4096
"""Rows that are written at a time."""


def is_arrow_table(source: object) -> bool:
    """Whether an object is a pyarrow Table."""
    return isinstance(source, pa.Table)


def table_of_arrow(arrow: Any, name: str, schema: Any = None) -> RawTable:
    """Wrap an Arrow table; memory is shared, and values become Python objects when they are read."""
    names = check_names(name, list(arrow.column_names))

    def get(column: str) -> Sequence[object]:
        return checked_column(name, column, arrow.column(column))

    return RawTable(name, int(arrow.num_rows), names, get, classes=class_labels(arrow.schema), schema=schema)


def checked_column(name: str, column: str, data: Any) -> Column:
    """Validate an Arrow column that another library created."""
    data = pa.array(data) if hasattr(data, "__arrow_array__") else data
    _validate(name, column, data)
    return Column(data)


def _validate(name: str, column: str, data: Any) -> None:
    try:
        data.validate(full=True)
    except pa.ArrowException as error:
        raise DataError(
            f"{name}: column {short(column)} contains bytes that are not valid {data.type} ({first_line(error)}): "
            "write the file again"
        ) from error


def read_user_parquet(path: Path) -> RawTable:
    """Read a user's Parquet file, one column at a time and only when needed."""
    name = str(path)
    with _reading(path, "Parquet"):
        # the file stays open, so that columns read later come from the same file
        source, size = _opened(path)
        parts = ParquetColumns(source, size, buffer_size=BLOCK_BYTES, pre_buffer=False)
        schema, rows = parts.file.schema_arrow, sum(parts.counts)
        refuse_kinds(schema)
    names = check_names(name, list(schema.names))

    def get(column: str) -> Sequence[object]:
        with _reading(path, "Parquet"):
            data = pa.chunked_array(map(_fitted, parts.batches(column)), type=schema.field(column).type)
            _refuse_far(column, unfolded_size(data), size, rows)
        return checked_column(name, column, data)

    return RawTable(name, rows, names, get, classes=class_labels(schema), schema=schema)


@contextmanager
def _reading(path: Path, kind: str) -> Generator[None]:
    try:
        yield
    except UnfoldsError as error:
        raise DataError(
            f"{path}: {error}: such a file fills the memory of a computer on purpose; if it is yours, write it as .csv "
            "or .jsonl, which hold every text in full"
        ) from error
    except UNREADABLE as error:
        other = None if is_packed(path) else other_kind(first_bytes(path, 64), known=kind)
        if other is not None:
            raise DataError(f"{path}: no {kind} file, but {other}") from error
        head = b"" if is_packed(path) else first_bytes(path, 64)
        text = head.isascii() and not set(head) & set(range(9))
        way = (
            ": it looks like text; give it the ending of what it holds, such as .csv or .jsonl" if text and head else ""
        )
        raise DataError(f"{path}: not a readable {kind} file ({first_line(error)}){way}") from error


def _refuse_far(column: str, unfolded: int, size: int, rows: int) -> None:
    most = most_repeated(size, rows)
    if unfolded > most:
        raise too_far(f"column {short(column)}", most, size)


# decompressed text lies in buffers that grew by doubling: copy it into buffers of the exact size
def _fitted(array: Any) -> Any:
    if array.type not in (pa.string(), pa.large_string()):
        return array
    buffers = [None if buffer is None else pa.py_buffer(bytes(buffer)) for buffer in array.buffers()]
    return pa.Array.from_buffers(array.type, len(array), buffers, offset=array.offset)


def _opened(path: Path) -> tuple[Any, int]:
    """A Parquet file, and its bytes."""
    if is_packed(path):
        data = read_bytes(path)
        return pa.BufferReader(data), len(data)
    first_bytes(path)  # refuses a missing or empty file
    return pa.OSFile(str(path)), size_of(path)


def read_user_arrow(path: Path) -> RawTable:
    """Read a user's Arrow file, in the file or the stream format (`datasets` writes the stream format)."""
    # The file is mapped: it must not be modified while it is in use.
    with _reading(path, "Arrow"):
        if is_packed(path):
            data = read_bytes(path)
            first, source = data[:8], pa.BufferReader(data)
        else:
            first, size = first_bytes(path), size_of(path)
            source = pa.memory_map(str(path))
            data = source.read_buffer(size)
        whole = pa.py_buffer(data)
        refuse_bombs(whole)
        with (ipc.open_file if first.startswith(FILE_MARK) else ipc.open_stream)(whole) as reader:
            refuse_kinds(reader.schema, views=True)
            table = reader.read_all()
            for column, data in zip(table.column_names, table.columns, strict=True):
                _refuse_far(column, unfolded_size(data), whole.size, table.num_rows)
            return _table_of_views(table, path, whole.size)


def _table_of_views(arrow: Any, path: Path, size: int) -> RawTable:
    """Wrap the Arrow table of a file of a size, with plain texts in place of views."""
    name, schema = str(path), plain_schema(arrow.schema)
    if schema == arrow.schema:
        return table_of_arrow(arrow, name, arrow.schema)

    def get(column: str) -> Sequence[object]:
        data, kind = arrow.column(column), schema.field(column).type
        if data.type == kind:
            return checked_column(name, column, data)
        _validate(name, column, data)
        with _reading(path, "Arrow"):
            _refuse_far(column, sum(map(viewed_size, data.chunks)), size, len(data))
            plain = pa.chunked_array([one.cast(kind) for one in data.chunks], type=kind)
            _refuse_far(column, unfolded_size(plain), size, len(data))
        return checked_column(name, column, plain)

    names = check_names(name, list(schema.names))
    return RawTable(name, int(arrow.num_rows), names, get, classes=class_labels(schema), schema=schema)


def first_line(error: BaseException) -> str:
    """Shorten a pyarrow message to one line."""
    return short(str(error).split("\n", 1)[0], limit=120)


def arrow_table(name: str, columns: Mapping[str, Sequence[object] | Shaped[np.ndarray, "n *more"]]) -> Any:
    """Build an Arrow table from columns; messages call it `name`."""
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{name}: the columns have different lengths {lengths}")
    return pa.table({column: _to_arrow(column, values) for column, values in columns.items()})


def write_parquet(
    path: str | os.PathLike[str],
    columns: Mapping[str, Sequence[object] | Shaped[np.ndarray, "n *more"]],
    *,
    replace: bool = True,
) -> None:
    """Write a zstd-compressed table with a checksum on every page."""
    write_arrow(Path(path), arrow_table(os.fspath(path), columns), replace=replace)


def write_arrow(path: Path, arrow: Any, *, replace: bool = True) -> None:
    """Write an Arrow table as Parquet."""
    write_stream(path, lambda file: fill_parquet(file, arrow), replace=replace)


def fill_parquet(sink: Any, arrow: Any, group: int | None = None) -> None:
    """Write an Arrow table as Parquet to an open file, with `group` rows per row group."""
    parquet.write_table(arrow, sink, compression="zstd", write_page_checksum=True, row_group_size=group)


def arrow_rows(
    columns: Mapping[str, Sequence[Any]], schema: Any, rows: Sequence[int], changed: str, changes: Mapping[int, object]
) -> Any:
    """Build an Arrow table from rows of columns as they were read, with changes to one column."""
    taken: list[Any] = []
    chosen = pack_numbers(np.asarray(rows, dtype=np.int64))
    for name, column in columns.items():
        data = _to_arrow(name, column)
        if name == changed and changes:
            values = [changes.get(row, value) for row, value in enumerate(data.to_pylist())]
            data = pa.array(values, type=data.type)
        taken.append(data.take(chosen))
    return pa.table(taken, names=list(columns)) if schema is None else pa.Table.from_arrays(taken, schema=schema)


def joined_arrow(tables: Sequence[Any]) -> Any:
    """Concatenate tables; a column that a table lacks is null there."""
    if len(tables) == 1:
        return tables[0]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"the columns of the data sets do not fit into one Parquet file ({first_line(error)}): choose .jsonl"
        ) from error


def _to_arrow(name: str, values: Sequence[object] | Shaped[np.ndarray, "n *more"]) -> Any:
    try:
        if isinstance(values, Column) and values.decode is None:
            return values.arrow
        if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
            if values.ndim == 2 and values.shape[1] > 0:
                return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
            return pa.array(values)
        if not isinstance(values, np.ndarray | list | tuple):  # read while it is written: never whole as Python objects
            return _in_blocks(iter(values))
        return pa.array(values.tolist() if isinstance(values, np.ndarray) else list(values))
    except (pa.ArrowException, TypeError, OverflowError, ValueError) as error:
        raise DataError(f"column {short(name)} cannot be written to Parquet ({first_line(error)})") from error


def _in_blocks(values: Iterator[object]) -> Any:
    """Combine many small arrays into one, with the type of the first values."""
    blocks: list[Any] = []
    while block := list(islice(values, _STRETCH)):
        blocks.append(pa.array(block))
    kind = next((one.type for one in blocks if not pa.types.is_null(one.type)), pa.null())
    return pa.chunked_array([one.cast(kind) for one in blocks], type=kind)
