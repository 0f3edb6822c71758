"""Compression: what is kept is a part of what was there, and the right part."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gradients import TOKENS, same, some_rows, unhurried
from proponent.gradients.forms import Rows
from proponent.gradients.layer_rules import Block
from proponent.gradients.projection import Projection, compress, top_tokens
from proponent.method import EmbeddingRows

NONE = np.asarray([], dtype=np.int64)


def kept_of(**changes: Any) -> EmbeddingRows:
    return EmbeddingRows(**changes)


@unhurried
@given(some_rows())
def test_without_wishes_rows_are_only_merged(rows: Rows) -> None:
    same(compress(rows, kept_of(), np.asarray([0, 1])), rows.merged(by_word=True))


@unhurried
@given(some_rows(), st.integers(TOKENS, TOKENS + 3))
def test_top_k_of_all_distinct_tokens_is_everything(rows: Rows, k: int) -> None:
    same(compress(rows, kept_of(top=k), NONE), rows.merged(by_word=True))


@unhurried
@given(some_rows(), st.integers(1, TOKENS))
def test_top_tokens_are_those_of_largest_summed_norm(rows: Rows, k: int) -> None:
    kept = compress(rows, kept_of(top=k), NONE)
    whole = rows.merged(by_word=True)
    for position in range(len(rows)):
        total = rows.merged(by_word=False).example(position)
        norms = dict(zip(total.ids.tolist(), np.linalg.norm(total.rows, axis=1).tolist(), strict=True))
        best = sorted(norms, key=lambda token: (-norms[token], token))[:k]
        one = whole.example(position)
        same(kept.example(position), one.keep(np.isin(one.ids, best)))


@unhurried
@given(some_rows(), st.integers(1, 6))
def test_top_positions_are_chosen_before_merging(rows: Rows, k: int) -> None:
    kept = compress(rows, kept_of(top=k, top_by="position"), NONE)
    for position in range(len(rows)):
        one = rows.example(position)
        order = np.argsort(-np.linalg.norm(one.rows, axis=1), kind="stable")[:k]
        same(kept.example(position), one.keep(np.isin(np.arange(len(one.ids)), order)).merged(by_word=True))


def test_small_layers_outside_the_blocks_are_kept_whole() -> None:
    """A head or a table of token types is a single layer with large gradients, whose error nothing averages out."""
    blocks = [
        Block("classifier", ("classifier",), "weight", 4, 96, apart=True),
        Block("pooler", ("pooler",), "weight", 96, 96, apart=True),
        Block("query", ("query",), "weight", 4, 96),
    ]
    made = Projection(blocks, 16, 0)
    assert made.shapes == {"classifier": (4, 96), "pooler": (16, 16), "query": (4, 16)}
    assert made.sides(blocks[0]) == (None, None)
    assert made.projected == 2
    assert Projection(blocks, 8, 0).shapes["classifier"] == (4, 8)


def test_a_repeated_token_takes_one_place_or_several() -> None:
    """Two weaker occurrences of token 1 outweigh token 0 together; by position each stands for itself."""
    rows = Rows(
        np.asarray([0, 4]),
        np.asarray([0, 1, 1, 2]),
        np.asarray([0, 1, 2, 3]),
        np.asarray([[3.0], [2.0], [2.5], [1.0]], dtype=np.float32),
    )
    assert compress(rows, kept_of(top=1), NONE).ids.tolist() == [1, 1]  # one token, still apart by its two words
    assert compress(rows, kept_of(top=1, top_by="position"), NONE).ids.tolist() == [0]
    assert compress(rows, kept_of(top=2, top_by="position"), NONE).rows[:, 0].tolist() == [3.0, 2.5]
    assert compress(rows, kept_of(top=2), NONE).ids.tolist() == [0, 1, 1]


def test_ties_go_to_the_smaller_token() -> None:
    rows = Rows(np.asarray([0, 3]), np.asarray([5, 2, 4]), np.asarray([0, 1, 2]), np.ones((3, 2), dtype=np.float32))
    assert compress(rows, kept_of(top=2), NONE).ids.tolist() == [2, 4]
    assert top_tokens(rows.merged(by_word=True), 1).ids.tolist() == [2]


@unhurried
@given(some_rows(), st.sets(st.integers(0, TOKENS - 1)))
def test_special_tokens_are_dropped_before_the_top_is_chosen(rows: Rows, special: set[int]) -> None:
    dropped = np.asarray(sorted(special), dtype=np.int64)
    kept = compress(rows, kept_of(drop_special=True), dropped)
    assert not np.isin(kept.ids, dropped).any()
    same(kept, rows.keep(~np.isin(rows.ids, dropped)).merged(by_word=True))
    for top_by in ("token", "position"):
        first = compress(rows, kept_of(drop_special=True, top=1, top_by=top_by), dropped)
        full = np.diff(rows.keep(~np.isin(rows.ids, dropped)).indptr) > 0
        assert ((np.diff(first.indptr) > 0) == full).all()  # a special token never takes the place of another


@unhurried
@given(some_rows())
def test_dropping_everything_leaves_empty_examples(rows: Rows) -> None:
    kept = compress(rows, kept_of(drop_special=True, top=3), np.arange(TOKENS))
    assert len(kept) == len(rows)
    assert len(kept.ids) == 0
