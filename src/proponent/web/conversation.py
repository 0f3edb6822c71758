"""Conversations in forms and URLs: turns with a role and a text, spelled as the JSON that `--messages` reads."""

import json
from collections.abc import Sequence
from typing import Any, cast

from proponent.errors import InputError
from proponent.types import Conversation

Said = tuple[str, str]
"""A role, and what it says."""

ROLES = ("system", "user", "assistant", "tool", "developer")
"""Roles that the form offers; the chat template decides which of them it knows."""

MOST_TURNS = 40
LONGEST = 16_000
"""Characters of a conversation in JSON."""


def turns_of(messages: str) -> tuple[Said, ...]:
    """The turns of a conversation in JSON."""
    return tuple((one["role"], one["content"]) for one in json.loads(messages)) if messages else ()


def spelled(turns: Sequence[Said]) -> str:
    """Turns as JSON."""
    return json.dumps([{"role": role, "content": text} for role, text in turns], ensure_ascii=False)


def checked(messages: object) -> str:
    """A conversation in JSON, in the one way of writing it; empty for none."""
    if not isinstance(messages, str):
        raise ValueError("must be text")
    if not messages:
        return ""
    if len(messages) > LONGEST:
        raise ValueError(f"have {len(messages):,} characters: ask about at most {LONGEST:,}")
    try:
        found: object = json.loads(messages)
    except ValueError as error:
        raise ValueError("are not valid JSON") from error
    turns = cast("list[dict[str, Any]]", found)
    if not isinstance(found, list) or not all(map(_plain, turns)):
        raise ValueError('must be a list of {"role": ..., "content": ...} with texts')
    if len(turns) > MOST_TURNS:
        raise ValueError(f"have {len(turns)} turns: ask about at most {MOST_TURNS}")
    return spelled([(one["role"], one["content"]) for one in turns]) if turns else ""


def _plain(one: object) -> bool:
    """Whether a message has a role and a text, and nothing else."""
    if not isinstance(one, dict):
        return False
    fields = cast("dict[str, Any]", one)
    return set(fields) == {"role", "content"} and all(isinstance(value, str) for value in fields.values())


def plain_turns(content: object) -> tuple[Said, ...]:
    """The turns of a stored conversation, if the form can hold them: texts alone, without tools."""
    if not isinstance(content, Conversation) or content.tools or content.settings:
        return ()
    if any(one.content is None or one.other for one in content.messages):
        return ()
    return tuple((one.role, one.content or "") for one in content.messages)


def from_form(fields: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The fields of a form with its turns as one field; a single question of the user is a plain text."""
    roles = [value for name, value in fields if name == "role"]
    texts = [value for name, value in fields if name == "said"]
    if not texts:
        return list(fields)
    roles += ["user"] * (len(texts) - len(roles))
    turns = _edited(list(zip(roles, texts, strict=False)), dict(fields).get("edit", ""))
    kept = [pair for pair in fields if pair[0] not in {"role", "said", "text", "messages"}]
    if len(turns) == 1 and turns[0][0] == "user":
        return [*kept, ("text", turns[0][1])]
    return [*kept, ("messages", spelled(turns))]


def _edited(turns: list[Said], edit: str) -> list[Said]:
    """Add or remove a turn; one turn is always left."""
    if edit == "add" and len(turns) < MOST_TURNS:
        return [*turns, ("assistant" if turns[-1][0] == "user" else "user", "")]
    if edit == "system":
        return [("system", ""), *turns]
    number = edit.removeprefix("remove-")
    at = int(number) if number.isdecimal() and len(number) < 4 else len(turns)
    return [one for place, one in enumerate(turns) if place != at] or [("user", "")]


def refuse_empty(turns: Sequence[Said]) -> None:
    """Refuse a turn without a text."""
    for number, (role, text) in enumerate(turns, 1):
        if not text.strip():
            raise InputError(f"turn {number} ({role}) is empty: write it, or remove the turn")
