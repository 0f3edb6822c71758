"""Forms: sums are kept, parts come back, and terms add up to the product of the dense matrices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradients import OUT, TOKENS, WIDTH, WORDS, numbers, same, some_head, some_outer, some_rows, table, unhurried
from proponent.gradients.forms import Outer, Rows, gather
from proponent.gradients.gradient import Gradient
from proponent.gradients.vocabulary_head import HeadOuter, VocabularyHead, cross_terms


def head_of(seed: int, *, bias: bool = True) -> VocabularyHead:
    random = np.random.default_rng(seed)
    return VocabularyHead(numbers(random, TOKENS, WIDTH), numbers(random, TOKENS) if bias else None)


@unhurried
@given(some_rows(), st.booleans())
def test_merging_keeps_sums_and_leaves_no_token_twice(rows: Rows, by_word: bool) -> None:
    merged = rows.merged(by_word=by_word)
    assert len(merged) == len(rows)
    for position in range(len(rows)):
        np.testing.assert_allclose(table(merged, position), table(rows, position), atol=1e-5)
        one, before = merged.example(position), rows.example(position)
        keys = list(zip(one.ids.tolist(), one.words.tolist(), strict=True))
        assert keys == sorted(set(keys))
        words = before.words if by_word else np.full_like(before.words, -1)
        assert set(keys) == set(zip(before.ids.tolist(), words.tolist(), strict=True))
    same(merged.merged(by_word=by_word), merged)


@unhurried
@given(some_rows())
def test_words_keep_their_own_sums(rows: Rows) -> None:
    merged = rows.merged(by_word=True)
    for position in range(len(rows)):
        one, before = merged.example(position), rows.example(position)
        for token, word, row in zip(one.ids, one.words, one.rows, strict=True):
            mine = (before.ids == token) & (before.words == word)
            np.testing.assert_allclose(row, before.rows[mine].sum(0), atol=1e-5)


@unhurried
@given(some_rows())
def test_norms_are_those_of_the_dense_matrix(rows: Rows) -> None:
    truth = [np.linalg.norm(table(rows, position)) for position in range(len(rows))]
    np.testing.assert_allclose(rows.norms(), truth, rtol=1e-5, atol=1e-6)


@unhurried
@given(some_rows(), st.data())
def test_keeping_rows_keeps_examples(rows: Rows, data: st.DataObject) -> None:
    size = len(rows.ids)
    chosen = np.asarray(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=np.bool_)
    kept = rows.keep(chosen)
    assert len(kept) == len(rows)
    for position in range(len(rows)):
        mine = chosen[rows.owners == position]
        np.testing.assert_array_equal(kept.example(position).rows, rows.example(position).rows[mine])
        np.testing.assert_array_equal(kept.example(position).ids, rows.example(position).ids[mine])


@unhurried
@given(some_rows(2, 2), some_outer(2, 2), some_head(2, 2), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_what_is_not_finite_is_found_and_emptied(rows: Rows, outer: Outer, head: HeadOuter, value: float) -> None:
    gradient = Gradient(rows, outer, head)
    assert gradient.finite(2).all()
    for array, owners in (
        (rows.rows, rows.owners),
        (outer.g, outer.owners),
        (outer.a, outer.owners),
        (head.a, head.owners),
    ):
        if not len(array):
            continue
        before = array[-1, 0]
        array[-1, 0] = value
        bad = ~gradient.finite(2)
        assert bad.tolist() == [place == owners[-1] for place in range(2)]
        cleaned = gradient.without(bad)
        assert cleaned.finite(2).all()
        assert all(len(form) == 2 for form in (cleaned.rows, cleaned.outer, cleaned.head))
        same(cleaned.example(int(1 - owners[-1])).rows, gradient.example(int(1 - owners[-1])).rows)
        assert len(cleaned.example(int(owners[-1])).outer.words) == 0
        array[-1, 0] = before


def test_a_gradient_without_forms_is_finite() -> None:
    assert Gradient().finite(3).tolist() == [True] * 3
    assert Gradient().example(1) == Gradient()


@unhurried
@given(some_rows(3, 3), some_outer(3, 3), some_head(3, 3), st.lists(st.booleans(), min_size=3, max_size=3))
def test_pack_unpack_and_stack_bring_everything_back(
    rows: Rows, outer: Outer, head: HeadOuter, kinds: list[bool]
) -> None:
    forms = {"rows": rows, "outer": outer, "head": head}
    held = {name: form for (name, form), kept in zip(forms.items(), kinds, strict=True) if kept}
    gradient = Gradient(**held)
    packed = gradient.pack()
    back = Gradient.unpack(packed | {"meta.losses": np.zeros(3)})
    stacked = Gradient.stack([gradient.example(position) for position in range(3)])
    for name, form in held.items():
        same(getattr(back, name), form)
        same(getattr(stacked, name), form)
    for name in set(forms) - set(held):
        assert getattr(back, name) is None
        assert getattr(stacked, name) is None


@unhurried
@given(some_rows(), some_rows())
def test_terms_of_rows_sum_to_the_product(rows: Rows, others: Rows) -> None:
    one, other = rows.example(0), others.example(0)
    terms = one.terms(other, WORDS, WORDS)
    assert terms.shape == (WORDS + 1, WORDS + 1)
    truth = float((table(rows, 0) * table(others, 0)).sum())
    assert terms.sum() == pytest.approx(truth, rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(other.terms(one, WORDS, WORDS), terms.T, atol=1e-9)
    assert one.terms(one, WORDS, WORDS).sum() >= 0


@unhurried
@given(some_rows(), some_rows())
def test_no_shared_token_gives_exactly_zero(rows: Rows, others: Rows) -> None:
    shifted = Rows(others.indptr, others.ids + TOKENS, others.words, others.rows)
    assert not rows.example(0).terms(shifted.example(0), WORDS, WORDS).any()


@unhurried
@given(some_rows(), some_rows())
def test_each_term_belongs_to_its_words(rows: Rows, others: Rows) -> None:
    one, other = rows.example(0), others.example(0)
    terms = one.terms(other, WORDS, WORDS)
    for mine in range(-1, WORDS):
        for theirs in range(-1, WORDS):
            part = one.keep(one.words == mine).terms(other.keep(other.words == theirs), WORDS, WORDS).sum()
            assert terms[mine, theirs] == pytest.approx(part, rel=1e-9, abs=1e-9)


@unhurried
@given(some_outer(), some_outer())
def test_terms_of_outers_sum_to_the_product(outer: Outer, others: Outer) -> None:
    one, other = outer.example(0), others.example(0)
    terms = one.terms(other, WORDS, WORDS)
    assert one.dense().shape == (OUT, WIDTH)
    truth = float((one.dense().astype(np.float64) * other.dense()).sum())
    assert terms.sum() == pytest.approx(truth, rel=1e-4, abs=1e-4)
    np.testing.assert_allclose(other.terms(one, WORDS, WORDS), terms.T, atol=1e-9)


@unhurried
@given(some_head(), st.integers(0, 9), st.booleans())
def test_head_factors_are_probabilities_minus_targets(head: HeadOuter, seed: int, bias: bool) -> None:
    table_ = head_of(seed, bias=bias)
    outer = head.outer(table_)
    logits = head.a.astype(np.float64) @ table_.weight.T + (0.0 if table_.bias is None else table_.bias)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p[np.arange(len(p)), head.target] -= 1.0
    np.testing.assert_allclose(outer.g, p * head.weight[:, None], atol=1e-5)
    np.testing.assert_array_equal(outer.a, head.a)
    np.testing.assert_array_equal(outer.words, head.words)
    np.testing.assert_array_equal(outer.indptr, head.indptr)


@unhurried
@given(some_rows(), some_head(), st.integers(0, 9))
def test_cross_terms_sum_to_the_product_of_the_dense_tables(rows: Rows, head: HeadOuter, seed: int) -> None:
    one, outer = rows.example(0), head.example(0).outer(head_of(seed))
    terms = cross_terms(one, outer, WORDS, WORDS)
    truth = float((table(rows, 0) * outer.dense()).sum())
    assert terms.sum() == pytest.approx(truth, rel=1e-4, abs=1e-4)


def test_large_logits_do_not_overflow() -> None:
    head = VocabularyHead(np.full((TOKENS, WIDTH), 1e4, dtype=np.float32))
    p = head.probabilities(np.ones((2, WIDTH), dtype=np.float32))
    np.testing.assert_allclose(p, 1 / TOKENS, rtol=1e-6)


def test_gather_puts_special_words_last() -> None:
    product = np.arange(6.0).reshape(2, 3)
    terms = gather(product, np.asarray([-1, 1]), np.asarray([0, 0, -1]), 2, 1)
    np.testing.assert_array_equal(terms, [[0, 0], [3 + 4, 5], [0 + 1, 2]])
