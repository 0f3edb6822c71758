"""Inverse document frequency: log((n + 1) / (df + 1)) of every token multiplies its row, on both sides.

The query side is multiplied by its square, so that stored rows do not depend on other rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from proponent.errors import DamagedError, InputError
from proponent.gradients.forms import Rows
from proponent.gradients.gradient import Gradient
from proponent.method import Gradients
from proponent.method_parts import IDF
from proponent.preconditioners.base import (
    BuildOptions,
    Cost,
    FitFacts,
    ModelFacts,
    Pass,
    Preconditioner,
    Stage,
    counted,
)
from proponent.preconditioners.batches import Arrays, Batch, LayerShape, Parts, StoredBatch, Sums, TrainVectors

COUNT = Pass("frequencies", "gradients", "after")


class Fitter(Preconditioner):
    """Weights tokens by how few training examples contain them."""

    stage: ClassVar[Stage] = "elementwise"
    accepts: ClassVar[frozenset[type]] = frozenset({Rows})
    symmetric: ClassVar[bool] = True
    repeated: ClassVar[Pass | None] = COUNT
    outdated: ClassVar[str] = "document frequencies are those of the first build"

    def __init__(self, spec: IDF, method: Gradients) -> None:
        self.spec, self.method = spec, method

    def check(self, facts: ModelFacts) -> None:
        """Refuse a head that shares the table, where its gradient is stored apart from the rows."""
        if facts.head:
            raise InputError(
                f"{self.method.name} weighs the rows of the embedding, and this model's head shares its table: choose "
                "--path input, or keep rows by their direction (tracin-we-idf)"
            )

    def passes(self, options: BuildOptions) -> tuple[Pass, ...]:
        """One scan of the tokens of finished gradients."""
        return (COUNT,)

    def source(self, options: BuildOptions) -> str:
        """Describe where frequencies come from."""
        return "document frequencies of the training set"

    def arrays(self, layers: Sequence[LayerShape]) -> tuple[str, ...]:
        """Array names whose presence in a table means that fitting is done."""
        return ("frequencies", "documents")

    def partial(self, this: Pass, batch: Batch, known: Arrays, group: Sequence[LayerShape]) -> Parts:
        """The number of examples that contain each token."""
        assert isinstance(batch, StoredBatch)
        assert batch.gradient.rows is not None
        size = len(known["frequencies"]) if "frequencies" in known else batch.table[0]
        yield "frequencies", document_frequencies(batch.gradient.rows, size)
        yield "documents", np.asarray([int(batch.alive.sum())])

    def reduce(self, this: Pass, sums: Sums, known: Arrays, group: Sequence[LayerShape]) -> Arrays:
        """Store the counts: an appended source may be compared with them."""
        return {name: sums[name] for name in ("frequencies", "documents")}

    def apply(
        self, gradient: Gradient, table: Arrays, layers: Sequence[LayerShape], train: TrainVectors | None
    ) -> Gradient:
        """Multiply rows by the weights of both sides."""
        rows = gradient.rows
        if rows is None:
            return gradient
        weights = token_weights(*_counts(table, rows), self.spec.power)
        return replace(gradient, rows=rows.times((weights[rows.ids] ** 2).astype(np.float32)[:, None]))

    def describe(self, table: Arrays, facts: FitFacts) -> list[str]:
        """Report when no token distinguishes examples."""
        if flat(table["frequencies"], int(table["documents"][0])):
            return ["every token occurs in every training example: idf would be 0 for all tokens, and is set to 1"]
        return []

    def appended(self, table: Arrays, batches: Iterable[Batch]) -> str:
        """Report how far the frequencies have drifted."""
        kept, documents = table["frequencies"], int(table["documents"][0])
        fresh, count = np.zeros_like(kept), 0
        for batch in batches:
            sums = dict(self.partial(COUNT, batch, table, ()))
            fresh, count = fresh + sums["frequencies"], count + int(sums["documents"][0])
        power, held = self.spec.power, max(int(fresh.sum()), 1)
        before = token_weights(kept, documents, power)
        after = token_weights(kept + fresh, documents + count, power)
        moved = float(fresh @ np.abs(after - before)) / max(float(fresh @ before), 1e-12)
        unseen = float(fresh[kept == 0].sum()) / held
        return (
            f"{self.outdated}; with these rows idf would differ by {moved:.1%} on "
            f"average, and {unseen:.1%} of their tokens are new: `proponent merge` counts again"
        )

    def cost(self, facts: ModelFacts) -> Cost:
        """One scan, and a count per token."""
        return counted(self.passes(facts.options), 8 * facts.table[0] + 8)


def _counts(table: Arrays, rows: Rows) -> tuple[Int[np.ndarray, " v"], int]:
    """The counts of a table, which are refused if they are not those of the rows' vocabulary."""
    frequencies, documents = table["frequencies"], int(table["documents"][0])
    least, most = int(frequencies.min(initial=0)), int(frequencies.max(initial=0))
    if rows.ids.max(initial=-1) >= len(frequencies) or least < 0 or most > documents:
        raise DamagedError(
            f"the document frequencies of this index ({len(frequencies)} tokens, {documents} texts) are those of "
            "another: build the index again"
        )
    return frequencies, documents


def document_frequencies(rows: Rows, size: int) -> Int[np.ndarray, " v"]:
    """Count the examples that contain each token."""
    held = np.unique(rows.owners * np.int64(size) + rows.ids)
    return np.bincount(held % size, minlength=size)


def flat(frequencies: Int[np.ndarray, " v"], documents: int) -> bool:
    """Whether every token that occurs is in every example."""
    return bool((frequencies[frequencies > 0] >= documents).all())


def token_weights(frequencies: Int[np.ndarray, " v"], documents: int, power: float = 1.0) -> Float[np.ndarray, " v"]:
    """The weight of each token; 1 for all of them if no token distinguishes examples."""
    if flat(frequencies, documents):
        return np.ones(len(frequencies))
    return np.log((documents + 1) / (frequencies + 1)) ** power
