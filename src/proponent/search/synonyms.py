"""Match synonyms: different tokens with similar embeddings, one to one (TracIn-WE-Syn)."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from proponent.gradients.forms import Rows

Lookup = Callable[[int], tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m d"]] | None]
"""Owners and rows of a token."""


class Synonyms:
    """The tokens that match at one checkpoint."""

    def __init__(self, table: Float[np.ndarray, "v d"], threshold: float) -> None:
        self._table = table
        self._threshold = max(threshold, 0.0)  # a pair below 0 would lower the total similarity

    def scores(self, tokens: Int[np.ndarray, " a"], lookup: Lookup, query: Rows, n: int) -> Float[np.ndarray, " n"]:
        """Score the examples of a segment for one query."""
        total = np.zeros(n)
        similar = self._cosines(tokens, query.ids)
        found: list[tuple[np.ndarray, ...]] = []
        for place in np.flatnonzero((similar > self._threshold).any(1)).tolist():
            columns = np.flatnonzero(similar[place] > self._threshold)
            block = lookup(int(tokens[place]))
            assert block is not None
            order = np.argsort(block[0], kind="stable")
            owners, begins = np.unique(block[0][order], return_index=True)
            products = np.add.reduceat((block[1][order] @ query.rows[columns].T).astype(np.float64), begins, axis=0)
            for column, product in zip(columns.tolist(), products.T, strict=True):
                found.append((owners, np.full(len(owners), place), np.full(len(owners), column), product))
        if not found:
            return total
        owners, places, columns, products = (np.concatenate(column) for column in zip(*found, strict=True))
        kept = _one_to_one(owners, places, columns, similar, self._threshold)
        np.add.at(total, owners[kept], products[kept])
        return total

    def matched(self, rows: Rows, query: Rows) -> np.ndarray:
        """Which rows of a training example and a query match, for the word terms."""
        mine, theirs = np.unique(rows.ids), np.unique(query.ids)
        similar = self._cosines(mine, theirs)
        # The same candidates in the same order as in `_one_to_one`: ties are then broken alike in score and word terms.
        left, right = (np.flatnonzero((similar > self._threshold).any(axis)) for axis in (1, 0))
        matched = np.zeros((len(rows.ids), len(query.ids)), dtype=np.bool_)
        for place, column in assign(similar[np.ix_(left, right)], self._threshold):
            matched |= (rows.ids == mine[left[place]])[:, None] & (query.ids == theirs[right[column]])[None, :]
        return matched

    def _cosines(self, tokens: Int[np.ndarray, " a"], others: Int[np.ndarray, " b"]) -> Float[np.ndarray, "a b"]:
        left, right = _unit(self._table[tokens]), _unit(self._table[others])
        cosines = np.round(left @ right.T, 6)  # matrix products of different shapes differ in the last bits
        cosines[tokens[:, None] == others[None, :]] = 1.0
        return cosines


def assign(similar: Float[np.ndarray, "a b"], threshold: float) -> list[tuple[int, int]]:
    """Match tokens one to one, above a threshold, with maximum total similarity."""
    optimize: Any = import_module("scipy.optimize")  # imported here because loading it is slow
    allowed = similar > threshold
    rows, columns = optimize.linear_sum_assignment(np.where(allowed, similar, 0.0), maximize=True)
    return [(row, column) for row, column in zip(rows.tolist(), columns.tolist(), strict=True) if allowed[row, column]]


def _one_to_one(
    owners: Int[np.ndarray, " m"],
    places: Int[np.ndarray, " m"],
    columns: Int[np.ndarray, " m"],
    similar: Float[np.ndarray, "a b"],
    threshold: float,
) -> np.ndarray:
    """Which candidate pairs are matched, per owner; owners without a conflict keep all of their pairs."""
    kept = np.ones(len(owners), dtype=np.bool_)
    order = np.argsort(owners, kind="stable")
    for chosen in np.split(order, np.flatnonzero(np.diff(owners[order])) + 1):
        mine, theirs = places[chosen], columns[chosen]
        if len(np.unique(mine)) == len(mine) and len(np.unique(theirs)) == len(theirs):
            continue
        left, right = np.unique(mine), np.unique(theirs)
        pairs = {
            (int(left[row]), int(right[column])) for row, column in assign(similar[np.ix_(left, right)], threshold)
        }
        kept[chosen] = [(int(one), int(other)) in pairs for one, other in zip(mine, theirs, strict=True)]
    return kept


def _unit(rows: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "k d"]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)
