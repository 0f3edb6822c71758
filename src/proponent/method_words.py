"""Words that name a part of a method rather than a field: each adds its part, removes it or changes its kind.

These are field names of the flat record of version 0.1 (`curvature=ekfac`, `project=16`, `similarity=cosine`), which
users type: `--set curvature=ekfac` means `preconditioners: [..., {"kind": "ekfac"}]`. Methods are trees of fields here.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from proponent.errors import InputError
from proponent.method import KINDS, EmbeddingRows, Head, Layers

Tree = dict[str, Any]

LAYERED = frozenset({"layers", "biases", "project", "basis", "curvature", "solver", "refit"})
ROWS = frozenset({"top", "top_by", "drop_special", "synonym_threshold", "path"})
STORED = frozenset({"project", "basis", "curvature", "preconditioner", "similarity", "unit_norm", "refit", "measure"})
NAMED_NONE = frozenset({"preconditioner", "curvature", "solver", "normalize"})
"""Words for which none is a named choice, not a missing value."""

FORMERLY: dict[str, dict[str, str]] = {
    "curvature": {"ggn": "gauss-newton"},
    "weights": {"equal": "constant"},
    "checkpoints": {"last": "last-of-each-run"},
    "basis": {"leading": "principal"},
}
"""Values with a new name, by their word or field."""

FLAT_DEFAULTS: dict[str, Any] = {
    "name": "", "layer": "embedding", "layers": (), "biases": False, "project": None, "basis": "random", "seed": 0,
    "path": "exact", "top": None, "top_by": "token", "drop_special": False, "synonym_threshold": None,
    "preconditioner": "none", "epsilon": 1e-8, "curvature": "none", "damping": 0.1, "damping_of": "mean",
    "fisher": "empirical", "fisher_seed": 0, "eval_share": "auto", "eval_component": 1000 / 65_536, "solver": "none",
    "depth": 500, "runs": 3, "sample": None, "scale": "auto", "candidates": 1000.0, "nearest": "auto",
    "measure": "loss", "refit": None, "checkpoints": "all", "unit_norm": False, "similarity": "dot",
    "weights": "learning-rate", "loss": "mean", "mask_share": 0.15, "mask_seed": 0, "baseline": None,
}  # fmt: skip
"""Fields of the flat record of version 0.1 (the short names), and their defaults."""

ABOUT = {"embedding-rows": EmbeddingRows.about, "head": Head.about, "layers": Layers.about}
DAMPED = "a preconditioner that inverts (autocorrelation, gauss-newton, ekfac or datainf"
OWNERS = {
    "damping": f"{DAMPED}), and of fastif",
    "damping_of": f"{DAMPED})",
    "epsilon": "the preconditioner adam",
    "fisher_seed": "the preconditioner ekfac",
    "eval_share": "the preconditioner autocorrelation",
    "eval_component": "the preconditioner autocorrelation",
    "seed": "a projection (--project 16), and of fastif",
    "depth": "fastif",
    "runs": "fastif with the solver lissa",
    "sample": "fastif",
    "scale": "fastif",
    "candidates": "fastif",
    "nearest": "fastif",
    "baseline": "a baseline (`proponent methods` lists them)",
    "mask_share": "the objective masked-loss",
    "mask_seed": "the objective masked-loss",
}
"""The part that has a field."""


def present_value(name: str, value: object) -> object:
    """The current name of a value."""
    return FORMERLY.get(name, {}).get(value, value) if isinstance(value, str) else value


def misplaced(tree: Tree, name: str, value: object, said: str) -> InputError:
    """Refuse a word whose part the method lacks: name the method, the part and the fix."""
    method, kind = tree["name"], tree["kind"]
    if kind == "sum":
        return InputError(f"{said} is a sum of methods: give {name} to one of its terms, such as terms.0.{name}")
    if kind == "loop":
        return InputError(f"{said} runs its own loop and has no {name}: give its settings, such as settings.NAME=VALUE")
    if kind == "retaken" and name in STORED | {"checkpoints"}:
        return InputError(
            f"{method} solves with the gradients themselves: project, basis, curvature, preconditioner, similarity, "
            f"unit_norm, refit, measure and several checkpoints are for methods that store vectors: leave {name} out, "
            "or choose another method, such as --method ekfac"
        )
    gradient: Tree = tree.get("gradient") or {}
    told = ABOUT.get(gradient.get("kind", ""), "no gradient")
    if name in LAYERED and (kind == "baseline" or told != "many layers"):
        return InputError(
            f"{method} uses {told}, and {name} is for methods over layers: choose such a method, for example --method "
            f"tracin-layers (`proponent methods` lists them), or leave {name} out"
        )
    if name in ROWS:
        return InputError(
            f"{method} uses {told if kind != 'retaken' else 'many layers'}: top, drop_special, synonym_threshold and "
            "path are for the word embedding: leave them out, or choose a method for it (--method "
            "tracin-we-adam-unit)"
        )
    if name == "fisher":
        return InputError(
            f"fisher {value} is for the Fisher matrix of EK-FAC, and {method} has no preconditioner ekfac: choose "
            "--method ekfac, or leave fisher out"
        )
    if name not in OWNERS:
        return InputError(f"{method} uses {told} and has no {name}: leave {name} out, or choose another method")
    return InputError(
        f"option {name} {value!r} of method {said}: {name} is a field of {OWNERS[name]}, and {method} has none: leave "
        f"{name} out, or choose a method that has it"
    )


def other_kind(old: Mapping[str, Any] | None, kind: str) -> Tree:
    """Change the kind of a part: fields that both kinds have are copied, others are dropped."""
    known = KINDS[kind].model_fields if kind in KINDS else {}
    return {"kind": kind} | {name: value for name, value in (old or {}).items() if name != "kind" and name in known}


def _itself(_: Any, value: Any) -> Any:
    return value


def _part(old: Any, value: Any) -> Any:
    return other_kind(old, value) if isinstance(value, str) else value


def _projection(old: Tree | None, value: Any) -> Tree | None:
    return None if value is None else (old or {}) | {"width": value}


def _preconditioners(held: list[Tree], value: Any, *, elementwise: bool) -> list[Any]:
    mine = next((one for one in held if (one["kind"] == "adam") == elementwise), None)
    rest = [one for one in held if one is not mine]
    new: list[Any] = [] if value == "none" else [_part(mine, value)]
    return [*new, *rest] if elementwise else [*rest, *new]


def _mask(old: Tree, value: Any, field: str) -> Tree:
    unchanged = old["kind"] == "loss" and value == FLAT_DEFAULTS[f"mask_{field}"]
    return old if unchanged else other_kind(old, "masked-loss") | {field: value}


def _measure(old: Tree, value: Any) -> Any:
    if value == "loss":
        return {"kind": "loss"} if old["kind"] == "logit" else old
    return {"kind": value} if isinstance(value, str) else value


WORDS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "layer": ("gradient", lambda old, value: _part(old, "embedding-rows" if value == "embedding" else value)),
    "gradient": ("gradient", lambda old, value: _part(old, "embedding-rows" if value == "embedding" else value)),
    "layers": ("names", _itself),
    "project": ("projection", _projection),
    "basis": ("basis", _itself),
    "seed": ("seed", _itself),  # masks and sampled labels have their own names
    "synonym_threshold": (
        "match",
        lambda _, value: {"kind": "equal"} if value is None else {"kind": "similar", "threshold": value},
    ),
    "preconditioner": ("preconditioners", partial(_preconditioners, elementwise=True)),
    "curvature": ("preconditioners", partial(_preconditioners, elementwise=False)),
    "solver": ("solver", _part),
    "similarity": ("normalize", lambda old, value: "both" if value == "cosine" else "none" if old == "both" else old),
    # a cosine scales both sides, whatever is given here
    "unit_norm": ("normalize", lambda old, value: old if old == "both" else "train" if value else "none"),
    "refit": ("prepare", lambda _, value: None if value is None else {"kind": "refit-head", "penalty": value}),
    "measure": ("objective", _measure),
    "mask_share": ("objective", partial(_mask, field="share")),
    "mask_seed": ("objective", partial(_mask, field="seed")),
    "loss": ("reduction", _itself),
    "checkpoints": ("checkpoints", _part),
    "weights": ("weights", _part),
}
"""All words, in the order in which they are applied: the field that each sets, and how."""

UNSAID: dict[str, tuple[object, ...]] = {
    "layers": ([], "", None),
    "solver": ("none", None),
    "checkpoints": ("last-of-each-run",),
    "weights": ("learning-rate", "constant"),
}
"""Values that are already true for a method without the part; for the other words, their defaults."""

CHOICES: dict[str, tuple[object, ...]] = {
    "preconditioner": ("none", *(kind for kind, spec in KINDS.items() if getattr(spec, "stage", "") == "elementwise")),
    "curvature": ("none", *(kind for kind, spec in KINDS.items() if getattr(spec, "stage", "") == "query")),
    "similarity": ("dot", "cosine"),
    "unit_norm": (True, False),
}
"""Allowed values of some words; the first two also accept a whole part."""


def apply_word(tree: Tree, word: str, value: object, said: str) -> None:
    """Apply a word; a method without its part accepts only a value that is already true."""
    field, new = WORDS[word]
    name = "layer" if word == "gradient" else word
    given = "none" if value is None and field == "preconditioners" else present_value(word, value)
    place = _place(tree, field, word, given)
    if place is None:
        if given not in UNSAID.get(name, (FLAT_DEFAULTS[name],)):
            raise _unlike(tree, word, value) or misplaced(tree, name, value, said)
        return
    if word in CHOICES and not isinstance(given, dict) and given not in CHOICES[word]:
        known = ", ".join(map(str, CHOICES[word]))
        raise InputError(f"option {word} {given!r} of method {said}: choose one of {known}")
    place[field] = new(place.get(field), given)


def _place(tree: Tree, field: str, word: str, value: object) -> Tree | None:
    """The part of a method with the field of a word; None if the word does not apply."""
    kind: str = tree["kind"]
    gradient: Tree = tree.get("gradient") or {}
    objective: Tree = tree.get("objective") or {}
    layers_only = (word == "curvature" and value != "none") or (word == "refit" and value is not None)
    if (
        (word == "measure" and kind != "gradients")
        or (word == "checkpoints" and kind == "retaken")
        or (word.startswith("mask_") and objective.get("kind") not in {"loss", "masked-loss"})
        or (layers_only and gradient.get("kind") != "layers")
    ):
        return None
    if field in {"basis", "seed"} and gradient.get("projection") is not None:
        return gradient["projection"]
    places = (objective,) if field == "reduction" else (tree, gradient)
    return next((one for one in places if field in one), None)


def _unlike(tree: Tree, word: str, value: object) -> InputError | None:
    """Refuse a word whose part was removed by another setting of the method."""
    name: str = tree["name"]
    gradient: Tree = tree.get("gradient") or {}
    if word == "basis" and "projection" in gradient:
        return InputError(
            f"basis={value} is for projected layers, and {name} stores the layers of this model in full: give a "
            "width, such as --project 16, or leave basis out"
        )
    if word == "solver" and gradient.get("kind") == "layers":
        return InputError(
            f"{name} stores its gradients, and solver={value} is for methods that compute them again: choose --method "
            "fastif, or leave solver out"
        )
    if word == "loss" and tree.get("objective") is not None:
        return InputError(
            f"{name} uses the logit of a label, which is not a sum over tokens: leave loss={value} out, or give "
            "measure=loss too"
        )
    return None
