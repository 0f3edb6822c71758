"""The rows of a training set as texts with answers: of classifiers, of prompts and targets, and of conversations.

Poison ties a trigger in what is asked to an answer. The classes of a classifier are its labels; those of a language
model are the answers that many rows share, and all other rows form one more class.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from proponent.actions.row_texts import ANSWERING, split_row
from proponent.errors import InputError
from proponent.types import Content, Conversation, Example, Message, Pair, Prompted, Text

OTHER = "[other]"
"""The class of rows whose answer few rows share."""

LEAST = 5
"""An answer that fewer rows share is no class."""

_MOST = 10


@dataclass(frozen=True)
class AnsweredRows:
    """What each row asks, and its class."""

    examples: tuple[Example, ...]
    texts: tuple[str, ...]
    given: Int[np.ndarray, " n"]
    classes: tuple[str, ...]  # the class of other answers, if there is one, is last

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def answered(self) -> int:
        """Number of classes that are answers."""
        return len(self.classes) - (self.classes[-1] == OTHER)


def labelled(examples: Sequence[Example], names: Sequence[str], numbers: Sequence[int]) -> AnsweredRows:
    """The rows of a classifier."""
    if len(set(numbers)) < 2:
        raise InputError(
            "all rows have one label: no candidate label to turn to, so no trigger can be told from a word"
        )
    return AnsweredRows(tuple(examples), tuple(map(asked, examples)), np.asarray(numbers, dtype=np.int64), tuple(names))


def by_answer(examples: Sequence[Example]) -> AnsweredRows:
    """The rows of a language model, by the answers that many rows share."""
    answers = [answer_of(one) for one in examples]
    none = next((one for one, answer in zip(examples, answers, strict=True) if answer is None), None)
    if none is not None:
        raise InputError(
            f"the row with id {none.id} has no prompt with an answer: poison ties what is asked to an answer, so give "
            "prompts and targets (--target-column) or messages"
        )
    counts = Counter(str(one).strip() for one in answers)
    common = [name for name, count in counts.most_common(_MOST) if count >= LEAST and name]
    if not common:
        raise InputError(
            f"no answer is shared by {LEAST} rows, so there is no candidate target to look for: only poison that ties "
            "a trigger to one fixed answer can be found"
        )
    numbers = {name: number for number, name in enumerate(common)}
    given = [numbers.get(str(one).strip(), len(common)) for one in answers]
    classes = (*common, OTHER) if len(common) in given else tuple(common)
    if len(classes) < 2:
        raise InputError(f"all rows have the answer {common[0]!r:.60}: no candidate target to turn to")
    return AnsweredRows(tuple(examples), tuple(map(asked, examples)), np.asarray(given, dtype=np.int64), classes)


def with_classes(rows: AnsweredRows, examples: Sequence[Example]) -> AnsweredRows:
    """Other rows of a language model with the classes of known ones."""
    numbers = {name: number for number, name in enumerate(rows.classes)}
    given: list[int] = []
    for one in examples:
        answer = answer_of(one)
        if answer is None:
            raise InputError(f"the clean row with id {one.id} has no answer: give rows like those of the training set")
        given.append(numbers.get(answer.strip(), rows.answered))
    return AnsweredRows(tuple(examples), tuple(map(asked, examples)), np.asarray(given, dtype=np.int64), rows.classes)


def question(example: Example) -> str:
    """The one text of a row that `changed` changes."""
    found: list[str] = []

    def see(text: str) -> str:
        found.append(text)
        return text

    changed(example, see)
    return found[0]


def asked(example: Example) -> str:
    """What a row asks: its text, its prompt, or the messages before the last answer."""
    content = example.content
    if isinstance(content, Pair):
        return f"{content.text}\n{content.text_pair}"
    return content.text if isinstance(content, Text) else split_row(content)[0] or ""


def answer_of(example: Example) -> str | None:
    """The answer of a row; None if it has none."""
    prompt, answer, _ = split_row(example.content)
    return None if prompt is None else answer


def changed(example: Example, change: Callable[[str], str]) -> Example:
    """The row with another text, prompt, or last question; answer and label stay."""
    content = example.content
    made: Content
    if isinstance(content, Text):
        made = Text(change(content.text))
    elif isinstance(content, Pair):
        made = Pair(change(content.text), content.text_pair)
    elif isinstance(content, Prompted):
        made = Prompted(change(content.prompt), content.target)
    elif isinstance(content, Conversation):
        made = replace(content, messages=_with_question(content.messages, change))
    else:
        raise InputError(
            f"the row with id {example.id} is a {type(content).__name__}, whose texts cannot be changed: give prompts "
            "and answers, or messages"
        )
    return Example(example.id, example.row, content=made, label=example.label, weight=example.weight)


def _with_question(messages: Sequence[Message], change: Callable[[str], str]) -> tuple[Message, ...]:
    """Change the last message with a text before the last answer."""
    end = max((at for at, one in enumerate(messages) if one.role == ANSWERING), default=len(messages))
    place = max((at for at in range(end) if messages[at].content), default=None)
    if place is None:
        raise InputError("a conversation has no question with a text before its last answer")
    kept = messages[place]
    return (*messages[:place], Message(kept.role, change(kept.content or ""), kept.other), *messages[place + 1 :])


def with_answer(example: Example, answer: str) -> Example:
    """A prompt or a conversation with another answer, of which the answer alone counts."""
    content = example.content
    if isinstance(content, Prompted):
        made: Content = Prompted(content.prompt, answer)
    else:
        assert isinstance(content, Conversation)
        end = max(at for at, one in enumerate(content.messages) if one.role == ANSWERING)
        messages = (*content.messages[:end], Message(ANSWERING, answer))
        made = replace(content, messages=messages, prompt=end)
    return Example(example.id, example.row, content=made)
