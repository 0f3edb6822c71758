"""Candidates of `proponent tune`: every group of layers of a model, under every method that takes layers."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from proponent.errors import InputError
from proponent.evaluate.controls import refuse_clashes
from proponent.evaluate.experiment import known_method
from proponent.gradients.layer_selection import GROUPS as KNOWN_GROUPS
from proponent.gradients.layer_vectors import chosen_layers
from proponent.method import Baseline, Gradients, Layers, Retaken, Term
from proponent.method_table import stored_method
from proponent.models import Run

DISJOINT = ("embeddings", "quarter-1", "quarter-2", "quarter-3", "quarter-4", "head")
"""Disjoint groups of layers, which vote together where they exist."""


@dataclass(frozen=True)
class Candidate:
    """One method to try."""

    label: str  # the method as users type it
    group: str  # of layers; empty for a method that defines what it scores
    method: Term  # its specification

    @property
    def name(self) -> str:
        """The name shown in the table."""
        return f"{self.label}, {self.group}" if self.group else self.label


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
    for label in methods:
        name, changes = known_method(label)
        method = stored_method(name, **changes)
        if not _takes_groups(method):
            found.append(Candidate(label, "", method))
            continue
        seen: dict[object, str] = {}
        for group in there:
            one = _scoring(method, group)
            choice = chosen_layers(one, run, model)
            what = (choice.rows, choice.head, tuple(block.name for block in choice.blocks))
            if what in seen:
                notes.append(f"{label}, {group} is left out: the same layers as {seen[what]}")
            else:
                seen[what] = group
                found.append(Candidate(label, group, one))
    if not found:
        raise InputError("nothing to try: " + "; ".join(notes or ["no layers were given"]))
    return found, notes


def _takes_groups(method: Term) -> bool:
    """Whether a method accepts any choice of layers; a fitted or exactly inverted head applies to the head alone."""
    if not isinstance(method, Gradients):
        return isinstance(method, Retaken)
    inverted = any(one.kind == "gauss-newton" for one in method.preconditioners)
    return isinstance(method.gradient, Layers) and method.prepare is None and not inverted


def _scoring(method: str | Term, group: str) -> Gradients | Retaken:
    found = stored_method(method, layers=group)
    assert not isinstance(found, Baseline)
    return found


def _has(run: Run, model: nn.Module, group: str) -> bool:
    """Whether a model has layers of a group; a pattern that matches nothing is an error."""
    try:
        chosen_layers(_scoring("tracin-layers", group), run, model)
    except InputError:
        if group in KNOWN_GROUPS:
            return False
        raise
    return True
