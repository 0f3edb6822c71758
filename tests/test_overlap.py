"""Verbatim overlap of an answer and training examples, against a plain search of all pairs of places."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proponent.index.overlap import Answer, longest_run
from proponent.words import split

words = st.lists(st.sampled_from("abc"), max_size=30)
texts = st.lists(st.text("ab .,-é\n日", max_size=24), max_size=3)


def longest(mine: list[str], other: list[str]) -> tuple[int, int, int]:
    """Every pair of places, word by word."""
    best = (0, 0, 0)
    for at in range(len(mine)):
        for there in range(len(other)):
            length = 0
            while (
                at + length < len(mine) and there + length < len(other) and mine[at + length] == other[there + length]
            ):
                length += 1
            best = (length, at, there) if length > best[0] else best
    return best


@given(words, words)
def test_the_longest_run_is_that_of_a_plain_search(mine: list[str], other: list[str]) -> None:
    made = longest_run(np.asarray([ord(one) for one in mine], int), np.asarray([ord(one) for one in other], int))
    assert made == longest(mine, other)


def plain_words(text: str) -> list[str]:
    return [text[a:b].casefold() for a, b in split(text) if any(one.isalnum() for one in text[a:b])]


@given(texts, texts)
def test_no_run_crosses_from_one_text_into_another(mine: list[str], other: list[str]) -> None:
    found = Answer(mine).overlap(other)
    count = sum(len(plain_words(one)) for one in mine)
    if not count:
        assert found is None
        return
    assert found is not None
    best = max((longest(plain_words(a), plain_words(b))[0] for a in mine for b in other), default=0)
    assert (found.words, found.of, found.share) == (best, count, best / count)
    run = plain_words(found.text)
    assert len(run) == best
    if best:
        assert any(found.text in one for one in other)
        spoken = [word for one in mine for word in plain_words(one)]
        assert spoken[found.start : found.start + best] == run


@pytest.mark.parametrize(
    ("answer", "example", "words", "text"),
    [
        ("The mascot is a silver heron.", "Our mascot is a Silver  Heron!", 5, "mascot is a Silver  Heron"),
        ("a silver, heron", "silver heron", 2, "silver heron"),
        ("gold", "silver", 0, ""),
        ("one two three", "three one two", 2, "one two"),
        ("don't stop", "Don't stop now", 2, "Don't stop"),
    ],
)
def test_case_white_space_and_punctuation_do_not_count(answer: str, example: str, words: int, text: str) -> None:
    found = Answer([answer]).overlap([example])
    assert found is not None
    assert (found.words, found.text) == (words, text)


def test_long_texts_of_one_word_are_compared_at_once() -> None:
    found = Answer(["a " * 20_000]).overlap(["a " * 15_000, "a b " * 10])
    assert found is not None
    assert found.words == 15_000
