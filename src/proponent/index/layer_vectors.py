"""Gradients of many layers at one checkpoint: the choice of layers, and how they are laid out as vectors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int
from torch import nn

from proponent.errors import InputError
from proponent.gradients.layer_hooks import TokenWords
from proponent.gradients.layer_selection import Choice, choose
from proponent.gradients.model_parts import classifier_head, input_embedding, vocabulary_head
from proponent.gradients.projection import Projection
from proponent.models import Encoded, Run
from proponent.recipe import Recipe
from proponent.store import PlannedBlock

SMALL = 32_768
"""Parameters of layers up to which "auto" keeps gradients in full."""

PROJECTED = 32
"""Width that "auto" projects the sides of larger models' layers to."""


@dataclass(frozen=True)
class LayerVectors:
    """The layers of a recipe in one model.

    Attributes:
        choice: which they are.
        recipe: says how they are laid out; its width of projection is settled.
    """

    choice: Choice
    recipe: Recipe

    @cached_property
    def projection(self) -> Projection:
        """Lays gradients out as vectors."""
        assert self.recipe.project != "auto"
        return Projection(self.choice.blocks, self.recipe.project, self.recipe.seed)

    @property
    def widths(self) -> list[int]:
        """Numbers kept of each layer, in the order of the vectors."""
        return [math.prod(self.projection.shapes[one.name]) for one in self.choice.blocks]

    def width(self, table: int, lengths: Int[np.ndarray, " n"]) -> int:
        """Numbers kept per token, as if an example's vector were spread over its tokens."""
        return max(table, int(self.projection.size / max(1.0, float(lengths.mean()))))

    def planned(self) -> list[PlannedBlock]:
        """Describe the layers for the plan of an index."""
        return [
            PlannedBlock(name=one.name, o=one.o, i=one.i, kept_o=kept[0], kept_i=kept[1])
            for one in self.choice.blocks
            for kept in (self.projection.shapes[one.name],)
        ]

    def notes(self) -> list[str]:
        """Say which layers are scored, and whether in full."""
        lines = [f"{self.recipe.name} scores {self.choice.description()}"]
        if not self.choice.blocks:
            return lines
        some, all_of = self.projection.projected, len(self.choice.blocks)
        if some and self.recipe.basis == "leading":
            lines.append(
                f"{some} of {all_of} layers are projected to {self.recipe.project} numbers a side, along the leading "
                "directions of their gradients where a side is not too wide for them: a low rank, not an average"
            )
        elif some:
            lines.append(
                f"{some} of {all_of} layers are projected at random to {self.recipe.project} numbers a side (seed "
                f"{self.recipe.seed}): their products hold on average, with an error of about "
                f"{1 / int(self.recipe.project or 1):.1%} of the product of the norms in each layer"
            )
        else:
            lines.append("gradients of layers are kept in full: products are exact")
        return lines


def refuse_layers(recipe: Recipe) -> None:
    """Refuse what is said of layers to a method that is about none."""
    if recipe.layer == "layers":
        return
    said = {
        one: getattr(recipe, one) for one in ("layers", "biases", "project", "basis", "curvature", "solver", "refit")
    }
    given = [name for name, value in said.items() if value != Recipe.model_fields[name].default]
    if given:
        about = {"embedding": "the word embedding", "head": "the last layer", "none": "no gradient"}[recipe.layer]
        raise InputError(
            f"{recipe.name} is about {about}, and {given[0]} is for methods over layers: choose one, such as --method "
            "tracin-layers (`proponent methods` lists them), or leave it out"
        )


def chosen_layers(recipe: Recipe, run: Run, model: nn.Module) -> Choice:
    """Find the layers of a recipe in a model."""
    if recipe.top is not None or recipe.drop_special or recipe.synonym_threshold is not None or recipe.path != "exact":
        raise InputError(
            f"{recipe.name} is about many layers: top, drop_special, synonym_threshold and path are for the word "
            "embedding: leave them out, or name one of its methods (--method tracin-we-adam-unit)"
        )
    if recipe.solver != "none" and not _plain(recipe):
        raise InputError(
            f"{recipe.name} solves with the gradients themselves: project, basis, curvature, preconditioner, "
            "similarity, unit_norm, refit, measure and several checkpoints are for methods whose vectors are kept"
        )
    if recipe.nearest == "signal" and not run.task.labels:
        raise InputError(
            f"{recipe.name} with nearest=signal compares a classifier's error signals, and this run is no classifier: "
            "choose --set nearest=features"
        )
    if not recipe.layers:
        raise InputError(f"{recipe.name} names no layers: give some with --layers (groups, or patterns over names)")
    head = classifier_head(model) if run.task.labels else vocabulary_head(model)
    return choose(
        model,
        recipe.layers,
        head=head,
        word=input_embedding(model),
        biases=recipe.biases,
        # rows are compared as they are: what turns gradients takes the word embedding like any other layer
        rows=recipe.preconditioner == "none" and recipe.curvature == "none" and recipe.solver == "none",
        decoding=run.task.decodes,
    )


def _plain(recipe: Recipe) -> bool:
    """Whether a recipe with a solver asks for nothing that belongs to kept vectors."""
    kept = (recipe.curvature, recipe.preconditioner) != ("none", "none") or recipe.normed or recipe.refit is not None
    plain = recipe.project is None and recipe.basis == "random"
    return not kept and plain and recipe.measure == "loss" and recipe.checkpoints == "last"


def with_layers_named(recipe: Recipe, run: Run, model: nn.Module) -> Recipe:
    """Settle what a recipe leaves to the model: whether gradients of layers are projected."""
    made = recipe
    if recipe.layer == "layers" and recipe.project == "auto":
        size = sum(block.size for block in chosen_layers(recipe, run, model).blocks)
        made = recipe.model_copy(update={"project": None if size <= SMALL else PROJECTED})
    if made.basis == "leading" and made.project is None and made.layer == "layers" and made.solver == "none":
        raise InputError(
            f"basis=leading says what layers are projected to, and {recipe.name} keeps those of this model in full: "
            "give a width, such as --project 16, or leave it out"
        )
    return made


def token_words(encoded: Encoded) -> TokenWords:
    """Say which words the positions of layers belong to."""
    said = encoded.target_words
    if encoded.start is None or said is None:
        return TokenWords(encoded.words)
    return TokenWords(encoded.words, np.concatenate([[-1], said[:-1]]), said)


def slices_by_length(encoded: Sequence[Encoded]) -> list[slice]:
    """Cut a batch so that in each part examples and positions differ in number: hooks tell them apart by that."""
    n = len(encoded)
    cuts: list[slice] = []
    for start in range(n):
        own = encoded[start:]
        lengths = {max(len(one.ids) for one in own), max(one.length - len(one.ids) for one in own)}
        if len(own) == 1 or len(own) not in lengths:
            return [*cuts, slice(start, n)]
        cuts.append(slice(start, start + 1))
    return cuts
