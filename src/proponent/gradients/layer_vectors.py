"""Gradients of many layers at one checkpoint: the choice of layers, and their layout as vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from proponent.gradients.factor_terms import Calls
from proponent.gradients.layer_hooks import TokenWords
from proponent.gradients.layer_selection import ORDINARY, Choice, StorageRule, choose
from proponent.gradients.model_parts import classifier_head, input_embedding, vocabulary_head
from proponent.gradients.pairs import pair_words
from proponent.gradients.projection import WIDEST, Projection
from proponent.method import Baseline, Gradients, Layers, Retaken, Term
from proponent.method import Projection as ProjectionSpec
from proponent.models import Encoded, Run

SMALL = 32_768
"""Maximum number of layer parameters for which "auto" stores gradients in full."""

PROJECTED = 32
"""Width to which "auto" projects each side of larger models' layers."""


@dataclass(frozen=True)
class LayerVectors:
    """The layers of a method in one model."""

    choice: Choice  # the chosen layers
    method: Gradients | Retaken  # determines their layout; its projection width is settled

    @classmethod
    def of(cls, choice: Choice | None, method: Term) -> "LayerVectors | None":
        """The layers, or None if none were chosen."""
        return None if choice is None or isinstance(method, Baseline) else cls(choice, method)

    @cached_property
    def projection(self) -> Projection:
        """The projection that lays gradients out as vectors."""
        spec = self._spec
        assert spec is None or spec.width != "auto"
        width = None if spec is None or spec.width == "auto" else spec.width
        return Projection(self.choice.blocks, width, 0 if spec is None else spec.seed)

    @property
    def _spec(self) -> ProjectionSpec | None:
        return self.method.projection if isinstance(self.method, Gradients) else None

    def width(self, table: int, lengths: Int[np.ndarray, " n"]) -> int:
        """Numbers stored per token, as if an example's vector were spread over its tokens."""
        return max(table, int(self.projection.size / max(1.0, float(lengths.mean()))))

    def by_word(
        self, calls: Calls, encoded: Encoded, width: int, roots: Mapping[str, Tensor] | None = None
    ) -> Float[np.ndarray, "w p"]:
        """Split one example's vector by its words; `roots` multiply the entries of each layer."""
        return self.projection.by_word(calls, token_words(encoded), width, roots)

    def notes(self) -> list[str]:
        """Describe which layers are scored, and whether in full."""
        spec = self._spec
        lines = [f"{self.method.name} scores {self.choice.description()}"]
        some, all_of = self.projection.projected, len(self.choice.blocks)
        if self.choice.placed:
            lines.append(
                "the head shares the word embedding's table: only its use as the head counts, as in tracin-last "
                "(--layers all scores the table with both uses)"
            )
        if self.choice.exact and (some or not all_of):
            lines.append(f"{', '.join(self.choice.exact)}: stored as factors, so dot products are exact")
        if not all_of:
            return lines + self._spared()
        if some and spec is not None and spec.basis == "principal":
            lines.append(
                f"{some} of {all_of} layers are projected to {spec.width} dimensions per side, onto the leading "
                "directions of their gradients where a side is not too wide: a low-rank approximation, not an "
                "unbiased estimate"
            )
        elif some and spec is not None:
            lines.append(
                f"{some} of {all_of} layers are randomly projected to {spec.width} dimensions per side (seed "
                f"{spec.seed}): their dot products are unbiased, with an error of about {int(spec.width) ** -0.5:.0%} "
                "of the product of the norms in each layer (it falls with the square root of the width; `proponent "
                "check` measures what it does to rankings)"
            )
        else:
            lines.append("gradients of layers are stored in full: dot products are exact")
        return lines + self._spared()

    def _spared(self) -> list[str]:
        """Name the tables that are left out, with the reason."""
        if not self.choice.spared:
            return []
        why = (
            "a preconditioner needs vectors"
            if isinstance(self.method, Gradients) and self.method.preconditioners
            else "this model has no exact form for it"
        )
        return [
            f"{', '.join(self.choice.spared)}: a table over the vocabulary, left out: {why}, and a random projection "
            "of it would reorder the scores"
        ]


def chosen_layers(
    method: Gradients | Retaken,
    run: Run,
    model: nn.Module,
    *,
    closed_head: bool = True,
    tables: StorageRule | None = None,
    rows: bool = True,
) -> Choice:
    """Find the layers of a method in a model; `closed_head` and `rows` allow factors of the head and the embedding."""
    gradient = method if isinstance(method, Retaken) else method.gradient
    assert isinstance(gradient, Retaken | Layers)
    head = vocabulary_head(model) if run.task.predicts_tokens else classifier_head(model)
    # factors are compared without preconditioner; with one, these tables are ordinary layers
    plain = isinstance(method, Gradients) and not method.preconditioners
    projection = method.projection if isinstance(method, Gradients) else None
    directed = projection is not None and projection.basis == "principal"  # a head among the layers also has directions
    return choose(
        model,
        gradient.names,
        head=head,
        word=input_embedding(model),
        biases=gradient.biases,
        rows=plain and rows,
        closed=plain and closed_head and not directed and run.task.predicts_tokens,
        tables=_storage_rule(method) if tables is None else tables,
        decoding=run.task.decodes,
    )


def _storage_rule(method: Gradients | Retaken) -> StorageRule:
    """How tables without an exact form and small layers are stored."""
    if not isinstance(method, Gradients):
        return ORDINARY
    spec, curved = method.projection, bool(method.preconditioners)
    if spec is None or spec.width == "auto":
        return StorageRule(apart=True, by_place=True, curved=curved)
    widest = max(spec.width, WIDEST) if spec.basis == "principal" else spec.width
    return StorageRule(widest, apart=True, by_place=True, curved=curved)


def settled(
    method: Term, run: Run, model: nn.Module, *, closed_head: bool = True, tables: StorageRule | None = None
) -> Term:
    """Settle what a method leaves to the model: whether layer gradients are projected."""
    if not isinstance(method, Gradients) or method.projection is None or method.projection.width != "auto":
        return method
    choice = chosen_layers(method, run, model, closed_head=closed_head, tables=tables)
    kept = sum(block.size for block in choice.blocks) <= SMALL
    projection = None if kept else method.projection.model_copy(update={"width": PROJECTED})
    gradient = method.gradient.model_copy(update={"projection": projection})
    return method.model_copy(update={"gradient": gradient})


def token_words(encoded: Encoded) -> TokenWords:
    """Return the words of the layers' positions."""
    said = encoded.target_words
    if encoded.rejected is not None:
        return TokenWords(pair_words(encoded))
    if encoded.start is None or said is None:
        return TokenWords(encoded.words)
    return TokenWords(encoded.words, np.concatenate([[-1], said[:-1]]), said)


def slices_by_length(encoded: Sequence[Encoded]) -> list[slice]:
    """Split a batch so that examples and positions differ in number in each part: hooks identify axes by size."""
    n = len(encoded)
    cuts: list[slice] = []
    for start in range(n):
        own = encoded[start:]
        rows = sum(len(one.sides) for one in own)
        lengths = {max(len(side.ids) for one in own for side in one.sides)}
        lengths |= (
            {max(one.length - len(one.ids) for one in own if one.rejected is None)} if rows == len(own) else set()
        )
        if len(own) == 1 or rows not in lengths:
            return [*cuts, slice(start, n)]
        cuts.append(slice(start, start + 1))
    return cuts
