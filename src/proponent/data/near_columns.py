"""Columns that look as if they had a role and are not read, because their names differ from the usual ones."""

import re
from collections.abc import Iterator, Mapping, Sequence

from proponent.data.table import short

OPTIONS = {
    "text": "--text-column",
    "text_pair": "--pair-column",
    "label": "--label-column",
    "id": "--id-column",
    "target": "--target-column",
    "source": "--source-column",
    "weight": "--weight-column",
}
"""The option that names the column of each role."""

_ALSO = {
    "label": (
        *("class", "category", "gold", "gold_label", "label_id", "label_name", "label_text", "target_label", "y"),
        *("sentiment", "emotion", "polarity", "tag"),
    ),
    "text_pair": ("pair", "text2", "text_b", "second_text"),
    "id": ("row_id", "example_id", "uid", "guid"),
}
"""Other names that people give to a role."""

_FIRST, _SECOND = re.compile(r"(.*?)_?(1|a)", re.IGNORECASE), r"{}_?(2|b)"


def near_column(names: Sequence[str], role: str) -> str | None:
    """The column whose name differs from that of a role only in case, blanks, marks or number, or means the same."""
    wanted = _plain(role)
    exact = next((name for name in names if _plain(name) == wanted), None)
    also = {_plain(one) for one in _ALSO.get(role, ())}
    return exact or next((name for name in names if _plain(name) in also), None)


def unread(name: str, names: Sequence[str], asked: Mapping[str, str], parts: Mapping[str, str]) -> Iterator[str]:
    """Say which columns look like a role that no column has by its usual name."""
    free = [one for one in names if one not in parts.values()]
    for role in ("label", "text_pair", "id", "target"):
        if asked[role] != role or role in parts:
            continue
        near = near_column(free, role) or (_second(free, parts.get("text", "")) if role == "text_pair" else None)
        if near is not None:
            yield (
                f"{name}: no column is named {role!r}, and column {short(near)} is not read: if it holds that, name it "
                f"with {OPTIONS[role]} {near!r}"
            )


def _second(names: Sequence[str], first: str) -> str | None:
    """The column that is the second of a pair by its name: sentence2 beside sentence1."""
    found = _FIRST.fullmatch(first)
    pattern = None if found is None else re.compile(_SECOND.format(re.escape(found[1])), re.IGNORECASE)
    return next((one for one in names if pattern is not None and pattern.fullmatch(one)), None)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold()).removesuffix("s")
