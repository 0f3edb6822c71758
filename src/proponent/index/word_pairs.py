"""Convert word x word terms to the word pairs of an explanation."""

import numpy as np

from proponent.gradients.forms import Terms
from proponent.types import SPECIAL, Span
from proponent.views import WordPair
from proponent.words import Word


def word_pairs(terms: Terms, mine: tuple[Word, ...], theirs: tuple[Word, ...], *, paired: bool) -> tuple[WordPair, ...]:
    """List every non-zero term with its words and their places, largest first."""
    rows, columns = np.nonzero(terms)
    order = np.lexsort((columns, rows, -np.abs(terms[rows, columns])))
    return tuple(
        _pair(float(terms[row, column]), _word(mine, row), _word(theirs, column), paired=paired)
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True)
    )


def _word(words: tuple[Word, ...], position: int) -> Word:
    return words[position] if position < len(words) else Word(SPECIAL, ((), ()))


def _pair(share: float, mine: Word, theirs: Word, *, paired: bool) -> WordPair:
    return WordPair(
        query_word=theirs.text,
        train_word=mine.text,
        share=share,
        query_spans=_spans(theirs, 0),
        train_spans=_spans(mine, 0),
        query_pair_spans=_spans(theirs, 1) if paired else None,
        train_pair_spans=_spans(mine, 1) if paired else None,
    )


def _spans(word: Word, part: int) -> tuple[Span, ...]:
    return word.spans[part] if part < len(word.spans) else ()
