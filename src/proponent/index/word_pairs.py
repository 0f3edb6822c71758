"""Convert word x word terms to the word pairs of an explanation."""

import numpy as np

from proponent.gradients.forms import Terms
from proponent.index.word_pieces import WordPieces
from proponent.types import SPECIAL, Span
from proponent.views import WordPair
from proponent.views.turns import TurnSpan
from proponent.words import Word


def word_pairs(
    terms: Terms,
    mine: tuple[Word, ...],
    theirs: tuple[Word, ...],
    *,
    paired: bool,
    turned: tuple[bool, bool] = (False, False),
    pieces: WordPieces | None = None,
) -> tuple[WordPair, ...]:
    """List every non-zero term with its words and their places, largest first; `turned` names conversations."""
    # what a word of the example shares with the query as a whole, and with no word of it, has an empty query word
    found = pieces or WordPieces((), ())
    rows, columns = np.nonzero(terms)
    order = np.lexsort((columns, rows, -np.abs(terms[rows, columns])))
    return tuple(
        _pair(
            float(terms[row, column]),
            *found.narrowed(_word(theirs, column, "" if row < len(mine) else SPECIAL), _word(mine, row)),
            paired,
            turned,
        )
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True)
    )


def _word(words: tuple[Word, ...], position: int, beyond: str = SPECIAL) -> Word:
    return words[position] if position < len(words) else Word(beyond, ((), ()))


def _pair(
    share: float, theirs: Word, mine: Word, piece: str | None, paired: bool, turned: tuple[bool, bool]
) -> WordPair:
    train, query = turned
    return WordPair(
        query_word=theirs.text,
        train_word=mine.text,
        share=share,
        query_spans=() if query else _spans(theirs, 0),
        train_spans=() if train else _spans(mine, 0),
        query_pair_spans=_spans(theirs, 1) if paired and not query else None,
        train_pair_spans=_spans(mine, 1) if paired and not train else None,
        query_turn_spans=_turn_spans(theirs) if query else None,
        train_turn_spans=_turn_spans(mine) if train else None,
        query_side=theirs.side or None,
        train_side=mine.side or None,
        piece=piece,
    )


def _turn_spans(word: Word) -> tuple[TurnSpan, ...]:
    return tuple((turn, *span) for turn, spans in enumerate(word.spans) for span in spans)


def _spans(word: Word, part: int) -> tuple[Span, ...]:
    return word.spans[part] if part < len(word.spans) else ()
