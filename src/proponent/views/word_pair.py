"""A part of a score: a word of the query and a word of a training example."""

from dataclasses import dataclass
from typing import Annotated

from proponent.types import SPECIAL, TEMPLATE, Span
from proponent.views.function_words import is_function_word
from proponent.views.page import optional
from proponent.views.turns import TurnSpan


@dataclass(frozen=True, slots=True)
class WordPair:
    """A word of the query, a word of the training example, and their part of the score."""

    query_word: Annotated[str, "word of the query; empty where a score has no part per query word"]
    train_word: Annotated[str, "word of the training example"]
    share: Annotated[float, "signed part of the score, in the unit of the score"]
    query_spans: Annotated[tuple[Span, ...], "places in the query's text"] = ()
    train_spans: Annotated[tuple[Span, ...], "places in the example's text"] = ()
    query_pair_spans: Annotated[tuple[Span, ...] | None, "places in the query's second text or target"] = optional()
    train_pair_spans: Annotated[tuple[Span, ...] | None, "places in the example's second text or target"] = optional()
    query_turn_spans: Annotated[tuple[TurnSpan, ...] | None, "places in the query's turns"] = optional()
    train_turn_spans: Annotated[tuple[TurnSpan, ...] | None, "places in the example's turns"] = optional()
    query_side: Annotated[str | None, "answer of the query's pair with the word: chosen or rejected"] = optional()
    train_side: Annotated[str | None, "answer of the example's pair with the word: chosen or rejected"] = optional()
    piece: Annotated[str | None, "piece that both words share, and all that the places hold; None: whole words"] = (
        optional()
    )

    @property
    def names(self) -> tuple[str, str]:
        """Both words, with the answer that they stand in."""
        both = ((self.query_word, self.query_side), (self.train_word, self.train_side))
        query, train = (word if side is None else f"{word} ({side})" for word, side in both)
        return query, train

    @property
    def markup(self) -> bool:
        """Whether a word stands for the markup of a chat template."""
        return TEMPLATE in (self.query_word, self.train_word)

    @property
    def whole(self) -> bool:
        """Whether a word stands for the special tokens, which say something of the text as a whole."""
        return not self.markup and SPECIAL in (self.query_word, self.train_word)

    @property
    def content(self) -> bool:
        """Whether one of the words carries meaning: neither a function word nor punctuation."""
        return not all(is_function_word(one) for one in (self.query_word, self.train_word))
