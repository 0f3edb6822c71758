"""Adam's second moment v: each product of two gradients is divided once by sqrt(v + epsilon).

To first order this is the effect of an Adam step on the training example on the query's loss, up to momentum and the
position of epsilon. For the word embedding the query side is divided, so an index stores plain rows. Layer gradients
are divided on both sides, before they are projected.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from proponent.errors import InputError
from proponent.gradients.forms import Rows
from proponent.gradients.gradient import Gradient
from proponent.method import Gradients
from proponent.method_parts import Adam
from proponent.preconditioners.base import (
    BuildOptions,
    CheckpointFiles,
    Cost,
    ModelFacts,
    Pass,
    Preconditioner,
    Stage,
    counted,
)
from proponent.preconditioners.batches import (
    Arrays,
    Batch,
    Computer,
    LayerShape,
    Parts,
    StoredBatch,
    Sums,
    TextBatch,
    TrainVectors,
)

ESTIMATED = "estimated: mean squared row gradient over the training set"


class Fitter(Preconditioner):
    """Divides gradients by the root of Adam's second moment."""

    stage: ClassVar[Stage] = "elementwise"
    accepts: ClassVar[frozenset[type]] = frozenset({Rows})

    def __init__(self, spec: Adam, method: Gradients) -> None:
        self.spec, self.method = spec, method
        self.by_layer = method.gradient.kind == "layers"

    def check(self, facts: ModelFacts) -> None:
        """Refuse second moments that are missing and cannot be estimated."""
        if facts.options.second_moment != "estimate":
            from proponent.preconditioners.second_moments import refuse_missing

            for checkpoint in facts.checkpoints:
                refuse_missing(checkpoint, self.method.name, facts.options.second_moment, by_layer=self.by_layer)
        elif facts.head:
            raise InputError(
                "the second moment cannot be estimated for a table that the head shares: "
                "record it (proponent.Recorder), or choose --path input"
            )

    def passes(self, options: BuildOptions) -> tuple[Pass, ...]:
        """No pass is needed where second moments are read from files."""
        if options.second_moment != "estimate":
            return ()
        return (Pass("squares", "texts", "before") if self.by_layer else Pass("rows", "gradients", "after"),)

    def source(self, options: BuildOptions) -> str:
        """Describe where second moments come from."""
        if options.second_moment == "estimate":
            return ESTIMATED
        read = "read from optimizer.pt" if options.second_moment == "optimizer" else "recorded at the step"
        return f"Adam's second moment, {read}"

    def arrays(self, layers: Sequence[LayerShape]) -> tuple[str, ...]:
        """Array names whose presence in a table means that fitting is done."""
        return tuple(f"root.{layer.at}" for layer in layers) if self.by_layer else ("inverse_root",)

    def recorded(self, checkpoint: CheckpointFiles, computer: Computer, options: BuildOptions) -> Arrays:
        """Read second moments from the checkpoint."""
        if options.second_moment == "estimate":
            return {}
        from proponent.preconditioners import second_moments

        if not self.by_layer:
            v = second_moments.of_table(checkpoint, self.method.name, options.second_moment, computer.table)
            return {"inverse_root": self._inverse_root(v)}
        found = second_moments.of_layers(checkpoint, self.method.name, options.second_moment, computer)
        return {f"root.{at}": self._inverse_root(v) for at, v in enumerate(found)}

    def partial(self, this: Pass, batch: Batch, known: Arrays, group: Sequence[LayerShape]) -> Parts:
        """Sums of squares of the per-example gradients."""
        yield from _squared_rows(batch) if isinstance(batch, StoredBatch) else _squared_layers(batch, group)

    def reduce(self, this: Pass, sums: Sums, known: Arrays, group: Sequence[LayerShape]) -> Arrays:
        """1 / sqrt(v + epsilon), where v is the mean square."""
        seen = max(int(sums["seen"][0]), 1)
        if this.name == "rows":
            return {"inverse_root": self._inverse_root(sums["rows"] / seen)}
        totals = {layer.at: sums.get(f"squares.{layer.at}", np.zeros((layer.o, layer.i))) for layer in group}
        return {f"root.{at}": self._inverse_root(total / seen) for at, total in totals.items()}

    def _inverse_root(self, v: Float[np.ndarray, "x y"]) -> Float[np.ndarray, "x y"]:
        return (1.0 / np.sqrt(v + np.float32(self.spec.epsilon))).astype(np.float32)

    def install(self, computer: Computer, table: Arrays) -> None:
        """Set the elementwise factor of the layer gradients."""
        if self.by_layer:
            from proponent.preconditioners.second_moments import weights

            computer.elementwise = weights(computer, table)

    def fingerprints(self, checkpoints: Mapping[str, CheckpointFiles], options: BuildOptions) -> dict[str, str]:
        """Hash the files that second moments come from; checkpoints by name."""
        if options.second_moment == "estimate":
            return {}
        from proponent.preconditioners.second_moments import file_hash

        return {f"moments {name}": file_hash(one, options.second_moment) for name, one in checkpoints.items()}

    def apply(
        self, gradient: Gradient, table: Arrays, layers: Sequence[LayerShape], train: TrainVectors | None
    ) -> Gradient:
        """Divide rows of the word embedding; with a head, record the divisor of products with the whole table."""
        rows = gradient.rows
        if self.by_layer:  # layer vectors are divided when they are computed
            return gradient
        if gradient.head is not None:
            return replace(gradient, weight=table["inverse_root"])
        if rows is None:
            return gradient
        return replace(gradient, rows=rows.times(table["inverse_root"][rows.ids]))

    def appended(self, table: Arrays, batches: Iterable[Batch]) -> str:
        """Second moments are not computed again."""
        return "second moments are those of the first build"

    def cost(self, facts: ModelFacts) -> Cost:
        """Passes, and the stored roots."""
        v, d = facts.table
        kept = sum(layer.o * layer.i for layer in facts.layers) if self.by_layer else v * d
        return counted(self.passes(facts.options), 4 * kept)


def _squared_rows(batch: StoredBatch) -> Parts:
    """Squares of each example's gradient, summed over the examples, as a full table."""
    rows = batch.gradient.rows
    assert rows is not None
    totals = rows.merged(by_word=False)
    together = np.asarray([0, len(totals.ids)])  # treated as one example: sums the squares of equal tokens
    squares = replace(totals, indptr=together, rows=totals.rows**2).merged(by_word=False)
    table = np.zeros(batch.table, dtype=np.float32)
    table[squares.ids] = squares.rows
    yield "rows", table
    yield "seen", np.asarray([len(rows)])


def _squared_layers(batch: TextBatch, group: Sequence[LayerShape]) -> Parts:
    """Squares of the layer gradients, summed over the texts."""
    from proponent.preconditioners.second_moments import squares

    numbers = {layer.name: layer.at for layer in group}
    for name, value in squares(batch):
        yield f"squares.{numbers[name]}", value
    yield "seen", np.asarray([batch.count])
