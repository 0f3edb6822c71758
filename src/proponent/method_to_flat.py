"""Write a method as the flat record that is read until methods go through; deleted then."""

from typing import Any

from proponent.errors import InputError
from proponent.method import (
    Baseline,
    EmbeddingRows,
    Gradients,
    Layers,
    LiSSA,
    Loop,
    Method,
    Objective,
    Retaken,
    Similar,
    Sum,
    Term,
)
from proponent.method_flat import from_flat
from proponent.recipe import Recipe

CURVATURES = {"gauss-newton": "ggn"}
BASES = {"principal": "leading", "random": "random"}
CHECKPOINTS = {"all": "all", "last-of-each-run": "last"}


def to_flat(method: Method) -> Recipe:
    """The flat record of a method; a sum, a loop and chosen steps have none."""
    fields: dict[str, Any]
    if isinstance(method, Gradients):
        fields = _gradients(method)
    elif isinstance(method, Retaken):
        fields = _retaken(method)
    elif isinstance(method, Baseline):
        fields = {"layer": "none", "baseline": method.which, "checkpoints": _checkpoints(method)}
    else:
        raise InputError(f"{method.name} is a {method.kind}, which no index holds yet: choose another method")
    return Recipe(name=method.name, **_objective(method.objective), **fields)


def _objective(objective: Objective) -> dict[str, Any]:
    if objective.kind == "logit":
        return {"measure": "logit"}
    masks = {"mask_share": objective.share, "mask_seed": objective.seed} if objective.kind == "masked-loss" else {}
    return {"loss": objective.reduction} | masks


def _checkpoints(method: Gradients | Baseline) -> str:
    if method.checkpoints.kind not in CHECKPOINTS:
        raise InputError(f"{method.name} names steps, which no index holds yet: give --steps instead")
    return CHECKPOINTS[method.checkpoints.kind]


def _retaken(method: Retaken) -> dict[str, Any]:
    fields = method.model_dump(include={"biases", "damping", "scale", "sample", "seed", "candidates", "nearest"})
    runs = {"runs": method.solver.runs} if isinstance(method.solver, LiSSA) else {}
    solver = {"solver": method.solver.kind, "depth": method.solver.depth}
    return (
        {"layer": "layers", "layers": method.names, "checkpoints": "last", "weights": "equal"} | fields | solver | runs
    )


def _gradient(method: Gradients) -> dict[str, Any]:
    gradient = method.gradient
    if isinstance(gradient, EmbeddingRows):
        match = {"synonym_threshold": gradient.match.threshold} if isinstance(gradient.match, Similar) else {}
        return gradient.model_dump(include={"path", "top", "top_by", "drop_special"}) | match
    if not isinstance(gradient, Layers):
        return {"layer": "head"}
    found: dict[str, Any] = {"layer": "layers", "layers": gradient.names, "biases": gradient.biases}
    if gradient.projection is not None:
        projection = gradient.projection
        found |= {"project": projection.width, "basis": BASES[projection.basis], "seed": projection.seed}
    return found


def _gradients(method: Gradients) -> dict[str, Any]:
    found = _gradient(method) | {
        "refit": None if method.prepare is None else method.prepare.penalty,
        "unit_norm": method.normalize == "train",
        "similarity": "cosine" if method.scales_queries else "dot",
        "checkpoints": _checkpoints(method),
        "weights": "equal" if method.weights.kind == "constant" else "learning-rate",
    }
    for part in method.preconditioners:
        word = "preconditioner" if part.stage == "elementwise" else "curvature"
        found |= {word: CURVATURES.get(part.kind, part.kind)} | part.model_dump(exclude={"kind"})
    return found


def as_term(given: Recipe | Method) -> Term:
    """A method of one term, however it is given; what a flat record says to no effect is refused."""
    if isinstance(given, Loop | Sum):
        raise InputError(f"{given.name} is a {given.kind}, which no index holds yet: choose another method")
    if not isinstance(given, Recipe):
        return given
    _refuse_without_effect(given)
    made = from_flat(given.model_dump(mode="json"), given.name)
    assert not isinstance(made, Loop | Sum)
    return made


def _refuse_without_effect(recipe: Recipe) -> None:
    name, layered = recipe.name, recipe.layer == "layers"
    rows = recipe.top is not None or recipe.drop_special or recipe.synonym_threshold is not None
    said = ("layers", "biases", "project", "basis", "curvature", "solver", "refit")
    given = [one for one in said if getattr(recipe, one) != Recipe.model_fields[one].default]
    if given and not layered:
        about = {"embedding": "the word embedding", "head": "the last layer", "none": "no gradient"}[recipe.layer]
        raise InputError(
            f"{name} is about {about}, and {given[0]} is for methods over layers: choose one, such as --method "
            "tracin-layers (`proponent methods` lists them), or leave it out"
        )
    if recipe.layer == "head" and (rows or recipe.normed or recipe.preconditioner != "none"):
        raise InputError(
            f"{name} is about the last layer: top, drop_special, synonym_threshold, unit_norm and preconditioner are "
            "for the word embedding"
        )
    if layered and (rows or recipe.path != "exact"):
        raise InputError(
            f"{name} is about many layers: top, drop_special, synonym_threshold and path are for the word embedding: "
            "leave them out, or name one of its methods (--method tracin-we-adam-unit)"
        )
    if recipe.solver != "none" and not _plain(recipe):
        raise InputError(
            f"{name} solves with the gradients themselves: project, basis, curvature, preconditioner, similarity, "
            "unit_norm, refit, measure and several checkpoints are for methods whose vectors are kept"
        )
    if recipe.basis == "leading" and recipe.project is None:
        raise InputError(full(name))
    if recipe.fisher == "sampled" and recipe.curvature != "ekfac":
        raise InputError(
            f"fisher sampled is about EK-FAC's Fisher matrix, and {name} has curvature {recipe.curvature}: leave it "
            "out, or choose ekfac"
        )


def _plain(recipe: Recipe) -> bool:
    kept = (recipe.curvature, recipe.preconditioner) != ("none", "none") or recipe.normed or recipe.refit is not None
    plain = recipe.project is None and recipe.basis == "random"
    return not kept and plain and recipe.measure == "loss" and recipe.checkpoints == "last"


def full(name: str) -> str:
    """Principal directions of layers that are kept in full."""
    return (
        f"basis=leading says what layers are projected to, and {name} keeps those of this model in full: give a "
        "width, such as --project 16, or leave it out"
    )
