"""What rows of chat data are grouped, filtered and searched by: their system prompt, their format, a role's text."""

import hashlib

from proponent.types import Content, Conversation, Preference, Tokens

LONGEST_NAME = 200
"""Characters of a system prompt that names a group."""

_SYSTEM = frozenset({"system", "developer"})


def system_prompt(content: Content | None) -> str:
    """The system prompt, as the name of a group: a long one is cut and told apart by a hash; empty for none."""
    messages = content.messages if isinstance(content, Conversation) else ()
    text = "\n".join(turn.text for one in messages if one.role in _SYSTEM for turn in one.turns)
    if len(text) <= LONGEST_NAME:
        return text
    return f"{text[:LONGEST_NAME]}… ({hashlib.sha256(text.encode()).hexdigest()[:6]})"


def format_of(content: Content | None, target: str | None = None) -> str:
    """How a row is written: its layout, several turns, tools; a row without a content is one of texts."""
    if isinstance(content, Tokens):
        return "tokens"
    if isinstance(content, Preference):
        return "preference"
    if not isinstance(content, Conversation):
        return "text" if target is None else "prompt and completion"
    asked = sum(one.role == "user" for one in content.messages)
    tools = content.tools or any(one.role == "tool" or "tool_calls" in one.other for one in content.messages)
    parts = ["messages" if content.prompt is None else "prompt and completion"]
    parts += ["one question" if asked == 1 else f"{asked} questions" if asked < 4 else "4 or more questions"]
    return ", ".join([*parts, *(["tools"] if tools else [])])


def said_by(content: Content | None, role: str) -> list[str]:
    """The texts of a role."""
    turns = content.turns if isinstance(content, Conversation | Preference) else ()
    return [turn.text for turn in turns if turn.role == role]
