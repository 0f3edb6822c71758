"""The answer of a language model as words to choose from: only the chosen piece counts when it is asked about."""

from dataclasses import dataclass, replace
from typing import Annotated

from proponent.views import Explanation
from proponent.web.conversation import spelled
from proponent.web.states import LONGEST_TEXT, QuestionState
from proponent.words import split

MOST_WORDS = 2_000
"""Words of an answer that can be clicked; a longer one has the text field only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """An answer, and the piece of it that counts."""

    words: Annotated[tuple[tuple[str, int, bool, bool], ...], "piece, its place, whether it is a word, is chosen"]
    fields: Annotated[tuple[tuple[str, str], ...], "names and values of the question, without the piece"]
    span: Annotated[str, "the piece that counts; empty for the whole answer"]
    at: Annotated[str, "its place; empty where it is not known"]


def written(state: QuestionState, answer: Explanation) -> QuestionState:
    """The question with the answer that the model wrote in it."""
    said = _said(answer)
    if not state.generate or len(said) > LONGEST_TEXT:
        return state
    return replace(state, generate="", target=said)


def pick(answer: Explanation, state: QuestionState, index: str) -> Pick | None:
    """The answer in words; None where nothing of it can be chosen."""
    said, query = _said(answer), answer.query
    if query.label is not None or query.probabilities is not None or answer.group is not None or not said:
        return None
    start = said.find(state.span) if state.span else -1
    if state.at is not None and state.span and said[state.at :].startswith(state.span):
        start = state.at
    chosen = range(start, start + len(state.span)) if start >= 0 else range(0)
    words = [(said[a:b], a, not said[a:b].isspace(), a in chosen or b - 1 in chosen) for a, b in split(said)]
    asked = replace(state, index=(index,), span="", at=None, word="", target=said if query.turns else state.target)
    asked = replace(asked, messages=spelled(state.turns)) if state.messages else asked
    return Pick(
        words=tuple(words) if len(words) <= MOST_WORDS else (),
        fields=tuple(asked.pairs),
        span=state.span,
        at=str(start) if start >= 0 else "",
    )


def _said(answer: Explanation) -> str:
    query = answer.query
    if query.turns:
        return query.turns[-1].text
    return query.text if query.target is None else query.target
