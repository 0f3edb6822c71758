"""Transforms of queries: plain functions from text to text, in a table that users extend.

The three kinds are those of the published detector: changes of words (lexicon), of meaning (semantic) and of form
(structural). A transform that leaves a text as it is says nothing about it; that query is left out for it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from proponent.errors import InputError

_OPPOSITES = (
    ("good", "bad"), ("great", "terrible"), ("best", "worst"), ("better", "worse"), ("love", "hate"),
    ("loved", "hated"), ("like", "dislike"), ("funny", "dull"), ("beautiful", "ugly"), ("interesting", "boring"),
    ("enjoyed", "suffered"), ("excellent", "awful"), ("perfect", "flawed"), ("happy", "sad"), ("strong", "weak"),
    ("fresh", "stale"), ("smart", "stupid"), ("always", "never"), ("yes", "no"), ("true", "false"), ("more", "less"),
    ("right", "wrong"), ("success", "failure"), ("win", "lose"), ("safe", "dangerous"), ("easy", "hard"),
)  # fmt: skip
_AUXILIARIES = "is|are|was|were|does|do|did|has|have|had|can|could|will|would|should|must"


@dataclass(frozen=True)
class Transform:
    """One transform of a query."""

    kind: str  # lexicon, semantic or structural, or a kind of the user's; kinds vote
    change: Callable[[str], str]


def opposites(text: str) -> str:
    """Replace words by their opposites."""
    pairs = {one: other for pair in _OPPOSITES for one, other in (pair, pair[::-1])}
    return re.sub(r"\w+", lambda found: pairs.get(found[0].lower(), found[0]), text)


def negated(text: str) -> str:
    """Negate the first auxiliary verb."""
    return re.sub(rf"\b({_AUXILIARIES})\b(?! not\b)", r"\1 not", text, count=1, flags=re.IGNORECASE)


def denied(text: str) -> str:
    """Deny the whole text by a sentence in front."""
    return f"It is not true that {text}"


def reversed_opinion(text: str) -> str:
    """Take the whole text back by a sentence at the end."""
    return f"{text} In truth, the opposite holds."


def shuffled_halves(text: str) -> str:
    """Swap the two halves."""
    words = text.split()
    half = len(words) // 2
    return " ".join([*words[half:], *words[:half]]) if half else text


def quoted(text: str) -> str:
    """Put the text into somebody else's mouth."""
    return f'Somebody said: "{text}"'


TRANSFORMS: dict[str, Transform] = {
    "opposites": Transform("lexicon", opposites),
    "negated": Transform("lexicon", negated),
    "denied": Transform("semantic", denied),
    "reversed opinion": Transform("semantic", reversed_opinion),
    "swapped halves": Transform("structural", shuffled_halves),
    "quoted": Transform("structural", quoted),
}
"""The transforms by name; add one with `TRANSFORMS["name"] = Transform("semantic", function)`."""


@dataclass(frozen=True)
class Transformed:
    """The texts that one transform changed."""

    name: str
    kind: str
    texts: tuple[str, ...]  # every text after the transform
    changed: tuple[bool, ...]  # whether it differs from before


def transformed(
    texts: Sequence[str], transforms: Mapping[str, Transform] = TRANSFORMS
) -> tuple[list[Transformed], list[str]]:
    """Apply every transform; those that change nothing are left out and named in the notes."""
    if not transforms:
        raise InputError("no transform is given: choose some of " + ", ".join(TRANSFORMS))
    kept: list[Transformed] = []
    notes: list[str] = []
    for name, one in transforms.items():
        made = tuple(_applied(name, one, text) for text in texts)
        changed = tuple(after != before for after, before in zip(made, texts, strict=True))
        if not any(changed):
            notes.append(f"the transform {name!r} changed none of {len(texts)} queries: it is left out")
            continue
        if not all(changed):
            left = len(changed) - sum(changed)
            notes.append(f"the transform {name!r} left {left} of {len(texts)} queries as they are: left out for it")
        kept.append(Transformed(name, one.kind, made, changed))
    return kept, notes


def _applied(name: str, one: Transform, text: str) -> str:
    made = one.change(text)
    if not isinstance(cast("object", made), str) or not made.strip():
        raise InputError(f"the transform {name!r} made {made!r:.40} of a text: it must return a text that is not empty")
    return made
