"""Compare a query's gradient with everything that an index keeps. Exact always; needs no model.

TracIn-WE scores meet only where two texts share a token, so a query reads the postings of its own tokens and nothing
else. A vocabulary head is dense over the vocabulary: there the shards are scanned block by block, with one matrix
product per block and query. Optimizer-aware products turn the query, so what is kept stays plain.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from whence.errors import MissingExtraError
from whence.forms import Gradient, Head, HeadOuter, Outer, Rows, Terms, cross_terms, gather
from whence.store import Postings, Store

BLOCK_BYTES = 64 * 2**20
"""Memory of one block of head predictions during a scan."""


class Search:
    """Scores and word terms of queries against one index.

    Args:
        store: the index.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.recipe = store.plan.recipe
        self._postings = lru_cache(maxsize=None)(store.postings)
        self._table = lru_cache(maxsize=None)(store.table)

    def scores(self, queries: Mapping[int, Gradient], count: int) -> Float[np.ndarray, "q n"]:
        """Score every training example against some queries.

        Args:
            queries: gradients of the same queries at every checkpoint, by step.
            count: number of queries.

        Returns:
            [q n] in float64; NaN for training rows that were skipped.
        """
        total = np.zeros((count, self.store.plan.n))
        for checkpoint in self.store.plan.checkpoints:
            part = self._checkpoint(checkpoint.step, queries[checkpoint.step], count)
            total += checkpoint.weight * part * self.scale(checkpoint.step)
        total[:, self.store.features["skipped"]] = np.nan
        return total

    def scale(self, step: int) -> Float[np.ndarray, " n"]:
        """What each training example's gradient is multiplied with.

        Args:
            step: the checkpoint.

        Returns:
            1 everywhere, or 1 / norm for unit-norm recipes.
        """
        return self.store.features.get(f"scale.{step}", np.ones(self.store.plan.n))

    def turned(self, step: int, rows: Rows) -> Rows:
        """Divide a query's embedding gradient by the root of the second moment, when the recipe says so.

        Args:
            step: the checkpoint.
            rows: embedding gradients.

        Returns:
            The turned form, or the same.
        """
        if self.recipe.preconditioner == "none":
            return rows
        return Rows(rows.indptr, rows.ids, rows.words, rows.rows * self._inverse_root(step)[rows.ids])

    def terms(self, step: int, example: int, query: Gradient, widths: tuple[int, int]) -> Terms:
        """Split one checkpoint's share of a score into word x word terms.

        Args:
            step: the checkpoint.
            example: training example, in data order.
            query: gradient of one query at that checkpoint.
            widths: number of words of the training example and of the query.

        Returns:
            [width + 1, other_width + 1], weight and scale included; sums to the checkpoint's share.
        """
        kept = Gradient.unpack(self.store.example_arrays(step, example))
        total = np.zeros((widths[0] + 1, widths[1] + 1))
        if kept.rows is not None and query.rows is not None:
            total += kept.rows.terms(
                self.turned(step, query.rows), *widths, matched=self._matched(step, kept.rows, query.rows)
            )
        if kept.outer is not None and query.outer is not None:
            total += kept.outer.terms(query.outer, *widths)
        if kept.head is not None and query.head is not None:
            total += self._head_terms(step, kept, query, widths)
        weight = next(one.weight for one in self.store.plan.checkpoints if one.step == step)
        return total * (weight * float(self.scale(step)[example]))

    def _checkpoint(self, step: int, queries: Gradient, count: int) -> Float[np.ndarray, "q n"]:
        if queries.head is not None:
            return self._scan_head(step, queries, count)
        if queries.outer is not None:
            return self._scan_outer(step, queries.outer, count)
        assert queries.rows is not None
        rows = self.turned(step, queries.rows).merged(by_word=False)
        if self.recipe.synonym_threshold is not None:
            return np.stack([self._synonyms(step, rows.example(position)) for position in range(count)])
        return join(self._postings(step), rows, self.store.plan.n)

    def _scan_outer(self, step: int, queries: Outer, count: int) -> Float[np.ndarray, "q n"]:
        dense = [queries.example(position).dense() for position in range(count)]
        total = np.zeros((count, self.store.plan.n))
        for examples, arrays in self.store.shards(step):
            outer = Gradient.unpack(arrays).outer
            assert outer is not None
            owners = examples[np.repeat(np.arange(len(outer)), np.diff(outer.indptr))]
            for row, query in enumerate(dense):
                np.add.at(total[row], owners, ((outer.g @ query) * outer.a).sum(1, dtype=np.float64))
        return total

    def _scan_head(self, step: int, queries: Gradient, count: int) -> Float[np.ndarray, "q n"]:
        """Scan a vocabulary head, and the rows of the same table when it is tied."""
        total = np.zeros((count, self.store.plan.n))
        head = self._head(step)
        for row in range(count):
            dense = self._dense(step, queries.example(row))
            for examples, arrays in self.store.shards(step):
                kept = Gradient.unpack(arrays)
                assert kept.head is not None
                owners = examples[np.repeat(np.arange(len(kept.head)), np.diff(kept.head.indptr))]
                np.add.at(total[row], owners, _head_products(kept.head, head, dense))
                if kept.rows is not None:
                    products = np.einsum("kd,kd->k", kept.rows.rows, dense[kept.rows.ids], dtype=np.float64)
                    np.add.at(total[row], examples[kept.rows.owners], products)
        return total

    def _dense(self, step: int, query: Gradient) -> Float[np.ndarray, "v d"]:
        """One query's gradient on the whole table, turned."""
        head = self._head(step)
        dense = query.head.outer(head).dense() if query.head is not None else np.zeros_like(head.weight)
        if query.rows is not None:
            np.add.at(dense, query.rows.ids, query.rows.rows)
        return dense if self.recipe.preconditioner == "none" else dense * self._inverse_root(step)

    def _head_terms(self, step: int, kept: Gradient, query: Gradient, widths: tuple[int, int]) -> Terms:
        head = self._head(step)
        assert kept.head is not None
        assert query.head is not None
        mine, theirs = kept.head.outer(head), query.head.outer(head)
        turned = self.recipe.preconditioner != "none"
        total = self._turned_outer_terms(step, mine, theirs, widths) if turned else mine.terms(theirs, *widths)
        if kept.rows is not None:
            total += cross_terms(self.turned(step, kept.rows), theirs, *widths)
        if query.rows is not None:
            total += cross_terms(self.turned(step, query.rows), mine, widths[1], widths[0]).T
        return total

    def _turned_outer_terms(self, step: int, mine: Outer, theirs: Outer, widths: tuple[int, int]) -> Terms:
        """Outer x outer, every coordinate of the table divided by its own root: one position of the query a time."""
        inverse = self._inverse_root(step)
        columns = [((mine.g * g) @ inverse * mine.a) @ a for g, a in zip(theirs.g, theirs.a, strict=True)]
        product = np.stack(columns, axis=1) if columns else np.zeros((len(mine.words), 0))
        return gather(product, mine.words, theirs.words, *widths)

    def _head(self, step: int) -> Head:
        table = self._table(step)
        return Head(table["head"], table.get("head_bias"))

    def _inverse_root(self, step: int) -> Float[np.ndarray, "v d"]:
        return self._table(step)["inverse_root"]

    def _synonyms(self, step: int, query: Rows) -> Float[np.ndarray, " n"]:
        """Scores of one query when similar tokens may meet, one to one."""
        postings, total = self._postings(step), np.zeros(self.store.plan.n)
        tokens = np.asarray(postings.tokens, dtype=np.int64)
        similar = self._cosines(step, tokens, query.ids)
        found: list[tuple[np.ndarray, ...]] = []
        for place in np.flatnonzero((similar > self._threshold).any(1)).tolist():
            columns = np.flatnonzero(similar[place] > self._threshold)
            block = postings.lookup(int(tokens[place]))
            assert block is not None
            owners, begins = np.unique(block[0], return_index=True)
            products = np.add.reduceat((block[1] @ query.rows[columns].T).astype(np.float64), begins, axis=0)
            for column, product in zip(columns.tolist(), products.T, strict=True):
                found.append((owners, np.full(len(owners), place), np.full(len(owners), column), product))
        if not found:
            return total
        owners, places, columns, products = (np.concatenate(column) for column in zip(*found, strict=True))
        kept = _one_to_one(owners, places, columns, similar, self._threshold)
        np.add.at(total, owners[kept], products[kept])
        return total

    def _matched(self, step: int, rows: Rows, query: Rows) -> np.ndarray | None:
        """Which rows of a training example and a query meet, for the word terms."""
        if self.recipe.synonym_threshold is None:
            return None
        mine, theirs = np.unique(rows.ids), np.unique(query.ids)
        similar = self._cosines(step, mine, theirs)
        # The same candidates in the same order as in `_one_to_one`: ties then fall alike in score and word terms.
        left, right = (np.flatnonzero((similar > self._threshold).any(axis)) for axis in (1, 0))
        matched = np.zeros((len(rows.ids), len(query.ids)), dtype=np.bool_)
        for place, column in assign(similar[np.ix_(left, right)], self._threshold):
            matched |= (rows.ids == mine[left[place]])[:, None] & (query.ids == theirs[right[column]])[None, :]
        return matched

    @property
    def _threshold(self) -> float:
        assert self.recipe.synonym_threshold is not None
        return max(self.recipe.synonym_threshold, 0.0)  # a pair below 0 would lower the total similarity

    def _cosines(
        self, step: int, tokens: Int[np.ndarray, " a"], others: Int[np.ndarray, " b"]
    ) -> Float[np.ndarray, "a b"]:
        table = self._table(step)["embedding"]
        left, right = _unit(table[tokens]), _unit(table[others])
        cosines = np.round(left @ right.T, 6)  # matrix products of other shapes differ in the last bits
        cosines[tokens[:, None] == others[None, :]] = 1.0
        return cosines


