"""Render conversations with a chat template, and find the raw texts in what it renders."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Int

from proponent.errors import InputError, RunError
from proponent.types import Conversation, Counting, Message

_OPEN, _CLOSE = "\ue0f0", "\ue0f1"  # for private use: no filter of a template changes them
_MARKER = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_DATE = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_ROLES = frozenset({"system", "user", "assistant", "tool", "developer", "function", "ipython"})


class Placed(NamedTuple):
    """A raw text inside the rendered text."""

    start: int  # its first character in the rendered text
    part: int  # number of the raw text
    offsets: Int[np.ndarray, " c"]  # place in the raw text of each rendered character


class ChatTemplate:
    """The chat template of a tokenizer, or that of a training."""

    def __init__(self, tokenizer: Any, counting: Counting) -> None:
        self._tokenizer, self._own, self._day = tokenizer, counting.template, counting.date

    def render(self, conversation: Conversation, name: str, *, prompt: bool = False) -> str:
        """Render a whole conversation, or its prompt with the beginning of an answer."""
        messages = conversation.messages[: conversation.prompt] if prompt else conversation.messages
        return self._render(conversation, [one.fields() for one in messages], name, add_generation_prompt=prompt)

    def assistant_mask(self, conversation: Conversation, name: str) -> list[int]:
        """Which tokens the template marks as the assistant's."""
        template = self._template(conversation, name)
        if not re.search(r"\{%-?\s*generation\s*-?%\}", template):
            raise InputError(
                "only the assistant's tokens count, and the chat template does not mark them ({% generation %}): give "
                "the template of the training with --chat-template FILE"
            )
        fields = [one.fields() for one in conversation.messages]
        marked: Any = self._called(conversation, fields, name, tokenize=True, return_assistant_tokens_mask=True)
        return cast("list[int]", marked["assistant_masks"])

    def places(self, conversation: Conversation, rendered: str, name: str) -> tuple[list[Placed], bool]:
        """Find each raw text in the rendered text; also whether it was found by its position alone, not by search."""
        parts = conversation.parts
        marked = self._marked(conversation, parts, name)
        found = None if marked is None else _fitted(rendered, marked, parts)
        exact = found is not None
        found = list(_searched(rendered, parts)) if found is None else found
        _refuse_dropped(conversation, {one.part for one in found}, name)
        return found, exact

    def _marked(self, conversation: Conversation, parts: Sequence[str], name: str) -> list[str] | None:
        """Pieces of the template, and between them the numbers of the raw texts; None if it cannot be found out."""
        if any(_OPEN in part or _CLOSE in part for part in parts):
            return None
        numbers = iter(range(len(parts)))

        def marker(_: str, text: str) -> str:
            number = next(numbers)
            return f"{_OPEN}{number}{_CLOSE}" if text.strip() else text

        fields = [one.fields(marker) for one in conversation.messages]
        try:
            return _MARKER.split(self._render(conversation, fields, name))
        except InputError:  # a template that reads the contents
            return None

    def _render(self, conversation: Conversation, messages: list[dict[str, Any]], name: str, **how: Any) -> str:
        return cast("str", self._called(conversation, messages, name, tokenize=False, **how))

    def _called(self, conversation: Conversation, messages: list[dict[str, Any]], name: str, **how: Any) -> Any:
        template = self._template(conversation, name)
        settings: Mapping[str, Any] = conversation.settings
        try:
            made = self._tokenizer.apply_chat_template(
                messages, tools=conversation.tools, **{"chat_template": template, **settings}, **how
            )
        except Exception as error:  # a template raises whatever it likes
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"the chat template refuses the messages of {name} ({reason}): mend the row, or give the template of "
                "the training with --chat-template FILE"
            ) from error
        if isinstance(made, str) and "strftime_now" in template and "date_string" not in settings:
            self._refuse_today(template, made, name)
        return made

    def _template(self, conversation: Conversation, name: str) -> str:
        template = self._own
        if template is None:
            try:
                template = cast("str", self._tokenizer.get_chat_template(None, conversation.tools))
            except ValueError as error:
                raise RunError(
                    f"the tokenizer of this run has no chat template, and {name} holds messages: give the template of "
                    "the training with --chat-template FILE"
                ) from error
        if not self._day:
            return template
        day = datetime.fromisoformat(self._day)
        return _DATE.sub(lambda found: json.dumps(day.strftime(found[2])), template)

    def _refuse_today(self, template: str, rendered: str, name: str) -> None:
        today = {date.today().strftime(found[2]) for found in _DATE.finditer(template)}
        if any(one and one in rendered for one in today):
            raise InputError(
                f"the chat template prints today's date, so that {name} is not the text that was trained on: give the "
                'day of the training in the column chat_template_kwargs ({"date_string": "26 Jul 2024"}), or a '
                "template without a date (--chat-template FILE)"
            )


def _refuse_dropped(conversation: Conversation, held: set[int], name: str) -> None:
    """Refuse a role that the template leaves out without a word."""
    number = 0
    for at, message in enumerate(conversation.messages):
        own = range(number, number + len(message.turns))
        number = own.stop
        said = any(turn.text.strip() for turn in message.turns)
        if said and message.role not in _ROLES and held.isdisjoint(own):
            raise InputError(
                f"the chat template does not know the role {message.role!r} and leaves out message {at} of {name}: "
                "name it system, user, assistant or tool, or give the template of the training with --chat-template"
            )


def _fitted(rendered: str, marked: Sequence[str], parts: Sequence[str]) -> list[Placed] | None:
    """Lay pieces of the template and raw texts over the rendered text; None if they do not make it up."""
    pieces, owners = marked[::2], [int(one) for one in marked[1::2]]
    if not rendered.startswith(pieces[0]):
        return None
    at, found = len(pieces[0]), list[Placed]()
    for piece, part in zip(pieces[1:], owners, strict=True):
        end = piece == pieces[-1] and len(found) == len(owners) - 1
        for text, offsets in _forms(parts[part]):
            after = at + len(text)
            whole = after + len(piece) == len(rendered) if end else True
            if whole and rendered.startswith(text, at) and rendered.startswith(piece, after):
                found.append(Placed(at, part, offsets))
                at = after + len(piece)
                break
        else:
            return None
    return found if at == len(rendered) else None


def _forms(text: str) -> Iterator[tuple[str, Int[np.ndarray, " c"]]]:
    """How a template may write a text, longest first: as it is, stripped, and inside of JSON."""
    places = np.arange(len(text))
    left, right = len(text) - len(text.lstrip()), len(text.rstrip())
    for start, stop in dict.fromkeys(((0, len(text)), (left, len(text)), (0, right), (left, right))):
        yield text[start:stop], places[start:stop]
    escaped = json.dumps(text, ensure_ascii=False)[1:-1]
    if escaped != text:
        yield escaped, np.repeat(places, [len(json.dumps(one, ensure_ascii=False)) - 2 for one in text])


def _searched(rendered: str, parts: Sequence[str]) -> Iterator[Placed]:
    """Find the texts one after another, each behind the one before."""
    at = 0
    for part, text in enumerate(parts):
        for form, offsets in _forms(text):
            place = rendered.find(form, at) if form.strip() else -1
            if place >= 0:
                yield Placed(place, part, offsets)
                at = place + len(form)
                break


def spoken(messages: Sequence[Message]) -> bool:
    """Whether the last message is the assistant's."""
    return bool(messages) and messages[-1].role == "assistant"
