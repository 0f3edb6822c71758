"""What `proponent tune` tries: every group of layers that a model has, under every method that takes layers."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from proponent.errors import InputError
from proponent.evaluate.controls import refuse_clashes
from proponent.evaluate.experiment import known_method
from proponent.gradients.layer_selection import GROUPS as KNOWN_GROUPS
from proponent.index.layer_vectors import chosen_layers
from proponent.methods import recipe_of
from proponent.models import Run
from proponent.recipe import Recipe

DISJOINT = ("embeddings", "quarter-1", "quarter-2", "quarter-3", "quarter-4", "head")
"""Groups without a layer in common: what votes together, if it is there."""


@dataclass(frozen=True)
class Candidate:
    """One recipe to try.

    Attributes:
        method: as users type it.
        group: of layers; empty for a method that says itself what it scores.
        recipe: the method as data.
    """

    method: str
    group: str
    recipe: Recipe

    @property
    def name(self) -> str:
        """As the table shows it."""
        return f"{self.method}, {self.group}" if self.group else self.method


def candidates(run: Run, methods: Sequence[str], groups: Sequence[str]) -> tuple[list[Candidate], list[str]]:
    """Pair methods with groups of layers."""
    if not methods:
        raise InputError("nothing to try: no method was given")
    refuse_clashes(methods)
    model = run.load(run.checkpoints[-1])
    there = [group for group in groups if _has(run, model, group)]
    notes = (
        [f"this model has no layers in {', '.join(sorted(set(groups) - set(there)))}"]
        if len(there) < len(groups)
        else []
    )
    found: list[Candidate] = []
    for method in methods:
        name, changes = known_method(method)
        recipe = recipe_of(name, **changes)
        if recipe.layer != "layers" or recipe.refit is not None or recipe.curvature == "ggn":
            found.append(Candidate(method, "", recipe))
            continue
        seen: dict[object, str] = {}
        for group in there:
            one = recipe_of(recipe, layers=group)
            choice = chosen_layers(one, run, model)
            what = (choice.rows, tuple(block.name for block in choice.blocks))
            if what in seen:
                notes.append(f"{method}, {group} is left out: the same layers as {seen[what]}")
            else:
                seen[what] = group
                found.append(Candidate(method, group, one))
    if not found:
        raise InputError("nothing to try: " + "; ".join(notes or ["no layers were given"]))
    return found, notes


def _has(run: Run, model: nn.Module, group: str) -> bool:
    """Whether a model has layers of a group; a pattern that matches nothing is an error."""
    try:
        chosen_layers(recipe_of("tracin-layers", layers=group), run, model)
    except InputError:
        if group in KNOWN_GROUPS:
            return False
        raise
    return True
