"""Examples: the rows of a data set, kept as columns, with the fingerprint of their content."""

import hashlib
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, overload

import numpy as np
from jaxtyping import Int

from proponent.data.packed import BLOCK, CodedColumn, SelectedRows, select_rows
from proponent.data.table import RawTable, short
from proponent.types import Example, Label

_PARTS = {
    "id": "ids",
    "text": "texts",
    "text_pair": "pairs",
    "label": "labels",
    "target": "targets",
    "source": "sources",
}


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


@dataclass(frozen=True, slots=True)
class Fields:
    """Checked values of every part, one per row of the source; None where no column plays the part."""

    ids: Sequence[str]
    texts: Sequence[str]
    labels: Sequence[Label | None] | None
    pairs: Sequence[str | None] | None
    targets: Sequence[str | None] | None
    sources: Sequence[str | None] | None


class Examples(Sequence[Example]):
    """A sequence of `Example`; rows are kept as columns and an `Example` is made when it is asked for.

    Attributes:
        name: what messages call it: the path, or "list of 12 dicts".
        columns: which column plays which part, as asked.
        label_names: names of a `datasets` ClassLabel in the order of their numbers, else None.
        warnings: lines that must be shown to the user.
    """

    def __init__(
        self,
        table: RawTable,
        fields: Fields,
        *,
        columns: Columns,
        label_names: tuple[str, ...] | None = None,
        warnings: tuple[str, ...] = (),
        rows: "range | Int[np.ndarray, ' n'] | None" = None,
    ) -> None:
        self.name = table.name
        self.columns = columns
        self.label_names = label_names
        self.warnings = warnings
        self._table = table
        self._fields = fields
        self._rows = range(table.rows) if rows is None else rows

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
        fields, row = self._fields, int(self._rows[operator.index(index)])
        return Example(
            id=fields.ids[row],
            row=row,
            text=fields.texts[row],
            label=None if fields.labels is None else fields.labels[row],
            text_pair=None if fields.pairs is None else fields.pairs[row],
            target=None if fields.targets is None else fields.targets[row],
        )

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), BLOCK):
            yield from self._made(self._rows[start : start + BLOCK])

    def _made(self, rows: "range | Int[np.ndarray, ' m']") -> Iterator[Example]:
        """Make the examples of some rows of the source."""
        fields, none = self._fields, repeat(None)
        ids, texts = select_rows(fields.ids, rows), select_rows(fields.texts, rows)
        others = (fields.labels, fields.pairs, fields.targets)
        labels, pairs, targets = (none if column is None else select_rows(column, rows) for column in others)
        return map(Example, ids, map(int, rows), texts, labels, pairs, targets)

    def _of(self, rows: "range | Int[np.ndarray, ' m']") -> "Examples":
        return Examples(self._table, self._fields, columns=self.columns, label_names=self.label_names, rows=rows)

    def subset(self, rows: "Sequence[int] | Int[np.ndarray, ' n']") -> "Examples":
        """Choose some of the examples; they keep their id and their row of the source."""
        chosen = np.fromiter(map(operator.index, rows), dtype=np.int64, count=len(rows))
        wrong = chosen[(chosen < 0) | (chosen >= len(self))]
        if len(wrong):
            raise IndexError(f"{self.name}: no row {wrong[0]}, it has {len(self)}")
        mine = self._rows
        return self._of(mine.start + mine.step * chosen if isinstance(mine, range) else mine[chosen])

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
        column = getattr(self._fields, _PARTS[name])
        if column is None:
            return CodedColumn(np.zeros(len(self), dtype=np.int32), (None,))
        whole = isinstance(self._rows, range) and self._rows == range(len(column))
        return column if whole else SelectedRows(column, self._rows)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Every column of the source, in its order, those that play no part included."""
        return self._table.column_names

    def column(self, name: str) -> list[object]:
        """Give the values of any column of the source as they were read (a ClassLabel gives its numbers)."""
        if name not in self.column_names:
            raise KeyError(f"{self.name}: no column {short(name)}; it has {', '.join(map(short, self.column_names))}")
        return list(SelectedRows(self._table.get(name), self._rows))

    def as_read(self, name: str) -> Sequence[Any]:
        """Give a column of the whole source as it was read, without making Python objects of it."""
        return self._table.get(name)

    @property
    def label_column(self) -> str:
        """The column that the labels were read from; empty where there is none."""
        return "" if self._fields.labels is None else self.columns.label

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over id, text, text_pair, target and label of every example in order."""
        # It does not depend on the kind of input nor on other columns, that of the sources included. A label counts by
        # its text, so that the number 1 of a JSON file equals the "1" of a CSV file.
        # The first bytes are those of every index and decision on disk: they never change.
        digest = hashlib.sha256(b"whence examples 1\n")
        for start in range(0, len(self), BLOCK):
            digest.update(b"".join(map(_spelled, self._made(self._rows[start : start + BLOCK]))))
        return digest.hexdigest()


# every field as its length, a colon and its bytes ("-" for none): no two rows share a spelling
def _spelled(example: Example) -> bytes:
    label = None if example.label is None else str(example.label)
    parts: list[bytes] = []
    for value in (example.id, example.text, example.text_pair, example.target, label):
        if value is None:
            parts.append(b"-")
        else:
            encoded = value.encode()
            parts += (b"%d:" % len(encoded), encoded)
    return b"".join(parts)
