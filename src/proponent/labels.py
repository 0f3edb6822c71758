"""The classes of a run: their names, their indices, and the ways a user may write them."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from proponent.errors import LabelError
from proponent.suggest import nearest
from proponent.types import Label

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


_UNNAMED = (
    "its config.json has only default names; write the names into id2label in the order of the training, give numbers, "
    "or data whose labels have names and numbers (a ClassLabel)"
)


@dataclass(frozen=True, slots=True)
class Labels:
    """Classes in the order of a model's outputs; empty, hence false, for a model without classes."""

    names: tuple[str, ...] = ()  # of the classes

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @property
    def default(self) -> bool:
        """Whether these are the names that transformers gives to classes without names."""
        return bool(self.names) and self.names == tuple(f"LABEL_{at}" for at in range(len(self.names)))

    @property
    def like_default(self) -> bool:
        """Whether any of them is such a name."""
        return any(name.startswith("LABEL_") and name[6:].isdecimal() for name in self.names)

    def name(self, number: int | None) -> str | None:
        """Name of a class; None for an index without a class."""
        return self.names[number] if number is not None and 0 <= number < len(self.names) else None

    def stored(self, label: object) -> int:
        """Class index of a label stored in an index or a training set; -1 for a model without classes."""
        return self.names.index(str(label)) if self.names else -1

    def number(self, label: Label) -> int:
        """Class index of a label as written by a user; a class named "1" has priority over class index 1."""
        names = self.names
        if not names:
            raise LabelError(f"label {label!r} was given, but this run is a language model and has no labels")
        if isinstance(label, bool) or not isinstance(label, str | int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LabelError(f"label {label!r} is a {type(label).__name__}: give a name or a whole number")
        if str(label) in names:
            return names.index(str(label))
        number, values = number_of(label), [number_of(name) for name in names]
        numbered = None not in values  # then a number is a name, however it is written, and not an index
        if numbered and number is not None and values.count(number) == 1:
            return values.index(number)
        if not numbered and number is not None and number.is_integer() and 0 <= number < len(names):
            return int(number)
        shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        raise LabelError(
            f"unknown label {label!r}{nearest(str(label), names)}; the run knows: {shown}"
            + ("" if numbered else f" (or 0 to {len(names) - 1})")
            + (f": {_UNNAMED}" if self.default else "")
        )


def number_of(label: object) -> float | None:
    """The value of a label that is a number, or the text of one; None for any other label."""
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        return None
    try:
        number = float(label) if not isinstance(label, str) or _NUMBER.fullmatch(label) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def listed(label: object) -> list[Any] | None:
    """The entries of a label that is a list, given as such or as JSON text; None for a single label."""
    if isinstance(label, str) and label[:1] == "[":
        try:
            label = json.loads(label)
        except ValueError:
            return None
    return list(cast("Sequence[Any]", label)) if isinstance(label, list | tuple) else None


def in_words(label: object) -> str:
    """A label for people: the entries of a list, joined."""
    if isinstance(label, str) and label[:1] == "{":
        try:
            text = json.loads(label)["text"]
        except (ValueError, KeyError):
            return label
        texts = cast("list[object]", text) if isinstance(text, list) else [text]
        return ", ".join(map(str, texts)) or "no answer"
    entries = listed(label)
    return str(label) if entries is None else ", ".join(map(str, entries)) or "no label"


NO_LABELS = Labels()
"""Labels of a model without classes."""
