"""All forms that a method stores for some examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.gradients.forms import Dense, Outer, Ragged, Rows
from proponent.gradients.vocabulary_head import HeadOuter


@dataclass(frozen=True)
class Gradient:
    """All forms that a method stores for n examples at one checkpoint."""

    rows: Rows | None = None  # embedding gradient
    outer: Outer | None = None  # last layer of a classifier
    head: HeadOuter | None = None  # vocabulary head
    dense: Dense | None = None  # other layers, as one vector
    # for queries with a vocabulary head: factors of the products of table entries, word embedding rows included. They
    # belong to the checkpoint and are not stored
    weight: Float[np.ndarray, "v d"] | None = None

    def __len__(self) -> int:
        return max((len(form) for form in self._forms().values()), default=0)

    def times(self, factors: Float[np.ndarray, " n"]) -> "Gradient":
        """Multiply everything but the last layer of a classifier."""
        if self.outer is not None:
            raise TypeError("the last layer of a classifier is not scaled")
        rows, head, dense = self.rows, self.head, self.dense
        column = factors.astype(np.float32)[:, None]
        return Gradient(
            rows=None if rows is None else rows.times(column[rows.owners]),
            head=None if head is None else replace(head, weight=head.weight * column[head.owners, 0]),
            dense=None if dense is None else Dense(dense.indptr, dense.v * column[dense.owners]),
        )

    def example(self, position: int) -> "Gradient":
        """Select one example."""
        return self._each(lambda form: form.example(position))

    def without(self, examples: Bool[np.ndarray, " n"]) -> "Gradient":
        """Remove all rows of some examples."""
        return self._each(lambda form: form.without(examples))

    def finite(self, count: int) -> Bool[np.ndarray, " n"]:
        """Whether each example holds only finite numbers."""
        return np.all([np.ones(count, dtype=np.bool_), *(form.finite() for form in self._forms().values())], axis=0)

    def pack(self) -> dict[str, np.ndarray]:
        """Convert the forms to named arrays, "form.array"."""
        return {
            f"{name}.{field.name}": getattr(form, field.name)
            for name, form in self._forms().items()
            for field in fields(form)
        }

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray]) -> "Gradient":
        """Read forms back from named arrays."""
        kinds: dict[str, type[Rows | Outer | HeadOuter | Dense]] = {
            "rows": Rows,
            "outer": Outer,
            "head": HeadOuter,
            "dense": Dense,
        }
        made = {
            name: kind(**{field.name: arrays[f"{name}.{field.name}"] for field in fields(kind)})
            for name, kind in kinds.items()
            if f"{name}.indptr" in arrays
        }
        return cls(**cast("dict[str, Any]", made))

    @classmethod
    def stack(cls, parts: Sequence["Gradient"]) -> "Gradient":
        """Concatenate the examples of several gradients."""
        packed = [part.pack() for part in parts]
        arrays: dict[str, np.ndarray] = {}
        for name in packed[0]:
            columns = [one[name] for one in packed]
            counts = np.concatenate([np.diff(column) for column in columns]) if name.endswith(".indptr") else None
            arrays[name] = np.concatenate(columns) if counts is None else np.concatenate([[0], np.cumsum(counts)])
        return replace(cls.unpack(arrays), weight=parts[0].weight)

    def mean(self, places: Sequence[np.ndarray]) -> "Gradient":
        """The mean gradient of all examples, as a single example: products are linear in it."""
        n = np.float32(len(self))
        starts = np.concatenate([[0], np.cumsum([len(one) for one in places])])
        flat: Int[np.ndarray, " m"] = np.concatenate([*places, np.zeros(1, dtype=np.int64)])  # not empty
        whole: dict[str, Any] = {}
        for name, form in self._forms().items():
            one = np.asarray([0, int(form.indptr[-1])])
            if isinstance(form, Dense):
                whole[name] = Dense.of(form.v.mean(0, dtype=np.float64, keepdims=True).astype(np.float32))
                continue
            at = np.minimum(starts[form.owners] + np.maximum(form.words, 0), len(flat) - 1)
            words = np.where(form.words < 0, -1, flat[at])
            scaled = "rows" if isinstance(form, Rows) else "g" if isinstance(form, Outer) else "weight"
            whole[name] = replace(form, indptr=one, words=words, **{scaled: getattr(form, scaled) / n})
        return Gradient(**whole, weight=self.weight)

    def _each(self, turn: Callable[[Ragged], Ragged]) -> "Gradient":
        made = {name: turn(form) for name, form in self._forms().items()}
        return Gradient(**cast("dict[str, Any]", made), weight=self.weight)

    def _forms(self) -> dict[str, Rows | Outer | HeadOuter | Dense]:
        parts = {"rows": self.rows, "outer": self.outer, "head": self.head, "dense": self.dense}
        return {name: form for name, form in parts.items() if form is not None}
