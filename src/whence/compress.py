"""Shrink embedding gradients: leave special tokens out, keep the tokens of largest norm."""

import numpy as np
from jaxtyping import Int

from whence.forms import Rows
from whence.recipe import Recipe


def compress(positions: Rows, recipe: Recipe, special: Int[np.ndarray, " z"]) -> Rows:
    """Turn one row per position into one row per token and word, keeping what the recipe keeps.

    Args:
        positions: gradients as captured, one row per token position.
        recipe: says what is dropped and how many tokens stay.
        special: token ids that count as special.

    Returns:
        Rows merged by token and word.
    """
    rows = positions.keep(~np.isin(positions.ids, special)) if recipe.drop_special else positions
    if recipe.top is None:
        return rows.merged(by_word=True)
    if recipe.top_by == "position":
        return rows.keep(_largest(rows, recipe.top)).merged(by_word=True)
    return top_tokens(rows.merged(by_word=True), recipe.top)


def top_tokens(rows: Rows, k: int) -> Rows:
    """Keep, per example, the rows of the k distinct tokens of largest gradient norm.

    Args:
        rows: merged rows; a token may stand in several words.
        k: tokens to keep; an example with fewer keeps all.

    Returns:
        The kept rows. Ties go to the smaller token id.
    """
    totals = rows.merged(by_word=False)
    kept = totals.keep(_largest(totals, k))
    span = int(rows.ids.max(initial=0)) + 1
    return rows.keep(np.isin(rows.owners * span + rows.ids, kept.owners * span + kept.ids))


def _largest(rows: Rows, k: int) -> np.ndarray:
    """Which rows are among the k of largest norm of their example: boolean [k]."""
    norms = np.linalg.norm(rows.rows, axis=1)
    order = np.lexsort((np.arange(len(norms)), -norms, rows.owners))
    rank = np.empty(len(norms), dtype=np.int64)
    rank[order] = np.arange(len(norms)) - np.repeat(rows.indptr[:-1], np.diff(rows.indptr))
    return rank < k
