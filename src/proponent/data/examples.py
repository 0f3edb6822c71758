"""Examples: the rows of a data set, kept as columns, with the fingerprint of their content."""

import hashlib
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, overload

import numpy as np
from jaxtyping import Int

from proponent.data.columns import BLOCK, Column, Rows, choose, select
from proponent.data.table import RawTable, short
from proponent.data.untyped import pa
from proponent.types import Example, Label

_SHOWN = ("id", "text", "text_pair", "target", "label")
_PARTS = (*_SHOWN, "source")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column plays which part.

    A default name may be missing from the data (`text` may not); a name given explicitly must be there. An empty name
    means: do not read this part. A column that is named for one part does not play another by its default name.
    """

    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"
    id: str = "id"
    target: str = "target"
    source: str = "source"


class Examples(Sequence[Example]):
    """A sequence of `Example`; rows are kept as columns and an `Example` is made on access."""

    # name: what messages call it: the path, or "list of 12 dicts"
    # columns: which column plays which part, as requested
    # label_names: names of a `datasets` ClassLabel in the order of their numbers, else None
    # warnings: lines that must be shown to the user

    def __init__(
        self,
        source: RawTable,
        table: Any,
        *,
        columns: Columns,
        label_names: tuple[str, ...] | None = None,
        warnings: tuple[str, ...] = (),
        rows: Rows | None = None,
    ) -> None:
        self.name = source.name
        self.columns = columns
        self.label_names = label_names
        self.warnings = warnings
        self._source = source
        self._table = table  # a pyarrow.Table of the checked parts, a row per row of the source
        self._parts = {name: Column(table.column(name)) for name in table.column_names}
        self._rows = range(source.rows) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Examples({self.name}, {len(self)} rows)"

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "Examples": ...
    def __getitem__(self, index: int | slice) -> "Example | Examples":
        if isinstance(index, slice):
            return self._of(self._rows[index])
        row = int(self._rows[operator.index(index)])
        values: dict[str, Any] = {name: column[row] for name, column in self._parts.items()}
        shown: list[Any] = [values.get(name) for name in _SHOWN]
        return _example(row, *shown)

    def __iter__(self) -> Iterator[Example]:
        for rows, values in self._blocks():
            yield from map(_example, map(int, rows), *values)

    def _blocks(self) -> Iterator[tuple[Rows, list[Iterable[Any]]]]:
        """Some rows at a time: id, text, text_pair, target and label of each."""
        for start in range(0, len(self), BLOCK):
            rows = self._rows[start : start + BLOCK]
            columns = (self._parts.get(name) for name in _SHOWN)
            yield rows, [repeat(None) if column is None else list(column.take(rows)) for column in columns]

    def _of(self, rows: Rows) -> "Examples":
        return Examples(self._source, self._table, columns=self.columns, label_names=self.label_names, rows=rows)

    def subset(self, rows: "Sequence[int] | Int[np.ndarray, ' n']") -> "Examples":
        """Choose some of the examples; they keep their id and their row of the source."""
        chosen = np.fromiter(map(operator.index, rows), dtype=np.int64, count=len(rows))
        wrong = chosen[(chosen < 0) | (chosen >= len(self))]
        if len(wrong):
            raise IndexError(f"{self.name}: no row {wrong[0]}, it has {len(self)}")
        return self._of(choose(self._rows, chosen))

    @property
    def ids(self) -> list[str]:
        """The ids, one per example."""
        return list(self.part("id"))

    @property
    def texts(self) -> list[str]:
        """The texts, one per example."""
        return list(self.part("text"))

    @property
    def labels(self) -> list[Label | None]:
        """The labels, one per example; None where there is none."""
        return list(self.part("label"))

    @cached_property
    def sources(self) -> list[str | None]:
        """Where the examples come from, as a column of the source says; None where it does not."""
        return list(self.part("source"))

    def part(self, name: str) -> Sequence[Any]:
        """Give one part of all examples without making Python objects of it."""
        if name not in _PARTS:
            raise KeyError(f"no part {short(name)}; there are {', '.join(_PARTS)}")
        if name not in self._parts:
            return Column(pa.nulls(len(self)))
        return self._parts[name].take(self._rows)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Every column of the source, in its order, those that play no part included."""
        return self._source.column_names

    def column(self, name: str) -> list[object]:
        """Give the values of any column of the source as they were read (a ClassLabel gives its numbers)."""
        if name not in self.column_names:
            raise KeyError(f"{self.name}: no column {short(name)}; it has {', '.join(map(short, self.column_names))}")
        return list(select(self._source.get(name), self._rows))

    def as_read(self, name: str) -> Sequence[Any]:
        """Give a column of the whole source as it was read, without making Python objects of it."""
        return self._source.get(name)

    @property
    def schema(self) -> Any:
        """Kinds and notes of the columns of a Parquet or Arrow file as pyarrow tells them; None for other sources."""
        return self._source.schema

    @property
    def label_column(self) -> str:
        """The column that the labels were read from; empty where there is none."""
        return self.columns.label if "label" in self._parts else ""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over id, text, text_pair, target and label of every example in order."""
        # It does not depend on the kind of input nor on other columns, that of the sources included. A label counts by
        # its text, so that the number 1 of a JSON file equals the "1" of a CSV file.
        # The first bytes are those of every index and decision on disk: they never change.
        digest = hashlib.sha256(b"whence examples 1\n")
        for _, values in self._blocks():
            digest.update(b"".join(map(_spelled, *values)))
        return digest.hexdigest()


def _example(row: int, name: str, text: str, pair: str | None, target: str | None, label: Label | None) -> Example:
    return Example(name, row, text, label, pair, target)


# every field as its length, a colon and its bytes ("-" for none): no two rows share a spelling
def _spelled(*fields: Any) -> bytes:
    parts: list[bytes] = []
    for value in fields:
        if value is None:
            parts.append(b"-")
        else:
            encoded = str(value).encode()
            parts += (b"%d:" % len(encoded), encoded)
    return b"".join(parts)
