"""Near-duplicates: slow readable truths for similarities, pairs and groups."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent.actions.near_duplicates import (
    LEAST,
    LEAST_IN_ORDER,
    NEIGHBOURS,
    Bags,
    NearPairs,
    near_pairs,
    same_questions,
    similarity,
)

WORDS = ["red", "fox", "the", "river", "runs", "a", "town", "silver", "heron", "5", "+"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join), max_size=9)


def slow_weights(rows: list[list[str]]) -> dict[str, float]:
    """log(1 + texts / texts that hold the word)."""
    return {word: math.log(1 + len(rows) / sum(word in other for other in rows)) for row in rows for word in row}


def slow_similarity(first: set, second: set, weight: dict) -> tuple[float, float]:
    """Weighted Jaccard similarity, and the weight of what only one has."""
    shared = sum(weight[one] for one in first & second)
    apart = sum(weight[one] for one in first ^ second)
    return (shared / (shared + apart) if shared + apart else 0.0), apart


def slow_pairs(row: list[str]) -> set[tuple[str, str]]:
    return {(row[0], row[0])} if len(row) == 1 else set(itertools.pairwise(row))


@given(texts)
def test_similarities_are_those_of_sets(given_texts: list[str]):
    bags = Bags.of(given_texts)
    rows = [text.split() for text in given_texts]
    weight = slow_weights(rows)
    places = [(one, other) for one in range(len(rows)) for other in range(len(rows))]
    first, second = (np.asarray(one, dtype=np.int64) for one in (zip(*places, strict=True) if places else ((), ())))
    alike, apart = similarity(bags.distinct, first, second, bags.weights)
    in_order, _ = similarity(bags.adjacent, first, second)
    for at, (one, other) in enumerate(places):
        wanted = slow_similarity(set(rows[one]), set(rows[other]), weight)
        assert (alike[at], apart[at]) == pytest.approx(wanted)
        both = slow_pairs(rows[one]), slow_pairs(rows[other])
        ones = dict.fromkeys(both[0] | both[1], 1.0) if rows[one] and rows[other] else {}
        if ones:
            assert in_order[at] == pytest.approx(slow_similarity(*both, ones)[0])


@given(texts)
def test_pairs_are_near_duplicates_and_every_copy_is_found(given_texts: list[str]):
    rows = [text.split() for text in given_texts]
    weight, found = slow_weights(rows), near_pairs(Bags.of(given_texts))
    for first, second, alike in zip(found.first, found.second, found.similarity, strict=True):
        assert first < second
        assert rows[first]
        if alike == 1.0:
            assert rows[first] == rows[second]
            assert rows.index(rows[second]) == first
        else:
            assert slow_similarity(set(rows[first]), set(rows[second]), weight)[0] >= LEAST - 1e-9
            ones = dict.fromkeys(slow_pairs(rows[first]) | slow_pairs(rows[second]), 1.0)
            assert slow_similarity(slow_pairs(rows[first]), slow_pairs(rows[second]), ones)[0] >= LEAST_IN_ORDER
    copies = {place for place, row in enumerate(rows) if row and rows.index(row) < place}
    assert copies == {int(one) for one, alike in zip(found.second, found.similarity, strict=True) if alike == 1.0}


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=15))
def test_groups_are_what_pairs_connect(pairs: list[tuple[int, int]]):
    first, second = (np.asarray([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    groups = NearPairs(first, second, np.ones(len(pairs))).groups(12)
    wanted = list(range(12))
    for _ in range(12):
        for one, other in pairs:
            wanted[one] = wanted[other] = min(wanted[one], wanted[other])
    assert groups.tolist() == wanted


def sentences(count: int, draw: random.Random) -> list[list[str]]:
    return [[f"w{draw.randrange(5000)}" for _ in range(12)] for _ in range(count)]


@settings(max_examples=5)
@given(st.integers(0, 10**6))
def test_nearly_every_small_change_is_found(seed: int):
    draw = random.Random(seed)
    rows = sentences(300, draw)
    changed = [[*row[:-1], "other"] if at % 2 else ["please", *row] for at, row in enumerate(rows)]
    found = near_pairs(Bags.of([" ".join(row) for row in [*rows, *changed]]))
    met = {(int(one), int(other)) for one, other in zip(found.first, found.second, strict=True)}
    assert sum((at, at + 300) in met for at in range(300)) >= 295
    assert all(other == one + 300 for one, other in met)


def test_case_white_space_and_punctuation_do_not_tell_texts_apart():
    found = near_pairs(
        Bags.of(
            ["What is  the capital of France?", "what is the capital of france", "What is 5 + 3?", "What is 5 - 3?"]
        )
    )
    assert list(zip(found.first, found.second, strict=True)) == [(0, 1)]


def test_the_order_of_words_counts():
    rows = [
        "convert 5 feet to inches now",
        "convert 5 inches to feet now",
        *(f"row {at} of other words" for at in range(9)),
    ]
    assert len(near_pairs(Bags.of(rows)).first) == 0


def test_many_rows_of_one_pattern_are_compared_in_part_and_counted():
    rows = [f"a b c d e f g h i j k l m n o p q r s t x{at}" for at in range(6 * NEIGHBOURS)]
    found = near_pairs(Bags.of(rows), least=0.3)
    assert found.crowded > 0
    assert len(found.first) < 20 * NEIGHBOURS * len(rows)
    assert len(set(found.groups(len(rows)).tolist())) == 1
    assert near_pairs(Bags.of(rows[:4]), least=0.3).crowded == 0


@pytest.mark.parametrize("rows", [[], [""], ["", ""], ["...", "!"], ["one"], ["", "one", ""]])
def test_without_words_nothing_is_near(rows: list[str]):
    found = near_pairs(Bags.of(rows))
    assert (len(found.first), found.crowded) == (0, 0)
    assert found.groups(len(rows)).tolist() == list(range(len(rows)))


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("Please describe the silver heron of the town", True),
        ("describe the silver heron of a town", True),
        ("Describe the silver heron of the village", False),
        ("Describe the golden heron of the town", False),
    ],
)
def test_prompts_that_ask_the_same_differ_in_less_than_a_rare_word(other: str, same: bool):
    rest = [f"What is the use of thing{at} in a place{at}, please?" for at in range(40)]
    found = same_questions(Bags.of(["Describe the silver heron of the town.", other, *rest]))
    assert ((0, 1) in set(zip(found.first.tolist(), found.second.tolist(), strict=True))) == same


def test_prompts_with_other_numbers_or_symbols_do_not_ask_the_same():
    rest = [f"List {at % 7} uses of + or - for a reader of this page" for at in range(60)]
    pairs = [
        ("Give me 5 good tips for a long walk", "Give me 3 good tips for a long walk"),
        ("What do you get for a + b here", "What do you get for a - b here"),
    ]
    for pair in pairs:
        found = same_questions(Bags.of([*pair, *rest]))
        assert (0, 1) not in set(zip(found.first.tolist(), found.second.tolist(), strict=True))
