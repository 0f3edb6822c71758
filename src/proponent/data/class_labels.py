"""The names behind class numbers, as `datasets` describes its columns in the metadata of a file and in memory."""

import json
from collections.abc import Mapping
from typing import Any, cast


def class_labels(schema: Any) -> dict[str, tuple[str, ...]]:
    """Names of the ClassLabel columns, and of lists of such, from the metadata that `datasets` writes into a schema."""
    notes: dict[bytes, bytes] = schema.metadata or {}
    try:
        features: object = json.loads(notes[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):  # other metadata, or none
        return {}
    held: dict[str, object] = {**cast("Mapping[str, object]", features)} if isinstance(features, Mapping) else {}
    found = {column: _described(feature) for column, feature in held.items()}
    return {column: names for column, names in found.items() if names}


def feature_names(feature: object) -> tuple[str, ...] | None:
    """The same for a feature of `datasets`; None for one without class names."""
    items = cast("list[object]", feature) if isinstance(feature, list) else []
    inner: object = items[0] if items else getattr(cast("object", feature), "feature", None)
    if inner is not None:
        return feature_names(inner)
    kind = cast("object", feature)
    return _names(getattr(kind, "names", None)) if type(kind).__name__ == "ClassLabel" else None


def _described(feature: object) -> tuple[str, ...] | None:
    """The names of one column; older versions write a list for a list of values."""
    if isinstance(feature, list):
        items = cast("list[object]", feature)
        return _described(items[0]) if items else None
    if not isinstance(feature, Mapping):
        return None
    fields = cast("Mapping[str, object]", feature)
    if fields.get("_type") == "ClassLabel":
        return _names(fields.get("names"))
    return _described(fields["feature"]) if "feature" in fields else None


def _names(given: object) -> tuple[str, ...] | None:
    """Names in order of their numbers; they may be given by number."""
    if isinstance(given, Mapping):
        named = cast("Mapping[object, object]", given)
        numbers = {int(str(key)): str(name) for key, name in named.items() if str(key).isdecimal()}
        return tuple(numbers[at] for at in range(len(numbers))) if sorted(numbers) == list(range(len(named))) else None
    return tuple(map(str, cast("list[object]", given))) if isinstance(given, list | tuple) and given else None
