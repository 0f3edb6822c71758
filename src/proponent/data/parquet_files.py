"""Columns of a Parquet file, read in pieces of bounded size."""

from collections.abc import Iterator, Sequence
from typing import Any

from proponent.data.door import most_repeated, most_rows, most_unfolded, too_far
from proponent.data.parquet_footer import columns, footer_place
from proponent.data.parquet_pages import unfolding
from proponent.data.untyped import pa, parquet

STRETCH = 4096
"""Rows that are decompressed at a time."""

BATCH = 64 * 2**20
"""Bytes that the texts of a batch may take; a batch with longer ones has fewer rows."""


_TAIL = 8


class ParquetColumns:
    """A Parquet file of a size, from a source that pyarrow has opened. ValueError where it unfolds too far."""

    def __init__(self, source: Any, size: int, **how: Any) -> None:
        self._source, self._size = source, size
        at, length = footer_place(source.read_at(min(size, _TAIL), max(0, size - _TAIL)), size)
        self.chunks = columns(source.read_at(length, at))
        self.file = parquet.ParquetFile(source, page_checksum_verification=True, **how)
        if len(self.chunks) != self.file.num_row_groups:
            raise ValueError("row groups that cannot be read")
        counts = [self.file.metadata.row_group(one).num_rows for one in range(self.file.num_row_groups)]
        self.counts: tuple[int, ...] = tuple(map(int, counts))
        if any(one < 0 for one in self.counts) or sum(self.counts) > most_rows(size):
            raise ValueError(f"{sum(self.counts):,} rows in {size:,} bytes")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.file.schema_arrow.names)

    def kind(self, name: str) -> Any:
        """The type of a column."""
        return self.file.schema_arrow.field(name).type

    def column(self, name: str, groups: Sequence[int] | None = None) -> Any:
        """One column, or its part in some row groups, as a chunked array."""
        return pa.chunked_array(list(self.batches(name, groups)), type=self.kind(name))

    def batches(self, name: str, groups: Sequence[int] | None = None) -> Iterator[Any]:
        """The same piece by piece, as arrays."""
        wanted = range(self.file.num_row_groups) if groups is None else groups
        whole, most = 0, most_repeated(self._size, sum(self.counts))
        for group in wanted:
            rows, found = self._rows(name, group, most_unfolded(self._size)), 0
            if not self.counts[group]:
                continue
            for batch in self.file.iter_batches(rows, row_groups=[group], columns=[name], use_threads=False):
                whole, found = whole + batch.nbytes, found + batch.num_rows
                if whole > most:
                    raise too_far(name, most, self._size)
                yield batch.column(0)
            if found != self.counts[group]:
                raise ValueError(f"{name} has {found:,} rows, and {self.counts[group]:,} are stated")

    def _rows(self, name: str, group: int, most: int) -> int:
        """How many rows of a group are read at a time."""
        rows = STRETCH
        for chunk in self.chunks[group]:
            if chunk.path != name and not chunk.path.startswith(f"{name}."):
                continue
            found = unfolding(self._read, chunk)
            if max(found.pages, found.values * found.width) > most:
                raise too_far(name, most, self._size)
            if found.longest:
                rows = min(rows, max(1, BATCH // found.longest))
        return rows

    def _read(self, at: int, size: int) -> bytes:
        if not 0 <= at < self._size:
            raise ValueError("a page outside of the file")
        return self._source.read_at(min(size, self._size - at), at)
