"""One training example of an explanation, with its score and the words that made it."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated

from proponent.views.overlap import Overlap
from proponent.views.page import optional
from proponent.views.reading import reading
from proponent.views.text_marks import Mark
from proponent.views.turns import TurnView, marks_by_turn
from proponent.views.word_pair import WordPair

SHOWN_WORDS = 8
NAMED_WORDS = 3
"""Word pairs that are displayed however small they are beside the largest."""
SAVED_WORDS = 50
"""Word pairs of a hit in JSON, the strongest: a long question and a long text have thousands."""


@dataclass(frozen=True, kw_only=True)  # without slots: what views ask for often is computed once
class Hit:
    """One training example with its score for the query."""

    rank: Annotated[int, "1 is the strongest"]
    id: Annotated[str, "id of the training example"]
    row: Annotated[int, "0-based row of the source"]
    score: Annotated[float, "above 0: a proponent, below 0: an opponent"]
    text: Annotated[str, "the text, or the first text of a pair, or the prompt"]
    text_pair: Annotated[str | None, "second text of a pair"] = optional()
    target: Annotated[str | None, "the part whose tokens count"] = optional()
    turns: Annotated[tuple[TurnView, ...] | None, "turns of a conversation; text then has one per line"] = optional()
    label: Annotated[str | None, "given class; None for a language model"]
    predicted: Annotated[str | None, "class that the model predicts for this example"] = optional()
    by_checkpoint: Annotated[tuple[float, ...], "the parts of the score, per checkpoint"] = ()
    by_run: Annotated[tuple[float, ...], "the parts of the score, per run, if several are joined; else empty"] = ()
    source: Annotated[str | None, "value of the source column"] = optional()
    truncated_at: Annotated[int | None, "character of the text at which the model stops reading"] = optional()
    pair_truncated_at: Annotated[int | None, "the same in the second text or the target"] = optional()
    truncated_before: Annotated[bool | None, "true: it reads from there on, not up to there"] = optional()
    words: Annotated[tuple[WordPair, ...], "word pairs; their shares and the share left out sum to the score"] = ()
    overlap: Annotated[Overlap | None, "longest run of words that the answer shares"] = field(
        default=None, metadata={"optional": True}
    )
    words_left_out: Annotated[int | None, "number of weaker word pairs that a saved answer leaves out"] = optional()
    share_left_out: Annotated[float | None, "sum of their shares"] = optional()
    size_left_out: Annotated[float | None, "sum of their magnitudes"] = optional()
    content_only: Annotated[bool, "whether function words and punctuation are hidden in views"] = field(
        default=False, metadata={"json": None}
    )

    @property
    def reading(self) -> str | None:
        """Where its texts were truncated, in words."""
        return reading(self.truncated_at, self.pair_truncated_at, before=self.truncated_before)

    def bounded(self) -> "Hit":
        """The same hit with its strongest word pairs only, in their order, and the sum of the others."""
        if len(self.words) <= SAVED_WORDS:
            return self
        order = sorted(range(len(self.words)), key=lambda at: -abs(self.words[at].share))
        others = [self.words[at].share for at in order[SAVED_WORDS:]]
        return replace(
            self,
            words=tuple(self.words[at] for at in sorted(order[:SAVED_WORDS])),
            words_left_out=(self.words_left_out or 0) + len(others),
            share_left_out=math.fsum([self.share_left_out or 0.0, *others]),
            size_left_out=math.fsum([self.size_left_out or 0.0, *map(abs, others)]),
        )

    @cached_property
    def shown_words(self) -> tuple[WordPair, ...]:
        """The displayed pairs of words, largest first: the best three always, others from 1 % of the largest."""
        ordered = self._ordered[:SHOWN_WORDS]
        return tuple(
            pair
            for rank, pair in enumerate(ordered)
            if pair.share and (rank < NAMED_WORDS or abs(pair.share) >= 0.01 * abs(ordered[0].share))
        )

    @property
    def _ordered(self) -> list[WordPair]:
        """Pairs of words that may be displayed, largest first: no markup, no special tokens, no hidden ones."""
        some = (one for one in self._real if one.content or not self.content_only)
        return sorted(some, key=lambda pair: -abs(pair.share))

    @cached_property
    def _real(self) -> list[WordPair]:
        """Pairs of words of the texts."""
        return [one for one in self.words if not one.markup and not one.whole]

    @cached_property
    def words_size(self) -> float:
        """Sum of the magnitudes of all pairs of words: what the percentage of a pair is of."""
        return math.fsum([self.size_left_out or 0.0, *(abs(one.share) for one in self._real)])

    @cached_property
    def template_share(self) -> float:
        """Part of the score that belongs to the markup of a chat template."""
        return math.fsum(pair.share for pair in self.words if pair.markup)

    @cached_property
    def whole_share(self) -> float:
        """Part of the score that belongs to special tokens: to the text as a whole, and to no word."""
        return math.fsum(pair.share for pair in self.words if pair.whole)

    @property
    def hidden_words(self) -> int:
        """Number of pairs of function words and punctuation that are hidden."""
        return sum(not one.content for one in self._real) if self.content_only else 0

    @property
    def more_words(self) -> int:
        """Number of pairs of words that are not displayed."""
        return len(self._real) - len(self.shown_words) + (self.words_left_out or 0)

    @property
    def more_share(self) -> float:
        """Sum of the shares of words that are not displayed."""
        shown = {id(one) for one in self.shown_words}
        return math.fsum([self.share_left_out or 0.0, *(one.share for one in self._real if id(one) not in shown)])

    def shares(self, word: str) -> bool:
        """Whether a word or a shared piece, in any case, is in one of its word pairs; every hit for an empty word."""
        wanted = word.casefold()
        named = ((one.query_word, one.train_word, one.piece or one.train_word) for one in self.words)
        return not word or any(wanted in map(str.casefold, some) for some in named)

    @property
    def second(self) -> str | None:
        """The second text: of a pair, or the target."""
        return self.text_pair if self.text_pair is not None else self.target

    @property
    def mislabelled(self) -> bool:
        """Whether the model predicts a class other than the given one."""
        return self.predicted is not None and self.predicted != self.label

    @property
    def agreeing(self) -> int:
        """Number of checkpoints at which the score has the sign of the total score."""
        return sum(part * self.score > 0 for part in self.by_checkpoint)

    @property
    def agreeing_runs(self) -> int:
        """Number of joined runs in which the score has the sign of the total score."""
        return sum(part * self.score > 0 for part in self.by_run)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Marks on the text: the spans of the displayed words."""
        return tuple((a, b, pair.share) for pair in self.shown_words for a, b in pair.train_spans)

    @property
    def second_marks(self) -> tuple[Mark, ...]:
        """Marks on the second text."""
        return tuple((a, b, pair.share) for pair in self.shown_words for a, b in pair.train_pair_spans or ())

    @property
    def turn_marks(self) -> tuple[tuple[Mark, ...], ...]:
        """Marks on each turn."""
        spans = [(span, pair.share) for pair in self.shown_words for span in pair.train_turn_spans or ()]
        return marks_by_turn(len(self.turns or ()), spans)

    @property
    def query_marks(self) -> tuple[Mark, ...]:
        """Marks on the query's text that belong to this hit."""
        return tuple((a, b, pair.share) for pair in self.shown_words for a, b in pair.query_spans)
