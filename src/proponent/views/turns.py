"""Conversations in views: turns with their roles, and which of their tokens count."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from proponent.types import Content, Conversation, Preference, Span
from proponent.views.text_marks import Mark

TurnSpan = tuple[int, int, int]
"""Number of a turn from 0, and character offsets [start, end) into its text."""


@dataclass(frozen=True, slots=True)
class TurnView:
    """One turn of a conversation: a message, or its reasoning, or a part of a tool call."""

    role: Annotated[str, "who speaks"]
    kind: Annotated[str, "text, reasoning or tool call"]
    text: Annotated[str, "the text as the data has it, without the chat template's markup"]
    counted: Annotated[tuple[Span, ...], "places whose tokens count in the loss"] = ()
    side: Annotated[str, "the answer of a preference that it stands in: chosen or rejected; empty for others"] = ""

    @property
    def counts(self) -> str:
        """Whether the turn counts: "counts", "counts in part", or empty."""
        if not self.counted:
            return ""
        first, last = self.counted[0][0], self.counted[-1][1]
        whole = len(self.counted) == 1 and not self.text[:first].strip() and not self.text[last:].strip()
        return "counts" if whole else "counts in part"

    @property
    def head(self) -> str:
        """The line above the text."""
        side = "" if self.side == self.role else self.side
        kind = "" if self.kind == "text" else self.kind
        return " · ".join(one for one in (side, self.role, kind, self.counts) if one)


def runs(turn: TurnView, marks: Sequence[Mark]) -> list[tuple[str, bool, tuple[Mark, ...]]]:
    """Split a turn where its tokens begin or cease to count: text, whether it counts, and the marks on it."""
    edges = sorted({0, len(turn.text), *(edge for span in turn.counted for edge in span)})
    found: list[tuple[str, bool, tuple[Mark, ...]]] = []
    for start, end in pairwise(edges):
        counts = any(first <= start and end <= last for first, last in turn.counted)
        own = ((max(first, start) - start, min(last, end) - start, share) for first, last, share in marks)
        found.append((turn.text[start:end], counts, tuple(mark for mark in own if mark[0] < mark[1])))
    return found


def turn_views(content: Content, counted: Sequence[tuple[Span, ...]]) -> tuple[TurnView, ...]:
    """Show the turns of a conversation or a pair of answers; `counted` is empty where it is not known."""
    if not isinstance(content, Conversation | Preference):
        return ()
    spans = counted or [()] * len(content.turns)
    sides = [one for one, _ in content.placed] if isinstance(content, Preference) else [""] * len(content.turns)
    turns = zip(content.turns, spans, sides, strict=True)
    return tuple(TurnView(one.role, one.kind, one.text, own, side) for one, own, side in turns)


def marks_by_turn(count: int, marks: Sequence[tuple[TurnSpan, float]]) -> tuple[tuple[Mark, ...], ...]:
    """Marks on each of some turns; the shares of equal places are added."""
    sums: list[dict[Span, float]] = [{} for _ in range(count)]
    for (turn, start, end), share in marks:
        sums[turn][start, end] = sums[turn].get((start, end), 0.0) + share
    return tuple(tuple((start, end, share) for (start, end), share in one.items()) for one in sums)
