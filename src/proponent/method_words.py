"""Words that name a part of a method and not a field: each puts its part in, takes it out or changes its kind.

These are names of the flat record of version 0.1 (`curvature=ekfac`, `project=16`, `similarity=cosine`), which users
type: `--set curvature=ekfac` is `preconditioners: [..., {"kind": "ekfac"}]`. A method is a tree of fields here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from proponent.errors import InputError
from proponent.method import KINDS, EmbeddingRows, Head, Layers, Stage

Tree = dict[str, Any]
Word = Callable[[Tree, object, str], None]

LAYERED = frozenset({"layers", "biases", "project", "basis", "curvature", "solver", "refit"})
ROWS = frozenset({"top", "top_by", "drop_special", "synonym_threshold", "path"})
STORED = frozenset({"project", "basis", "curvature", "preconditioner", "similarity", "unit_norm", "refit", "measure"})
NAMED_NONE = frozenset({"preconditioner", "curvature", "solver", "normalize"})
"""Words where none is a choice by that name, and not the absence of a value."""

FORMERLY: dict[str, dict[str, str]] = {
    "curvature": {"ggn": "gauss-newton"},
    "weights": {"equal": "constant"},
    "checkpoints": {"last": "last-of-each-run"},
    "basis": {"leading": "principal"},
}
"""Values that have another name now, by the word or field that takes them."""

FLAT_DEFAULTS: dict[str, Any] = {
    "name": "", "layer": "embedding", "layers": (), "biases": False, "project": None, "basis": "random", "seed": 0,
    "path": "exact", "top": None, "top_by": "token", "drop_special": False, "synonym_threshold": None,
    "preconditioner": "none", "epsilon": 1e-8, "curvature": "none", "damping": 0.1, "damping_of": "mean",
    "fisher": "empirical", "fisher_seed": 0, "eval_share": "auto", "eval_component": 1000 / 65_536, "solver": "none",
    "depth": 500, "runs": 3, "sample": None, "scale": "auto", "candidates": 1000.0, "nearest": "auto",
    "measure": "loss", "refit": None, "checkpoints": "all", "unit_norm": False, "similarity": "dot",
    "weights": "learning-rate", "loss": "mean", "mask_share": 0.15, "mask_seed": 0, "baseline": None,
}  # fmt: skip
"""Fields of the flat record of version 0.1, which short names are, and their defaults."""

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
"""Which part has a field."""


def present_value(name: str, value: object) -> object:
    """The present name of a value."""
    return FORMERLY.get(name, {}).get(value, value) if isinstance(value, str) else value


def misplaced(tree: Tree, name: str, value: object, said: str) -> InputError:
    """Refuse a word that a method has no part for: name the method, the part and the fix."""
    method, kind = tree["name"], tree["kind"]
    if kind == "sum":
        return InputError(f"{said} is a sum of methods: give {name} to one of its terms, such as terms.0.{name}")
    if kind == "loop":
        return InputError(
            f"{said} runs a loop of its own and has no {name}: give its settings, such as settings.NAME=VALUE"
        )
    if kind == "retaken" and name in STORED | {"checkpoints"}:
        return InputError(
            f"{method} solves with the gradients themselves: project, basis, curvature, preconditioner, similarity, "
            f"unit_norm, refit, measure and several checkpoints are for methods whose vectors are kept: leave {name} "
            "out, or choose another method, such as --method ekfac"
        )
    told = ABOUT[tree["gradient"]["kind"]] if kind == "gradients" else "no gradient"
    if name in LAYERED and (kind == "baseline" or told != "many layers"):
        return InputError(
            f"{method} is about {told}, and {name} is for methods over layers: choose one, such as --method "
            "tracin-layers (`proponent methods` lists them), or leave it out"
        )
    if name in ROWS:
        return InputError(
            f"{method} is about {told if kind != 'retaken' else 'many layers'}: top, drop_special, synonym_threshold "
            "and path are for the word embedding: leave them out, or name one of its methods (--method "
            "tracin-we-adam-unit)"
        )
    if name == "fisher":
        return InputError(
            f"fisher {value} is about EK-FAC's Fisher matrix, and {method} has no preconditioner ekfac: choose "
            "--method ekfac, or leave fisher out"
        )
    if name not in OWNERS:
        return InputError(f"{method} is about {told}, and has no {name}: leave {name} out, or choose another method")
    return InputError(
        f"option {name} {value!r} of method {said}: {name} is a field of {OWNERS[name]}, and {method} has none: leave "
        f"{name} out, or choose a method that has it"
    )


def other_kind(old: Mapping[str, Any] | None, kind: str) -> Tree:
    """A part of another kind keeps the fields that both have; what the new one lacks is dropped."""
    known = KINDS[kind].model_fields if kind in KINDS else {}
    return {"kind": kind} | {name: value for name, value in (old or {}).items() if name != "kind" and name in known}


def _stored(tree: Tree, name: str, value: object, said: str) -> bool:
    """Whether a method stores gradients; else the word is passed over when it says what holds anyway."""
    if tree["kind"] == "gradients":
        return True
    if value != FLAT_DEFAULTS[name]:
        raise misplaced(tree, name, value, said)
    return False


def _choose(word: str, value: object, known: Sequence[object], said: str) -> None:
    """Refuse a value that a word does not take."""
    if value not in known:
        raise InputError(f"option {word} {value!r} of method {said}: choose one of {', '.join(map(str, known))}")


def _gradient(tree: Tree, value: object, said: str) -> None:
    kinds = {"embedding": "embedding-rows"}
    if _stored(tree, "layer", value, said):
        tree["gradient"] = other_kind(tree["gradient"], kinds.get(value, value)) if isinstance(value, str) else value


def _layers(tree: Tree, value: object, said: str) -> None:
    places = [one for one in (tree, tree.get("gradient")) if one is not None and "names" in one]
    if places:
        places[0]["names"] = value
    elif value not in ([], "", None):
        raise misplaced(tree, "layers", value, said)


def _project(tree: Tree, value: object, said: str) -> None:
    gradient = tree.get("gradient", {})
    if "projection" in gradient:
        gradient["projection"] = None if value is None else (gradient["projection"] or {}) | {"width": value}
    elif value is not None:
        raise misplaced(tree, "project", value, said)


def _basis(tree: Tree, value: object, said: str) -> None:
    gradient = tree.get("gradient", {})
    if gradient.get("projection") is not None:
        gradient["projection"]["basis"] = present_value("basis", value)
    elif value != "random" and "projection" in gradient:
        raise InputError(
            f"basis={value} says what layers are projected to, and {tree['name']} keeps those of this model in full: "
            "give a width, such as --project 16, or leave it out"
        )
    elif value != "random":
        raise misplaced(tree, "basis", value, said)


def _seed(tree: Tree, value: object, said: str) -> None:
    """Of the projection, or of the solver's draws; not of masks or sampled labels, which have names of their own."""
    projection = tree.get("gradient", {}).get("projection")
    if projection is not None:
        projection["seed"] = value
    elif "seed" in tree:
        tree["seed"] = value
    elif value != FLAT_DEFAULTS["seed"]:
        raise misplaced(tree, "seed", value, said)


