"""Parquet files of an index's examples, with small row groups, so that reading a few rows is cheap."""

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from proponent.data.arrow import UNREADABLE, arrow_table, fill_parquet, first_line
from proponent.data.columns import pack_texts
from proponent.data.untyped import compute, pa, parquet
from proponent.errors import DamagedError

GROUP = 4096
"""Rows per row group, which are read together."""


def parquet_bytes(columns: Mapping[str, Sequence[object] | np.ndarray]) -> memoryview:
    """Write examples to memory as zstd-compressed Parquet, with a checksum on every page."""
    sink = pa.BufferOutputStream()
    fill_parquet(sink, arrow_table("the examples of an index", columns), GROUP)
    return memoryview(sink.getvalue())


class StoredExamples:
    """A Parquet file of examples, read in row groups."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading():
            self._file = parquet.ParquetFile(str(path), page_checksum_verification=True)
            groups = [self._file.metadata.row_group(one).num_rows for one in range(self._file.num_row_groups)]
        self._begins = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
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
        groups = [self._file.metadata.row_group(one) for one in range(self._file.num_row_groups)]
        known = [group.column(self.names.index(name)).statistics for group in groups]
        if any(one is None or not one.has_null_count for one in known):
            return any(value is not None for value in self.column(name))
        return any(one.null_count < group.num_rows for one, group in zip(known, groups, strict=True))

    def column(self, name: str) -> list[Any]:
        """Read one column."""
        return self.arrow(name).to_pylist()

    def arrow(self, name: str) -> Any:
        """Read one column without creating Python objects."""
        with self._reading():
            return self._file.read([name]).column(name)

    def blocks(self, name: str) -> Iterator[list[Any]]:
        """Read one column, one block at a time."""
        with self._reading():
            for batch in self._file.iter_batches(GROUP, columns=[name], use_threads=False):
                yield batch.column(0).to_pylist()

    def take(self, name: str, numbers: Int[np.ndarray, " m"]) -> list[Any]:
        """Read one column of selected examples."""
        found: list[Any] = [None] * len(numbers)
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
                column = self._file.read_row_group(group, columns=[name]).column(name)
                yield at, column.take((numbers[at] - self._begins[group]).tolist())

    def counts(self, name: str) -> dict[str, int]:
        """Count the values of a text column."""
        if not self.has(name):
            return {}
        found = compute.value_counts(self.arrow(name).drop_null())
        return {str(one["values"]): int(one["counts"]) for one in found.to_pylist()}

    def row(self, number: int) -> dict[str, Any]:
        """Read one example."""
        group = int(np.searchsorted(self._begins, number, side="right")) - 1
        return {name: values[number - int(self._begins[group])].as_py() for name, values in self._group(group).items()}

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
            table = self._file.read_row_group(group)
        return {name: table.column(name) for name in table.column_names}

    @contextmanager
    def _reading(self) -> Generator[None]:
        try:
            yield
        except UNREADABLE as error:
            raise DamagedError(
                f"{self.path}: damaged or missing ({first_line(error)}): restore it or build the index again"
            ) from error
