"""The bridge from lexical bias to attribution: what part of an answer stands on biased words, and words by use."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from proponent.actions.word_labels import WordTable
from proponent.data import Columns
from proponent.views import Explanation, WordPair
from proponent.views.bias import CHANCE, AnswerBias, WordUse

DEFAULT = Columns()

SHOWN = 5
"""Biased words named for an answer."""


@dataclass
class _Part:
    """The shares of one word."""

    use: float = 0.0
    signed: float = 0.0
    answers: int = 0

    def add(self, share: float) -> None:
        """Count a share."""
        self.use += abs(share)
        self.signed += share


class BiasedWords:
    """The z-statistics of words, looked up by the words of training examples in answers."""

    def __init__(self, table: WordTable, columns: Columns = DEFAULT) -> None:
        self._z, self._classes = np.nan_to_num(table.z()), table.classes
        self._numbers: dict[str, list[int]] = defaultdict(list)
        for number, (_, word) in enumerate(table.names):
            self._numbers[word].append(number)
        self._second = [column in {columns.text_pair, columns.target} for column, _ in table.names]

    def z(self, pair: WordPair) -> tuple[float, str] | None:
        """The z of largest size of a training word in the texts where it stands, and its label; None if too rare."""
        first, second = bool(pair.train_spans), bool(pair.train_pair_spans)
        anywhere = not (first or second)
        rows = self._numbers.get(pair.train_word.lower(), [])
        rows = [row for row in rows if anywhere or (second if self._second[row] else first)]
        if not rows:
            return None
        row, label = max(((row, int(np.abs(self._z[row]).argmax())) for row in rows), key=lambda at: abs(self._z[at]))
        return float(self._z[row, label]), self._classes[label]

    def judge(self, answer: Explanation) -> AnswerBias:
        """How much of an answer stands on biased words, over all its proponents and opponents."""
        total = 0.0
        every: set[str] = set()
        biased: dict[str, _Part] = defaultdict(_Part)
        for pair in _pairs(answer):
            word, found = pair.train_word.lower(), self.z(pair)
            total += abs(pair.share)
            every.add(word)
            if found is not None and abs(found[0]) > CHANCE:
                biased[word].add(pair.share)
        parts = sorted(biased.items(), key=lambda item: -item[1].use)
        return AnswerBias(
            id=answer.query.id or "",
            text=answer.query.text,
            label=answer.query.label or "",
            share=sum(part.use for _, part in parts) / total if total else 0.0,
            signed=sum(part.signed for _, part in parts),
            words=len(parts) / len(every) if every else 0.0,
            strongest=tuple(word for word, _ in parts[:SHOWN]),
        )

    def by_use(self, answers: Sequence[Explanation]) -> tuple[WordUse, ...]:
        """The words of training examples by their part in some answers, most used first."""
        parts: dict[str, _Part] = defaultdict(_Part)
        strongest: dict[str, tuple[float, str] | None] = {}
        for answer in answers:
            here: set[str] = set()
            for pair in _pairs(answer):
                word, found = pair.train_word.lower(), self.z(pair)
                parts[word].add(pair.share)
                here.add(word)
                held = strongest.setdefault(word, found)
                if found is not None and (held is None or abs(found[0]) > abs(held[0])):
                    strongest[word] = found
            for word in here:
                parts[word].answers += 1
        order = sorted(parts.items(), key=lambda item: (-item[1].use, item[0]))
        made: list[WordUse] = []
        for word, part in order:
            z, label = strongest[word] or (None, None)
            made.append(WordUse(word, part.use, part.signed, part.answers, z, label))
        return tuple(made)


def _pairs(answer: Explanation) -> Iterator[WordPair]:
    for hit in (*answer.proponents, *answer.opponents):
        yield from hit.words