def join(postings: Postings, queries: Rows, n: int) -> Float[np.ndarray, "q n"]:
    """Join queries with postings on equal tokens: one matrix product per distinct token.

    Args:
        postings: of one checkpoint.
        queries: embedding gradients merged by token.
        n: training examples.

    Returns:
        Products [q n] in float64.
    """
    total = np.zeros((len(queries), n))
    if not len(queries.ids):  # every token of the queries was left out
        return total
    by_token = np.argsort(queries.ids, kind="stable")
    tokens, begins = np.unique(queries.ids[by_token], return_index=True)
    for token, rows in zip(tokens.tolist(), np.split(by_token, begins[1:]), strict=True):
        block = postings.lookup(token)
        if block is None:
            continue
        products = block[1] @ queries.rows[rows].T
        for column, row in enumerate(queries.owners[rows].tolist()):
            np.add.at(total[row], block[0], products[:, column])
    return total


def assign(similar: Float[np.ndarray, "a b"], threshold: float) -> list[tuple[int, int]]:
    """Match tokens one to one, above a threshold, with the largest total similarity.

    Args:
        similar: cosines.
        threshold: pairs must lie above it.

    Returns:
        Matched pairs.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    try:
        optimize: Any = import_module("scipy.optimize")  # optional extra
    except ImportError as error:
        raise MissingExtraError("tracin-we-syn needs SciPy: pip install 'whence[baselines]'") from error
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
    """Which candidate pairs are matched, per owner; owners without a conflict keep all of theirs."""
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


def _head_products(kept: HeadOuter, head: Head, dense: Float[np.ndarray, "v d"]) -> Float[np.ndarray, " t"]:
    """Product of a dense gradient with each kept position: weight (p - onehot) . (dense a)."""
    step = max(1, BLOCK_BYTES // (head.weight.shape[0] * 4))
    products = np.zeros(len(kept.target))
    for start in range(0, len(kept.target), step):
        cut = slice(start, start + step)
        against = kept.a[cut] @ dense.T
        expected = np.einsum("tv,tv->t", head.probabilities(kept.a[cut]), against, dtype=np.float64)
        hit = against[np.arange(len(against)), kept.target[cut]]
        products[cut] = kept.weight[cut] * (expected - hit)
    return products


def _unit(rows: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "k d"]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)
