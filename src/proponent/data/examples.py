"""Examples: the rows of a data set, stored as columns, with a fingerprint of their content."""

import hashlib
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from typing import Any, overload

import numpy as np
from jaxtyping import Float, Int

from proponent.data.columns import BLOCK, Column, Rows, choose, select
from proponent.data.conversations import Layout, from_json
from proponent.data.table import RawTable, short
from proponent.data.untyped import pa
from proponent.types import Example, Label

_HASHED = ("id", "text", "text_pair", "target", "label")
_SHOWN = (*_HASHED, "content")
_READ = (*_SHOWN, "weight")
_PARTS = (*_SHOWN, "source", "weight")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column has which role.

    A default column may be missing from the data (except `text`); an explicitly named column must exist. An empty name
    disables the role. A column named for one role is not used for another role by its default name. Columns of chat
    fine-tuning (messages, prompt and completion, chosen and rejected, input_ids) are read by their own names, unless
    `text` has another name or `messages` is empty.
    """

    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"
    id: str = "id"
    target: str = "target"
    source: str = "source"
    messages: str = "messages"
    weight: str = ""  # factor of the example's loss; no column by default


class Examples(Sequence[Example]):
    """A sequence of `Example`; rows are stored as columns and an `Example` is created on access."""

    # name: used in messages: the path, or "list of 12 dicts"
    # columns: the role of each column, as requested
    # label_names: names of a `datasets` ClassLabel in order of class number, else None
    # layout: which columns hold the rows
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
        layout: Layout = "text",
    ) -> None:
        self.name = source.name
        self.layout: Layout = layout
        self.columns = columns
        self.label_names = label_names
        self.warnings = warnings
        self._source = source
        self._table = table  # a pyarrow.Table of the validated columns, with the rows of the source
        self._parts = {name: Column(table.column(name)) for name in table.column_names}
        self._rows = range(source.rows) if rows is None else rows

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: the validated columns; columns without a role stay behind."""
        kept = replace(self._source, get=_not_sent, schema=None)
        return _sent, (kept, self._table, self.columns, self.label_names, self.warnings, self._rows, self.layout)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Examples":
        """Nothing of it changes, so a copy is itself."""
        return self

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
        shown: list[Any] = [values.get(name) for name in _READ]
        return _example(row, *shown)

    def __iter__(self) -> Iterator[Example]:
        for rows, values in self._blocks(_READ):
            yield from map(_example, map(int, rows), *values)

    def _blocks(self, names: Sequence[str]) -> Iterator[tuple[Rows, list[Iterable[Any]]]]:
        """Iterate over blocks of rows, with some fields of each."""
        for start in range(0, len(self), BLOCK):
            rows = self._rows[start : start + BLOCK]
            columns = (self._parts.get(name) for name in names)
            yield rows, [repeat(None) if column is None else list(column.take(rows)) for column in columns]

    def _of(self, rows: Rows) -> "Examples":
        names, layout = self.label_names, self.layout
        return Examples(self._source, self._table, columns=self.columns, label_names=names, rows=rows, layout=layout)

    def subset(self, rows: "Sequence[int] | Int[np.ndarray, ' n']") -> "Examples":
        """Select examples; they keep their id and their source row."""
        chosen = np.fromiter(map(operator.index, rows), dtype=np.int64, count=len(rows))
        wrong = chosen[(chosen < 0) | (chosen >= len(self))]
        if len(wrong):
            raise IndexError(f"{self.name}: no row {wrong[0]}; there are {len(self)} rows")
        return self._of(choose(self._rows, chosen))

    @property
    def ids(self) -> list[str]:
        """The ids, one per example."""
        return list(self.part("id"))

    @property
    def texts(self) -> list[str]:
        """The texts, one per example."""
        return list(self.part("text"))

    @cached_property
    def weights(self) -> Float[np.ndarray, " n"] | None:
        """Weight of each example in the loss; None without a column of weights."""
        return np.asarray(list(self.part("weight")), dtype=np.float64) if "weight" in self._parts else None

    @property
    def labels(self) -> list[Label | None]:
        """The labels, one per example; None where there is none."""
        return list(self.part("label"))

    @cached_property
    def sources(self) -> list[str | None]:
        """The source of each example, as a column of the data gives it; None where there is none."""
        return list(self.part("source"))

    def part(self, name: str) -> Sequence[Any]:
        """Return one field of all examples without creating Python objects."""
        if name not in _PARTS:
            raise KeyError(f"unknown part {short(name)}; parts: {', '.join(_PARTS)}")
        if name not in self._parts:
            return Column(pa.nulls(len(self)))
        return self._parts[name].take(self._rows)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Every column of the source, in order, including columns without a role."""
        return self._source.column_names

    def column(self, name: str) -> list[object]:
        """Return the values of any column as they were read (a ClassLabel gives its numbers)."""
        if name not in self.column_names:
            raise KeyError(f"{self.name}: no column {short(name)}; it has {', '.join(map(short, self.column_names))}")
        return list(select(self._source.get(name), self._rows))

    def as_read(self, name: str) -> Sequence[Any]:
        """Return a column of the whole source as it was read, without creating Python objects."""
        return self._source.get(name)

    @property
    def schema(self) -> Any:
        """Types and metadata of the columns of a Parquet or Arrow file, from pyarrow; None for other sources."""
        return self._source.schema

    @property
    def written(self) -> Mapping[str, str]:
        """What the user said about how a CSV or TSV file is written, by the names of the options."""
        return self._source.written

    @property
    def label_column(self) -> str:
        """The column that the labels were read from; empty if there is none."""
        return self.columns.label if "label" in self._parts else ""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over id, text, text_pair, target, label (and content) of every example in order."""
        # It depends neither on the kind of input nor on other columns, such as the column of sources. A label counts by
        # its text, so that the number 1 in a JSON file equals "1" in a CSV file.
        # Every index and decision on disk depends on the hashed prefix: it must never change.
        digest = hashlib.sha256(b"whence examples 1\n")
        # fields that most data lacks are hashed only where they are there
        rare = [name for name in ("content", "weight") if name in self._parts]
        for _, values in self._blocks((*_HASHED, *rare)):
            digest.update(b"".join(map(_spelled, *values)))
        return digest.hexdigest()


def _sent(
    source: RawTable,
    table: Any,
    columns: Columns,
    label_names: tuple[str, ...] | None,
    warnings: tuple[str, ...],
    rows: Rows,
    layout: Layout,
) -> Examples:
    return Examples(
        source, table, columns=columns, label_names=label_names, warnings=warnings, rows=rows, layout=layout
    )


def _not_sent(column: str) -> Sequence[object]:
    raise KeyError(f"column {column!r} was not sent to this process")


def _example(
    row: int,
    name: str,
    text: str,
    pair: str | None,
    target: str | None,
    label: Label | None,
    content: str | None,
    weight: float | None,
) -> Example:
    factor = 1.0 if weight is None else weight
    if content is not None:
        return Example(name, row, label=label, content=from_json(content), weight=factor)
    return Example(name, row, text, label, pair, target, weight=factor)


# each field is its length, a colon and its bytes ("-" for none), so that no two rows have the same encoding
def _spelled(*fields: Any) -> bytes:
    parts: list[bytes] = []
    for value in fields:
        if value is None:
            parts.append(b"-")
        else:
            encoded = str(value).encode()
            parts += (b"%d:" % len(encoded), encoded)
    return b"".join(parts)
