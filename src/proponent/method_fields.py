"""Set a field of a method by name: a short name ("top", "damping"), or a full path ("gradient.match.threshold").

short name    the one field of that name in the method: "path" is gradient.path
full path     parts by field, parts of a list by kind or number: preconditioners.ekfac.damping, terms.0.gradient
a part        by its kind alone: gradient=head, checkpoints=all, weights=constant, solver=cg
a word        of `method_words.WORDS`: curvature=ekfac, project=16, similarity=cosine

A method is converted to a tree of fields, which is changed and validated again.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast, get_args

from pydantic import ValidationError

from proponent.errors import InputError
from proponent.method import KINDS, METHOD, Method, Projection, Spec
from proponent.method_words import FLAT_DEFAULTS, WORDS, Tree, apply_word, misplaced, other_kind, present_value
from proponent.suggest import nearest

SPOKEN = {
    "width": "project",
    "names": "layers",
    "penalty": "refit",
    "threshold": "synonym_threshold",
    "which": "baseline",
    "share": "mask_share",
}
"""Short names of fields, for messages."""

UNTAGGED: dict[str, type[Spec]] = {"projection": Projection}
"""The only part without a kind, by the name of its field."""

FIELDS = {name for spec in [*KINDS.values(), *UNTAGGED.values()] for name in spec.model_fields}
"""All field names."""


def changed(method: Method, changes: Mapping[str, object], said: str) -> Method:
    """Change fields of a method; parts are added and removed before their fields are set."""
    tree = method.model_dump(mode="json")
    words = [word for word in WORDS if word in changes]
    for word in words:
        apply_word(tree, word, _plain(changes[word]), said)
        _check_fields(tree, said)
    if words:
        tree = made(tree, said).model_dump(mode="json")  # new parts get their defaults
    for name, value in changes.items():
        if name not in WORDS:
            _set(tree, name, present_value(name.rpartition(".")[2], _plain(value)), said)
            _check_fields(tree, said)
    return made(tree, said)


def _check_fields(tree: Mapping[str, object], said: str) -> None:
    """Refuse a field of a wrong type before the next change reads it; later changes may still resolve conflicts."""
    try:
        made(tree, said)
    except InputError as error:
        cause = error.__cause__
        if not isinstance(cause, ValidationError) or {one["type"] for one in cause.errors()} != {"value_error"}:
            raise


def made(tree: Mapping[str, object], said: str) -> Method:
    """Validate a tree of fields; an error message names the option in the user's words."""
    try:
        return METHOD.validate_json(json.dumps(tree))
    except ValidationError as error:
        raise InputError(_message(cast("dict[str, Any]", error.errors()[0]), said)) from error
    except (TypeError, ValueError, RecursionError) as error:  # values that JSON cannot represent
        raise InputError(f"method {said}: {error}: give numbers, texts, lists and parts") from error


def _message(first: dict[str, Any], said: str) -> str:
    """One line about an error, without union tags and list indices, which users have not written."""
    steps = [str(step) for step in first["loc"]]
    path = [step for step in steps if step in FIELDS]
    name = SPOKEN.get(path[-1], path[-1]).replace("_", "-") if path else ""
    about = f"option {name} of method {said}" if path else f"method {said}"
    given = cast("object", first["input"])
    match first["type"]:
        case "value_error":  # our own error messages already name the method
            return first["msg"].removeprefix("Value error, ")
        case "extra_forbidden":
            return no_field(f"method {said}", steps[-1], _fields_at(steps[:-1]))
        case "missing":
            return f"{about} is missing: give it a value"
        case "union_tag_not_found":
            return f'{about} has no kind: add "kind" to it, one of {", ".join(_kinds_at(path))}'
        case "union_tag_invalid":
            kind, known = cast("Tree", given)["kind"], str(first.get("ctx", {}).get("expected_tags")).replace("'", "")
            told = f"option {name} {kind!r} of method {said}" if path else f"method {said} is of kind {kind!r}"
            return f"{told}: choose one of {known}"
        case _:
            return f"option {name} {given!r} of method {said}: {first['msg']}" if path else f"{about}: {first['msg']}"


def no_field(said: str, name: str, known: Iterable[str]) -> str:
    """The message about an unknown field."""
    return f"{said} has a field {name!r} that no method has{nearest(name, known)}; fields: {', '.join(sorted(known))}"


