"""Examples: the rows of a data set, kept as columns, with the fingerprint of their content."""

import hashlib
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
from jaxtyping import Int

from whence.examples.table import Table, short
from whence.types import Example, Label


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


@dataclass(frozen=True, slots=True)
class Fields:
    """Checked values of every part, one per row of the source; None where no column plays the part."""

    ids: Sequence[str]
    texts: Sequence[str]
    labels: Sequence[Label | None] | None
    pairs: Sequence[str | None] | None
    targets: Sequence[str | None] | None


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
        table: Table,
        fields: Fields,
        *,
        columns: Columns,
        label_names: tuple[str, ...] | None = None,
        warnings: tuple[str, ...] = (),
        rows: Sequence[int] | None = None,
    ) -> None:
        self.name = table.name
        self.columns = columns
        self.label_names = label_names
        self.warnings = warnings
        self._table = table
        self._fields = fields
        self._rows: Sequence[int] = range(table.rows) if rows is None else rows

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
            return self.subset(range(*index.indices(len(self))))
        return self._example(self._rows[index])

    def __iter__(self) -> Iterator[Example]:
        return map(self._example, self._rows)

    def _example(self, row: int) -> Example:
        fields = self._fields
        return Example(
            id=fields.ids[row],
            row=row,
            text=fields.texts[row],
            label=fields.labels[row] if fields.labels is not None else None,
            text_pair=fields.pairs[row] if fields.pairs is not None else None,
            target=fields.targets[row] if fields.targets is not None else None,
        )

    def subset(self, rows: "Sequence[int] | Int[np.ndarray, ' n']") -> "Examples":
        """Choose some of the examples; they keep their id and their row of the source.

        Args:
            rows: 0-based positions in this collection (for a data set as read: its rows), in the order wanted.

        Returns:
            The chosen examples, without the warnings, which belong to the whole.

        Raises:
            IndexError: a position is negative or past the end.
        """
        chosen = [operator.index(position) for position in rows]
        wrong = next((position for position in chosen if not 0 <= position < len(self)), None)
        if wrong is not None:
            raise IndexError(f"{self.name}: no row {wrong}, it has {len(self)}")
        return Examples(
            self._table,
            self._fields,
            columns=self.columns,
            label_names=self.label_names,
            rows=[self._rows[position] for position in chosen],
        )

    @property
    def ids(self) -> list[str]:
        """The ids, one per example."""
        return [self._fields.ids[row] for row in self._rows]

    @property
    def texts(self) -> list[str]:
        """The texts, one per example."""
        return [self._fields.texts[row] for row in self._rows]

    @property
    def labels(self) -> list[Label | None]:
        """The labels, one per example; None where there is none."""
        labels = self._fields.labels
        return [labels[row] if labels is not None else None for row in self._rows]

    @property
    def column_names(self) -> tuple[str, ...]:
        """Every column of the source, in its order, those that play no part included."""
        return self._table.column_names

    def column(self, name: str) -> list[object]:
        """Give the values of any column of the source as they were read (a ClassLabel gives its numbers).

        Args:
            name: one of `column_names`.

        Returns:
            One value per example.

        Raises:
            KeyError: there is no such column.
        """
        if name not in self.column_names:
            raise KeyError(f"{self.name}: no column {short(name)}; it has {', '.join(map(short, self.column_names))}")
        values = self._table.get(name)
        return [values[row] for row in self._rows]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over id, text, text_pair, target and label of every example in order.

        It does not depend on the kind of source nor on other columns. A label counts by its text, so that the number 1
        of a JSON file equals the "1" of a CSV file.
        """
        digest = hashlib.sha256(b"whence examples 1\n")
        for start in range(0, len(self._rows), 1024):
            rows = self._rows[start : start + 1024]
            digest.update(b"".join(_spelled(self._example(row)) for row in rows))
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
