"""Terms become word pairs: none is lost, the largest comes first, spans are those of the raw text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent.index.word_pairs import word_pairs
from proponent.types import SPECIAL
from proponent.words import words

MINE, THEIRS = ("red red planet",), ("a red home", "planet")


def test_pairs_carry_words_and_their_places() -> None:
    mine, theirs = words(MINE), words(THEIRS)
    terms = np.zeros((len(mine) + 1, len(theirs) + 1))
    names = [[word.text for word in side] for side in (mine, theirs)]
    terms[names[0].index("red"), names[1].index("red")] = 0.25
    terms[names[0].index("planet"), names[1].index("planet")] = -0.5
    terms[-1, -1] = 0.125
    first, second, third = word_pairs(terms, mine, theirs, paired=True)
    assert (first.train_word, first.query_word, first.share) == ("planet", "planet", -0.5)
    assert first.train_spans == ((8, 14),)
    assert first.query_spans == ()
    assert first.query_pair_spans == ((0, 6),)
    assert (second.train_word, second.query_word) == ("red", "red")
    assert second.train_spans == ((0, 3), (4, 7))  # every place of the word
    assert second.query_spans == ((2, 5),)
    assert (third.train_word, third.query_word, third.share) == (SPECIAL, SPECIAL, 0.125)
    assert third.train_spans == third.query_spans == ()
    assert third.train_pair_spans == third.query_pair_spans == ()


def test_a_single_text_has_no_second_places() -> None:
    side = words(("red",))
    (pair,) = word_pairs(np.asarray([[1.0, 0.0], [0.0, 0.0]]), side, side, paired=False)
    assert pair.train_pair_spans is None
    assert pair.query_pair_spans is None


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_shares_sum_to_the_terms_in_order_of_size(seed: int, empty: float) -> None:
    mine, theirs = words(MINE), words(THEIRS)
    random = np.random.default_rng(seed)
    terms = random.normal(size=(len(mine) + 1, len(theirs) + 1))
    terms[random.random(terms.shape) < empty] = 0.0
    pairs = word_pairs(terms, mine, theirs, paired=True)
    assert len(pairs) == np.count_nonzero(terms)
    assert sum(pair.share for pair in pairs) == pytest.approx(terms.sum(), abs=1e-12)
    sizes = [abs(pair.share) for pair in pairs]
    assert sizes == sorted(sizes, reverse=True)


def test_equal_shares_keep_the_order_of_the_words() -> None:
    mine = words(("red planet",))
    pairs = word_pairs(np.full((4, 4), 0.5), mine, mine, paired=False)
    names = ["red", " ", "planet", SPECIAL]
    assert [(pair.train_word, pair.query_word) for pair in pairs] == [
        (one, "" if other == SPECIAL != one else other) for one in names for other in names
    ]