def _kinds_at(path: list[str]) -> list[str]:
    """The kinds allowed in a field, or the kinds of methods."""
    held = [spec.model_fields[path[-1]].annotation for spec in KINDS.values() if path and path[-1] in spec.model_fields]
    return list(dict.fromkeys(kind for one in held or [Method] for kind in _kinds_in(one)))


def _kinds_in(annotation: Any) -> Iterator[str]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        yield annotation.model_fields["kind"].default
    for one in get_args(annotation):
        yield from _kinds_in(one)


def _fields_at(steps: list[str]) -> set[str]:
    """Fields of the part at a path: the last part with a tag, or a projection, which has no tag."""
    spec = next((one for step in reversed(steps) if (one := KINDS.get(step) or UNTAGGED.get(step))), None)
    return FIELDS if spec is None else {*spec.model_fields}


def _set(tree: Tree, name: str, value: object, said: str) -> None:
    """Set one field, by a path or by the only field of that name."""
    name = "which" if name == "baseline" and tree["kind"] == "baseline" else name
    if tree["kind"] == "loop" and name.startswith("settings."):
        tree["settings"][name.removeprefix("settings.")] = value  # any setting; the loop's module validates it
        return None
    if name == "kind":
        raise InputError(f"method {said} is of kind {tree['kind']}: choose another method instead")
    if "." in name:
        return _at(tree, name.split("."), value, said)
    if name in tree:
        tree[name] = value
        return None
    found = {path: part for path, part in _parts(tree) if name in part}
    if len(found) == 1:
        found.popitem()[1][name] = value
        return None
    if found:
        paths = ", ".join(f"{place}{name}" for place in found)
        raise InputError(f"{name} matches {len(found)} fields of method {said}: choose one of {paths}")
    if name in FLAT_DEFAULTS:
        if value == FLAT_DEFAULTS[name]:
            return None  # already true
        raise misplaced(tree, name, value, said)
    raise InputError(
        no_field(f"method {said}", name, {*(field for _, part in _parts(tree) for field in part), *WORDS} - {"kind"})
    )


def _at(tree: Any, path: list[str], value: object, said: str) -> None:
    """Set the field at a path."""
    step, *rest = path
    if isinstance(tree, list) and all(isinstance(part, dict) for part in cast("list[object]", tree)):
        part = _one_of(cast("list[Tree]", tree), step, said)
        if not rest:
            fields = ", ".join(field for field in part if field != "kind")
            raise InputError(f"{step} of method {said} is a part with fields: set one of its fields: {fields}")
        return _at(part, rest, value, said)
    if not isinstance(tree, dict):
        raise InputError(f"method {said} has no part with a field {step}: add that part too, such as project=16")
    own = cast("Tree", tree)
    if step not in own:
        raise InputError(
            f"method {said} has no field {step!r} at this place{nearest(step, own)}: it has {', '.join(own)}"
        )
    old = own[step]
    if rest:
        return _at(old, rest, value, said)
    own[step] = other_kind(cast("Tree", old), value) if isinstance(old, dict) and isinstance(value, str) else value
    return None


def _one_of(parts: list[Tree], step: str, said: str) -> Tree:
    """The part of a list that a kind or an index selects."""
    found = [part for at, part in enumerate(parts) if step in {str(at), part["kind"], part["kind"].replace("-", "_")}]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{at} ({part['kind']})" for at, part in enumerate(parts)) or "none"
    raise InputError(f"method {said} has {len(found) or 'no'} parts {step!r} at this place: it has {there}")


def _parts(tree: Any, path: str = "") -> Iterator[tuple[str, Tree]]:
    """List a method and its parts, each with its path."""
    if isinstance(tree, dict):
        yield path, cast("Tree", tree)
    for field, one in cast("Tree", tree).items() if isinstance(tree, dict) else enumerate(cast("list[Any]", tree)):
        if isinstance(one, dict | list):
            yield from _parts(one, f"{path}{field}.")


def _plain(value: object) -> object:
    """A value as JSON represents it."""
    if isinstance(value, Spec):
        return value.model_dump(mode="json")
    return [_plain(one) for one in cast("Iterable[object]", value)] if isinstance(value, tuple | list) else value
