"""Read methods as version 0.1 wrote them, one flat record of 38 fields. To be removed in the next version."""

from collections.abc import Mapping
from typing import Any

from proponent.errors import InputError
from proponent.method import Method
from proponent.method_fields import made, no_field
from proponent.method_words import FLAT_DEFAULTS, present_value

LINE = (
    "{where} stores its method in the flat format of version 0.1: it can be read; write it again to get the current "
    "format"
)
"""Notice that is shown once per file or index."""


def is_flat(fields: Mapping[str, object]) -> bool:
    """Whether a record is a flat one: it has no kind, and does not name a method to change."""
    return "kind" not in fields and "method" not in fields


def from_flat(fields: Mapping[str, Any], said: str) -> Method:
    """Convert flat fields to a method; fields that had no effect on it are dropped."""
    unknown = next((name for name in fields if name not in FLAT_DEFAULTS), None)
    if unknown is not None:
        raise InputError(no_field(f"method {said}", unknown, FLAT_DEFAULTS))
    flat = FLAT_DEFAULTS | {name: present_value(name, value) for name, value in fields.items()}
    if flat["layer"] == "none" or flat["baseline"] is not None:
        return made(_baseline(flat), said)
    return made(_retaken(flat) if flat["solver"] != "none" else _gradients(flat), said)


def _pick(flat: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: flat[name] for name in names}


def _objective(flat: Mapping[str, Any]) -> dict[str, Any]:
    if flat["measure"] != "loss":
        return {"kind": flat["measure"]}
    masks = {"share": flat["mask_share"], "seed": flat["mask_seed"]}
    default = masks == {"share": FLAT_DEFAULTS["mask_share"], "seed": FLAT_DEFAULTS["mask_seed"]}
    own = {"kind": "loss"} if default else {"kind": "masked-loss"} | masks
    return own | {"reduction": flat["loss"]}


def _baseline(flat: dict[str, Any]) -> dict[str, Any]:
    own = _pick(flat, "name", "checkpoints") | {"which": flat["baseline"]}
    return {"kind": "baseline", "objective": _objective(flat | {"measure": "loss"})} | own


def _retaken(flat: dict[str, Any]) -> dict[str, Any]:
    solver = {"kind": flat["solver"], "depth": flat["depth"]}
    solver |= {"runs": flat["runs"]} if flat["solver"] == "lissa" else {}
    own = {"kind": "retaken", "names": flat["layers"], "solver": solver, "objective": _objective(flat)}
    return own | _pick(flat, "name", "biases", "damping", "scale", "sample", "seed", "candidates", "nearest")


def _gradient(flat: Mapping[str, Any]) -> dict[str, Any]:
    if flat["layer"] == "embedding":
        threshold = flat["synonym_threshold"]
        match = {"kind": "equal"} if threshold is None else {"kind": "similar", "threshold": threshold}
        return {"kind": "embedding-rows", "match": match} | _pick(flat, "path", "top", "top_by", "drop_special")
    if flat["layer"] == "layers":
        width = flat["project"]
        projection = None if width is None else {"width": width} | _pick(flat, "basis", "seed")
        return {"kind": "layers", "names": flat["layers"], "biases": flat["biases"], "projection": projection}
    return {"kind": flat["layer"]}


def _preconditioners(flat: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if flat["preconditioner"] != "none":
        found.append({"kind": flat["preconditioner"], "epsilon": flat["epsilon"]})
    if flat["curvature"] != "none":
        ekfac = ("fisher", "fisher_seed") if flat["curvature"] == "ekfac" else ()
        mixed = ("eval_share", "eval_component") if flat["curvature"] == "autocorrelation" else ()
        found.append({"kind": flat["curvature"]} | _pick(flat, "damping", "damping_of", *ekfac, *mixed))
    return found


def _normalize(flat: Mapping[str, Any]) -> object:
    if flat["similarity"] == "dot":
        return {"True": "train", "False": "none"}.get(str(flat["unit_norm"]), flat["unit_norm"])
    return "both" if flat["similarity"] == "cosine" else flat["similarity"]


def _gradients(flat: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "gradients",
        "name": flat["name"],
        "gradient": _gradient(flat),
        "objective": _objective(flat),
        "prepare": None if flat["refit"] is None else {"kind": "refit-head", "penalty": flat["refit"]},
        "preconditioners": _preconditioners(flat),
        "normalize": _normalize(flat),
        "checkpoints": {"kind": flat["checkpoints"]},
        "weights": {"kind": flat["weights"]},
    }
