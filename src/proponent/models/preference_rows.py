"""Tokens of pairs of answers: exactly those that TRL's DPOTrainer and RewardTrainer (1.16) feed.

The DPOTrainer counts both answers from where one of them first differs from the tokens of the prompt, reads the first
`max_length` tokens, and drops a pair whose prompt fills them. The RewardTrainer reads prompt and answer as one text,
and drops a pair with a longer one.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, cast

import numpy as np

from proponent.errors import InputError
from proponent.models.batch import Aligned
from proponent.types import Content, Conversation, Message, Preference, Prompted, Side

Pairing = Literal["answers", "texts"]
"""What counts of a pair: the answers after their prompt, or the whole texts."""

ONE_SIDED = (
    "{name} holds one judged answer (KTO), and nothing says that TRL's KTOTrainer trained this run with "
    "proponent.Recorder(): join a wanted and an unwanted answer of a prompt (chosen, rejected) for a run on pairs, or, "
    "for a run that was trained on prompt and completion, leave the label out (--label-column '')"
)

Tokenize = Callable[[Content], Aligned]


def both_answers(one: Preference, name: str) -> tuple[Side, Side]:
    """The chosen and the rejected answer; a row of KTO, which has one of them, is refused."""
    if one.chosen is None or one.rejected is None:
        raise InputError(ONE_SIDED.format(name=name))
    return one.chosen, one.rejected


def judged_answer(one: Preference, name: str) -> Content:
    """The one answer behind its prompt, as a row of its own; a pair is refused."""
    if one.chosen is not None and one.rejected is not None:
        raise InputError(
            f"{name} holds a pair of answers, and this run was trained on judged answers (KTO): ask about one of them, "
            "with prompt and completion"
        )
    return _joined(one, cast("Side", one.rejected if one.chosen is None else one.chosen))


def aligned_pair(one: Preference, name: str, pairing: Pairing, most: int, tokenize: Tokenize) -> Aligned:
    """Tokenize both answers of a row behind its prompt; `tokenize` counts what follows the prompt, or everything."""
    sides = both_answers(one, name)
    chosen, rejected = (tokenize(_joined(one, side)) for side in sides)
    rejected = replace(rejected, parts=_moved(rejected.parts, _count(one.prompt), _count(sides[0])))
    ends = [len(side.ids) for side in (chosen, rejected)]
    if pairing == "answers":
        begin = min(_first(side) for side in (chosen, rejected))
        for side in (chosen, rejected):
            side.counted[begin:] = True
        dropped = begin >= most
    else:
        dropped = max(ends) > most
    if dropped:
        chosen.counted[:] = rejected.counted[:] = False
    return replace(chosen, rejected=rejected, remarks=tuple(dict.fromkeys((*chosen.remarks, *rejected.remarks))))


def _joined(one: Preference, answer: Side) -> Content:
    """A prompt with one answer, as a row of its own."""
    if isinstance(one.prompt, str):
        return Prompted(one.prompt, cast("str", answer))
    messages = (*one.prompt, *cast("tuple[Message, ...]", answer))
    return Conversation(messages, len(one.prompt), one.tools, one.settings)


def _count(side: Side) -> int:
    """Number of raw texts."""
    return 1 if isinstance(side, str) else sum(len(message.turns) for message in side)


def _moved(parts: np.ndarray, prompt: int, chosen: int) -> np.ndarray:
    """The texts of the rejected answer follow those of the chosen one."""
    return np.where(parts >= prompt, parts + chosen, parts)


def _first(side: Aligned) -> int:
    """The first token that counts."""
    return int(side.counted.argmax()) if side.counted.any() else len(side.counted)
