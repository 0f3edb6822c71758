"""Write a method as the flat record that is read until methods go through; deleted then."""

from typing import Any

from proponent.errors import InputError
from proponent.method import Baseline, EmbeddingRows, Gradients, Layers, LiSSA, Objective, Retaken, Similar
from proponent.recipe import Recipe

CURVATURES = {"gauss-newton": "ggn"}
BASES = {"principal": "leading", "random": "random"}
CHECKPOINTS = {"all": "all", "last-of-each-run": "last"}


def to_flat(method: Any) -> Recipe:
    """The flat record of a method; a sum, a loop and chosen steps have none."""
    fields: dict[str, Any]
    if isinstance(method, Recipe):
        return method
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
