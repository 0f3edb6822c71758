"""Refusals for combinations of method and model: the only place that checks one against the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from proponent.errors import InputError
from proponent.gradients.computer import GradientSpec
from proponent.gradients.layer_selection import ORDINARY
from proponent.gradients.layer_vectors import LayerVectors, settled
from proponent.gradients.model_parts import is_tied, table_shape, word_tables
from proponent.index.options import Options
from proponent.index.planning import has_plan, planned_blocks, stores_otherwise
from proponent.method import EmbeddingRows, Gradients, Layers, Logit, Loss, MaskedLoss, Retaken, Term
from proponent.models import Checkpoint, Run
from proponent.preconditioners.base import Fitter, ModelFacts, fitters_of
from proponent.preconditioners.batches import LayerShape, layer_shapes

STORED_TABLES: tuple[dict[str, Any], ...] = ({}, {"tables": ORDINARY}, {"tables": ORDINARY, "closed_head": False})
"""How indexes store vocabulary tables, newest first: exactly or not at all, and by place; under a preconditioner as
vectors; the vocabulary head as vectors, too."""


@dataclass(frozen=True)
class CheckedMethod:
    """A method that a model allows, with everything that follows from both."""

    method: Term  # the method with its projection settled
    spec: GradientSpec  # which gradients are computed
    layers: LayerVectors | None  # layout of layer gradients; None without layers
    shapes: Sequence[LayerShape]  # of those layers
    table: tuple[int, int]  # size of the word embedding
    fitters: Sequence[Fitter]  # fits in addition to the gradients
    facts: ModelFacts  # what the fitters were checked against


def check_model(
    method: Term,
    run: Run,
    model: nn.Module,
    checkpoints: Sequence[Checkpoint],
    options: Options,
    *,
    queries: bool = True,
    **how: Any,
) -> CheckedMethod:
    """Refuse what this model or these options do not allow; a forecast does not know the build's queries."""
    for problem in (*_problems(method, run, model), *_unused_queries(method, options)):
        raise InputError(problem)
    given = method.projection if isinstance(method, Gradients) else None
    method = settled(method, run, model, **how)
    full = isinstance(method, Gradients) and method.projection is None
    if given is not None and given.basis == "principal" and full:
        raise InputError(
            f"basis=principal is for projected layers, and {method.name} stores the layers of this model in full: "
            "give a width, such as --project 16, or leave basis out"
        )
    spec = GradientSpec.of_index(method, run, model, **how)
    layers = LayerVectors.of(spec.choice, method)
    shapes = layer_shapes(planned_blocks(layers))
    table = table_shape(model, decoding=run.task.decodes)
    classes = len(run.task.labels) or None
    facts = ModelFacts(classes, table, spec.head, shapes, checkpoints, options)
    fitters = fitters_of(method)
    for one in fitters:
        if queries or one.stage != "query":
            one.check(facts)
    if options.rows != "fp32" and not spec.rows:
        raise InputError(f"--rows {options.rows} is for rows of the word embedding, and {method.name} stores none")
    return CheckedMethod(method, spec, layers, shapes, table, fitters, facts)


def check_as_stored(
    folder: Path,
    method: Term,
    run: Run,
    model: nn.Module,
    checkpoints: Sequence[Checkpoint],
    options: Options,
) -> CheckedMethod:
    """Check a model for a build; an existing index of an earlier version keeps its own way of storing tables."""
    *ways, last = STORED_TABLES
    for how in ways:
        try:
            checked = check_model(method, run, model, checkpoints, options, **how)
        except InputError:
            if not has_plan(folder):
                raise
            continue
        choice = checked.spec.choice
        if choice is None or not stores_otherwise(folder, (*choice.exact, *choice.spared), checked.spec.path):
            return checked
    return check_model(method, run, model, checkpoints, options, **last)


def too_coarse(method: Term, dtype: str) -> str | None:
    """Say why a method does not work in half precision."""
    if dtype == "float32" or not isinstance(method, Retaken):
        return None
    return f"{method.name} solves with the Hessian, for which {dtype} is too coarse: leave --dtype out (dtype=)"


def _problems(method: Term, run: Run, model: nn.Module) -> Iterator[str]:
    name, task = method.name, run.task
    coarse = too_coarse(method, run.placement.dtype)
    if coarse is not None:
        yield coarse
    if isinstance(method.objective, MaskedLoss) and not task.masks:
        yield (
            f"{name} draws masks (masked-loss), and this run is not a masked language model: leave mask_share and "
            "mask_seed out"
        )
    if isinstance(method.objective, Loss) and method.objective.temperature != 1 and not task.labels:
        yield f"{name} has a temperature, which is for classifiers, and this run is none: leave temperature out"
    if isinstance(method, Retaken) and method.nearest == "signal" and not task.labels:
        yield (
            f"{name} with nearest=signal compares the error signals of a classifier, and this run is not a "
            "classifier: choose --set nearest=features"
        )
    gradient = method.gradient if isinstance(method, Gradients) else method
    if isinstance(gradient, Layers | Retaken) and not gradient.names:
        yield f"{name} needs layers: choose them with --layers (groups, or patterns over names)"
    refit = isinstance(method, Gradients) and method.prepare is not None  # the representer refit has its own refusals
    if isinstance(method.objective, Logit) and not task.labels and not refit:
        yield f"{name} uses the logit of a label, and this run has no labels: leave measure=logit out"
    if isinstance(gradient, EmbeddingRows) and run.padding.moves:
        yield (
            f"{type(model).__name__} embeds other tokens than its input (it shifts, truncates or pads the input): "
            f"{name} cannot assign gradients to tokens; choose a method of layers, such as grad-cos"
        )
    if isinstance(method, Gradients) and isinstance(gradient, EmbeddingRows):
        yield from _path_problems(method, gradient, model, decoding=task.decodes)


def _path_problems(method: Gradients, rows: EmbeddingRows, model: nn.Module, *, decoding: bool) -> Iterator[str]:
    """Problems between the method's path through the word embedding and the head's use of the same table."""
    tied = is_tied(model, decoding=decoding)
    if not tied and rows.path == "output":
        yield (
            "path 'output' needs a head that shares the embedding's table, and this model's does not: use tracin-last "
            "for the head"
        )
    if tied and rows.path != "input":
        if len(word_tables(model, decoding=decoding)) > 1:
            yield (
                "encoder and decoder of this model have separate embedding tables, and the head shares the "
                "decoder's: choose --path input (the head's part is then left out; tracin-last gives it)"
            )
        if rows.direction is None and (method.scales_train or rows.selects_rows):
            yield (
                f"{method.name} works only on the rows of the embedding, and this model's head shares its table: "
                "choose --path input (the head's part is then left out, and the answer says so)"
            )


def _unused_queries(method: Term, options: Options) -> Iterator[str]:
    """Report queries that the method does not use."""
    passes = [one for fitter in fitters_of(method) for one in fitter.passes(options)]
    if options.queries is not None and all(one.over != "queries" for one in passes):
        other = method.preconditioner("query") if isinstance(method, Gradients) else None
        yield (
            f"--eval is for methods with an autocorrelation, and {method.name} has curvature "
            f"{'none' if other is None else other.kind}: leave it out, or choose trackstar"
        )