def _preconditioner(word: str, stage: Stage) -> Word:
    elementwise = stage == "elementwise"
    known = ["none", *(kind for kind, spec in KINDS.items() if getattr(spec, "stage", None) == stage)]

    def put(tree: Tree, value: object, said: str) -> None:
        value = "none" if value is None else present_value(word, value)
        if not _stored(tree, word, value, said):
            return
        if value != "none" and not elementwise and tree["gradient"]["kind"] != "layers":
            raise misplaced(tree, word, value, said)
        if isinstance(value, str):
            _choose(word, value, known, said)
        held = cast("list[Tree]", tree["preconditioners"])
        mine = next((one for one in held if (one["kind"] == "adam") == elementwise), None)
        rest = [one for one in held if one is not mine]
        new: list[Any] = [] if value == "none" else [other_kind(mine, value) if isinstance(value, str) else value]
        tree["preconditioners"] = [*new, *rest] if elementwise else [*rest, *new]

    return put


def _solver(tree: Tree, value: object, said: str) -> None:
    if tree["kind"] == "retaken":
        tree["solver"] = other_kind(tree["solver"], value) if isinstance(value, str) else value
    elif value not in {"none", None}:
        if tree.get("gradient", {}).get("kind") != "layers":
            raise misplaced(tree, "solver", value, said)
        raise InputError(
            f"{tree['name']} stores its gradients, and solver={value} is for methods that take them again: choose "
            "--method fastif, or leave it out"
        )


