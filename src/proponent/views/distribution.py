"""Number of examples of each class: by the labels in the data, and by the model's predictions."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

MOST_CLASSES = 24
"""Classes with a bar, the most frequent ones; the rest is counted together."""


@dataclass(frozen=True, slots=True)
class ClassCount:
    """One class."""

    name: Annotated[str, "name of the class"]
    given: Annotated[int, "examples with this label"]
    predicted: Annotated[int | None, "examples for which the model predicts it; None if that is not known"]
    url: Annotated[str, "page of the examples with this label; empty where there is none"] = ""
    predicted_url: Annotated[str, "page of those predicted as it; empty where there is none"] = ""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Examples by class."""

    rows: Annotated[tuple[ClassCount, ...], "the most frequent classes, the largest first"]
    more: Annotated[int, "classes that are left out"] = 0
    more_given: Annotated[int, "examples with one of them as label"] = 0
    more_predicted: Annotated[int, "examples with one of them predicted"] = 0

    @classmethod
    def of(cls, given: Mapping[str, int], predicted: Mapping[str, int] | None = None) -> "Distribution":
        """Order the classes by how many examples have them as label."""
        known = Counter(predicted or {})
        names = sorted({*given, *known}, key=lambda name: (-given.get(name, 0), -known[name], name))
        rows = tuple(
            ClassCount(name, given.get(name, 0), None if predicted is None else known[name])
            for name in names[:MOST_CLASSES]
        )
        rest = names[MOST_CLASSES:]
        return cls(rows, len(rest), sum(given.get(name, 0) for name in rest), sum(known[name] for name in rest))

    @classmethod
    def counted(cls, given: Iterable[str], predicted: Iterable[str | None]) -> "Distribution":
        """Count labels and predictions; predictions of which one is unknown are left out."""
        guesses = Counter(predicted)
        known = None if None in guesses else {name: n for name, n in guesses.items() if name is not None}
        return cls.of(Counter(given), known)

    @property
    def judged(self) -> bool:
        """Whether predictions are known."""
        return any(one.predicted is not None for one in self.rows)

    @property
    def largest(self) -> int:
        """Length of a full bar."""
        return max((max(one.given, one.predicted or 0) for one in self.rows), default=0)
