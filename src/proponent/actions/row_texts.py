"""Prompts and answers of the training rows of a language model."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from proponent.data import from_json
from proponent.store import Plan, Store
from proponent.types import Content, Conversation, Preference, Side

ANSWERING = "assistant"
"""The role whose last message is the answer of a conversation."""


def missing_text(plan: Plan) -> str:
    """Why an index has no rows of a language model; empty if it has."""
    if plan.predicted == "labels":
        return f"this index belongs to a {plan.kind} model; suspect rows are those of a language model"
    return ""


@dataclass(frozen=True)
class RowTexts:
    """What each row asks and answers; a row without a prompt is all answer."""

    places: Int[np.ndarray, " n"]  # of the rows in the index
    prompts: list[str]
    answers: list[str]
    rejected: list[str | None]  # the rejected answer of a preference; None of other rows
    asked: Bool[np.ndarray, " n"]  # whether the row has a prompt and an answer

    @classmethod
    def of(cls, store: Store) -> "RowTexts":
        """The rows of an index that are neither deleted nor missing."""
        places = np.flatnonzero(_present(store))
        found = list(_rows(store))
        chosen = [found[place] for place in places.tolist()]
        return cls(
            places,
            [prompt or "" for prompt, _, _ in chosen],
            [answer for _, answer, _ in chosen],
            [other for _, _, other in chosen],
            np.asarray([prompt is not None for prompt, _, _ in chosen], dtype=np.bool_),
        )


def _present(store: Store) -> Bool[np.ndarray, " n"]:
    """Rows that are not deleted and whose shards are on disk; also those without a gradient."""
    parts: list[np.ndarray] = []
    for segment in store.segments:
        kept = segment.kept
        for shard in segment.missing:
            kept[segment.order[segment.bounds[shard] : segment.bounds[shard + 1]]] = False
        parts.append(kept)
    return np.concatenate(parts)


def _rows(store: Store) -> Iterator[tuple[str | None, str, str | None]]:
    """Prompt, answer and rejected answer of every row."""
    contents = store.examples["content"]
    for text, target, content in zip(store.examples["text"], store.examples["target"], contents, strict=True):
        if content is not None:
            yield split_row(from_json(str(content)))
        else:
            yield (None, str(text), None) if target is None else (str(text), str(target), None)


def split_row(content: Content) -> tuple[str | None, str, str | None]:
    """Prompt, answer and rejected answer of one row; of a conversation, the answer is its last assistant's message."""
    if isinstance(content, Conversation):
        turns = content.turns
        last = max((at for at, one in enumerate(content.messages) if one.role == ANSWERING), default=-1)
        if last < 0:
            return None, "\n".join(one.text for one in turns), None
        before = [turn.text for message in content.messages[:last] for turn in message.turns]
        return "\n".join(before), _said(content.messages[last : last + 1]), None
    if isinstance(content, Preference):
        sides = [one for one in (content.chosen, content.rejected) if one is not None]
        return _said(content.prompt), _said(sides[0]), _said(sides[1]) if len(sides) > 1 else None
    parts = content.parts
    return (None, parts[0], None) if len(parts) == 1 else (parts[0], parts[1], None)


def _said(side: Side) -> str:
    return side if isinstance(side, str) else "\n".join(turn.text for one in side for turn in one.turns)
