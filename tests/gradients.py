"""Random forms for property tests: small, ragged, with repeated tokens, special words and empty examples."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from proponent.gradients.forms import Outer, Ragged, Rows
from proponent.gradients.vocabulary_head import HeadOuter

TOKENS, WIDTH, WORDS, OUT = 7, 5, 3, 4
unhurried = settings(deadline=None, max_examples=60)  # a busy machine is no failure


@st.composite
def ragged(draw: st.DrawFn, least: int = 1, most: int = 4) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Begin of each example, word of each row, and a source of numbers."""
    lengths = draw(st.lists(st.integers(0, 6), min_size=least, max_size=most))
    words = draw(st.lists(st.integers(-1, WORDS - 1), min_size=sum(lengths), max_size=sum(lengths)))
    seed = draw(st.integers(0, 2**32 - 1))
    return np.concatenate([[0], np.cumsum(lengths)]), np.asarray(words, dtype=np.int64), np.random.default_rng(seed)


@st.composite
def some_rows(draw: st.DrawFn, least: int = 1, most: int = 4) -> Rows:
    indptr, words, random = draw(ragged(least, most))
    ids = draw(st.lists(st.integers(0, TOKENS - 1), min_size=len(words), max_size=len(words)))
    return Rows(indptr, np.asarray(ids, dtype=np.int64), words, numbers(random, len(words), WIDTH))


@st.composite
def some_outer(draw: st.DrawFn, least: int = 1, most: int = 4) -> Outer:
    indptr, words, random = draw(ragged(least, most))
    return Outer(indptr, words, numbers(random, len(words), WIDTH), numbers(random, len(words), OUT))


@st.composite
def some_head(draw: st.DrawFn, least: int = 1, most: int = 4) -> HeadOuter:
    indptr, words, random = draw(ragged(least, most))
    target = random.integers(0, TOKENS, len(words))
    return HeadOuter(indptr, words, numbers(random, len(words), WIDTH), target, numbers(random, len(words), 1)[:, 0])


def numbers(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)


def table(rows: Rows, position: int) -> np.ndarray:
    """One example's rows summed into the dense table."""
    one = rows.example(position)
    dense = np.zeros((TOKENS, WIDTH))
    np.add.at(dense, one.ids, one.rows.astype(np.float64))
    return dense


def same(one: Ragged, other: Ragged) -> None:
    """Equal in every array."""
    assert type(one) is type(other)
    for name, array in vars(one).items():
        np.testing.assert_array_equal(array, getattr(other, name), err_msg=name)