def _synonyms(tree: Tree, value: object, said: str) -> None:
    gradient = tree.get("gradient", {})
    if "match" in gradient:
        gradient["match"] = {"kind": "equal"} if value is None else {"kind": "similar", "threshold": value}
    elif value is not None:
        raise misplaced(tree, "synonym_threshold", value, said)


def _similarity(tree: Tree, value: object, said: str) -> None:
    if not _stored(tree, "similarity", value, said):
        return
    _choose("similarity", value, ("dot", "cosine"), said)
    if value == "cosine":
        tree["normalize"] = "both"
    elif tree["normalize"] == "both":
        tree["normalize"] = "none"


def _unit_norm(tree: Tree, value: object, said: str) -> None:
    """After `similarity`: a cosine scales both sides, whatever is said here."""
    if not _stored(tree, "unit_norm", value, said):
        return
    _choose("unit_norm", value, (True, False), said)
    if tree["normalize"] != "both":
        tree["normalize"] = "train" if value else "none"


def _refit(tree: Tree, value: object, said: str) -> None:
    if not _stored(tree, "refit", value, said):
        return
    if value is not None and tree["gradient"]["kind"] != "layers":
        raise misplaced(tree, "refit", value, said)
    tree["prepare"] = None if value is None else {"kind": "refit-head", "penalty": value}


def _measure(tree: Tree, value: object, said: str) -> None:
    if _stored(tree, "measure", value, said):
        old = tree["objective"]
        loss = {"kind": "loss"} if old["kind"] == "logit" else old
        tree["objective"] = loss if value == "loss" else {"kind": value} if isinstance(value, str) else value


def _masks(field: str) -> Word:
    word = f"mask_{field}"

    def put(tree: Tree, value: object, said: str) -> None:
        old = tree.get("objective", {})
        if old.get("kind") == "loss" and value != FLAT_DEFAULTS[word]:
            tree["objective"] = other_kind(old, "masked-loss") | {field: value}
        elif old.get("kind") == "masked-loss":
            old[field] = value
        elif value != FLAT_DEFAULTS[word]:
            raise misplaced(tree, word, value, said)

    return put


def _loss(tree: Tree, value: object, said: str) -> None:
    objective = tree.get("objective")
    if objective is not None and "reduction" in objective:
        objective["reduction"] = value
    elif value != "mean":
        if objective is None:
            raise misplaced(tree, "loss", value, said)
        raise InputError(
            f"{tree['name']} takes the logit of a label, which is no sum over tokens: leave loss={value} out, or give "
            "measure=loss too"
        )


def _part(field: str, unsaid: frozenset[str]) -> Word:
    """A part by its kind; a method without it passes over the kinds that hold anyway."""

    def put(tree: Tree, value: object, said: str) -> None:
        value = present_value(field, value)
        if field in tree and tree["kind"] != "retaken":
            tree[field] = other_kind(tree[field], value) if isinstance(value, str) else value
        elif value not in unsaid:
            raise misplaced(tree, field, value, said)

    return put


WORDS: dict[str, Word] = {
    "layer": _gradient,
    "gradient": _gradient,
    "layers": _layers,
    "project": _project,
    "basis": _basis,
    "seed": _seed,
    "synonym_threshold": _synonyms,
    "preconditioner": _preconditioner("preconditioner", "elementwise"),
    "curvature": _preconditioner("curvature", "query"),
    "solver": _solver,
    "similarity": _similarity,
    "unit_norm": _unit_norm,
    "refit": _refit,
    "measure": _measure,
    "mask_share": _masks("share"),
    "mask_seed": _masks("seed"),
    "loss": _loss,
    "checkpoints": _part("checkpoints", frozenset({"last-of-each-run"})),
    "weights": _part("weights", frozenset({"learning-rate", "constant"})),
}
"""Every word, in the order in which they are taken."""
