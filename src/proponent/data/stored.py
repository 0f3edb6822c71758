"""Parquet files of an index's examples, with small row groups, so that reading a few rows is cheap."""

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from proponent.data.arrow import UNREADABLE, arrow_table, fill_parquet, first_line
from proponent.data.columns import pack_numbers, pack_texts
from proponent.data.door import size_of
from proponent.data.parquet_files import ParquetColumns
from proponent.data.untyped import compute, pa
from proponent.errors import DamagedError, DataError

GROUP = 4096
"""Rows per row group, which are read together."""


def parquet_bytes(columns: Mapping[str, Sequence[object] | np.ndarray]) -> memoryview:
    """Write examples to memory as zstd-compressed Parquet, with a checksum on every page."""
    sink = pa.BufferOutputStream()
    fill_parquet(sink, arrow_table("the examples of an index", columns), GROUP)
    return memoryview(sink.getvalue())


_NEEDED = {"id": "text", "row": "number", "text": "text", "place": "number"}
_TEXTS = ("id", "text", "text_pair", "target", "content", "label", "source")


def _check_kinds(schema: Any) -> None:
    """Refuse a file without the columns that every index has, or with columns of another kind."""
    names = list(schema.names)
    missing = next((name for name in _NEEDED if names.count(name) != 1), None)
    if missing is not None:
        raise ValueError(f"{names.count(missing)} columns {missing}, and 1 is needed")
    for name in names:
        kind = schema.field(name).type
        text = kind in {pa.string(), pa.large_string()} or (pa.types.is_null(kind) and name not in _NEEDED)
        if (name in _TEXTS and not text) or (_NEEDED.get(name) == "number" and not pa.types.is_integer(kind)):
            raise ValueError(f"the column {name} is of {kind}")


class StoredExamples:
    """A Parquet file of examples, read in row groups."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading():
            self._parts = ParquetColumns(pa.OSFile(str(path)), size_of(path))
            self._file = self._parts.file
            _check_kinds(self._file.schema_arrow)
        self._begins = np.concatenate([[0], np.cumsum(self._parts.counts, dtype=np.int64)])
        self._group = lru_cache(maxsize=4)(self._read_group)

    def __len__(self) -> int:
        return int(self._begins[-1])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._file.schema_arrow.names)

    def has(self, name: str) -> bool:
        """Whether any example has a value in a column, without reading it if the file's metadata suffices."""
        if name not in self.names:
            return False
        known = [chunk for group in self._parts.chunks for chunk in group if chunk.path == name]
        if len(known) < len(self._parts.chunks) or any(chunk.nulls is None for chunk in known):
            return any(value is not None for value in self.column(name))
        return any((chunk.nulls or 0) < chunk.values for chunk in known)

    def column(self, name: str) -> list[Any]:
        """Read one column."""
        with self._reading():
            return self.arrow(name).to_pylist()

    def arrow(self, name: str) -> Any:
        """Read one column without creating Python objects."""
        with self._reading():
            return self._parts.column(name)

    def blocks(self, name: str) -> Iterator[list[Any]]:
        """Read one column, one block at a time."""
        with self._reading():
            for batch in self._parts.batches(name):
                yield batch.to_pylist()

    def take(self, name: str, numbers: Int[np.ndarray, " m"]) -> list[Any]:
        """Read one column of selected examples."""
        found: list[Any] = [None] * len(numbers)
        with self._reading():
            for at, values in self._taken(name, numbers):
                for place, value in zip(at.tolist(), values.to_pylist(), strict=True):
                    found[place] = value
        return found

    def lengths(self, name: str, numbers: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
        """Count the characters of selected examples' texts; one row group is in memory at a time."""
        found: Int[np.ndarray, " m"] = np.zeros(len(numbers), dtype=np.int64)
        for at, values in self._taken(name, numbers):
            found[at] = compute.utf8_length(values).to_pylist()
        return found

    def _taken(self, name: str, numbers: Int[np.ndarray, " m"]) -> Iterator[tuple[Int[np.ndarray, " k"], Any]]:
        """Selected values of one column, row group by row group: positions in `numbers`, and an Arrow array."""
        groups = np.searchsorted(self._begins, numbers, side="right") - 1
        for group in np.unique(groups).tolist():
            at = np.flatnonzero(groups == group)
            with self._reading():
                column = self._parts.column(name, [group])
                yield at, column.take(pack_numbers(numbers[at] - self._begins[group]))

    def counts(self, name: str) -> dict[str, int]:
        """Count the values of a text column."""
        if not self.has(name):
            return {}
        with self._reading():
            found = compute.value_counts(self.arrow(name).drop_null())
            return {str(one["values"]): int(one["counts"]) for one in found.to_pylist()}

    def row(self, number: int) -> dict[str, Any]:
        """Read one example."""
        group = int(np.searchsorted(self._begins, number, side="right")) - 1
        with self._reading():
            held = self._group(group).items()
            return {name: values[number - int(self._begins[group])].as_py() for name, values in held}

    def select(self, name: str, wanted: Collection[str]) -> Int[np.ndarray, " m"]:
        """Find the examples whose value is one of the given texts."""
        if not wanted:
            return np.zeros(0, dtype=np.int64)
        values = pack_texts(sorted(wanted))
        with self._reading():
            column = self.arrow(name).cast(values.type)
            found = compute.indices_nonzero(compute.is_in(column, value_set=values))
        # not to_numpy: it imports pandas
        return np.frombuffer(found.buffers()[1], dtype=np.uint64, count=len(found)).astype(np.int64)

    def _read_group(self, group: int) -> dict[str, Any]:
        with self._reading():
            return {name: self._parts.column(name, [group]) for name in self.names}

    @contextmanager
    def _reading(self) -> Generator[None]:
        try:
            yield
        except (*UNREADABLE, DataError) as error:
            raise DamagedError(
                f"{self.path}: damaged or missing ({first_line(error)}): restore it or build the index again"
            ) from error
