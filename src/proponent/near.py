"""Near names for messages: "did you mean ...?"."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that looks most like a mistyped one.

    Args:
        name: what the user typed.
        known: the names that exist.

    Returns:
        " (did you mean 'x'?)" with a leading space, or an empty text when nothing is near.
    """
    lowered = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f" (did you mean {lowered[found[0]]!r}?)" if found else ""
