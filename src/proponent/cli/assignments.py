"""Settings given as NAME=VALUE."""

import json
from collections.abc import Sequence

from proponent.errors import InputError


def settings_in(texts: Sequence[str] | None) -> dict[str, object]:
    """Parse --set."""
    found: dict[str, object] = {}
    for one in texts or ():
        name, equals, value = one.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--set {one!r}: give FIELD=VALUE, such as damping=0.01")
        found[name.strip().replace("-", "_")] = plain(value)
    return found


def plain(text: str) -> object:
    """Parse a number, true, false or none; leave anything else as text."""
    try:
        return json.loads({"none": "null"}.get(text.strip().lower(), text.strip().lower()))
    except ValueError:
        return text.strip()
