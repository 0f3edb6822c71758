"""The classes in a model's configuration: checked before anything is created from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from proponent.errors import RunError
from proponent.labels import Labels

_FORM = 'give an object that names each class, such as {"0": "negative", "1": "positive"}'


def check_classes(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse classes without a number or a name, and classes that share one."""
    given = settings.get("id2label")
    if given is None:
        return
    if not isinstance(given, dict):
        raise RunError(f"{path} has the {_kind(given)} {str(given)[:60]} for id2label: {_FORM}")
    classes = cast("dict[str, object]", given)
    odd = next((key for key in classes if not key.isdecimal()), None)
    if odd is not None:
        raise RunError(f"{path} has the class number {odd[:60]!r} in id2label: {_FORM}")
    if not any("Classification" in str(one) for one in _architectures(settings)):
        return
    missing = next((number for number in range(len(classes)) if str(number) not in classes), None)
    if missing is not None:
        raise RunError(f"{path} names {len(classes)} classes in id2label and not the class {missing}: {_FORM}")
    seen: dict[str, str] = {}
    for number, name in classes.items():
        if name is None or not str(name).strip():
            raise RunError(f"{path} gives the class {number} no name in id2label: {_FORM}")
        other = seen.setdefault(str(name), number)
        if other != number:
            raise RunError(
                f"{path} gives the classes {other} and {number} one name, {str(name)[:60]!r}, in id2label: a label "
                "would mean either; give each class a name of its own"
            )


def class_names(config: Any) -> tuple[str, ...]:
    """The names of a head's outputs in order; those of label2id where id2label has only default names."""
    by_number = {int(number): str(name) for number, name in cast("dict[Any, Any]", config.id2label).items()}
    names = tuple(by_number[number] for number in sorted(by_number))
    if not Labels(names).default:
        return names
    other = {number: str(name) for name, number in _numbers(config).items()}
    named = tuple(other[number] for number in sorted(other))
    return named if sorted(other) == list(range(len(names))) else names


def disagreement(config: Any) -> str | None:
    """Say where label2id gives a class another name than id2label, which is followed."""
    names, numbers = class_names(config), _numbers(config)
    other = {number: name for name, number in numbers.items() if not Labels((name,)).like_default}
    at = next((at for at, name in enumerate(names) if at in other and numbers.get(name, at) != at), None)
    if at is None:
        return None
    return (
        f"config.json names class {at} {names[at]!r} in id2label, and label2id gives that name to class "
        f"{numbers[names[at]]}: id2label is followed; check that its names are those of the training"
    )


def _numbers(config: Any) -> dict[str, int]:
    given = getattr(config, "label2id", None)
    pairs = cast("dict[object, object]", given).items() if isinstance(given, dict) else ()
    return {str(name): number for name, number in pairs if isinstance(number, int)}


def _architectures(settings: Mapping[str, Any]) -> list[object]:
    given = settings.get("architectures")
    return cast("list[object]", given) if isinstance(given, list) else [given]


def _kind(value: object) -> str:
    return "list" if isinstance(value, list) else type(value).__name__
