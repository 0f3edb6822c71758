"""Scan the gradients of a vocabulary head, which have no postings, and the rows of its table if it is tied."""

from collections.abc import Iterator
from dataclasses import fields

import numpy as np
from jaxtyping import Float, Int

from proponent.gradients.forms import Rows
from proponent.gradients.gradient import Gradient
from proponent.gradients.vocabulary_head import HeadOuter, VocabularyHead
from proponent.search.join import by_token
from proponent.search.kernels import Kernel
from proponent.search.scan import scan_rows
from proponent.store import Segment
from proponent.store.rows import decode_arrays
from proponent.types import CheckpointId

BLOCK_BYTES = 64 * 2**20
"""Maximum memory of one block of head predictions, or of products with the queries' positions, during a scan."""

HEAD = tuple(f"head.{one.name}" for one in fields(HeadOuter))
TIED = (*HEAD, *(f"rows.{one.name}" for one in fields(Rows)), "rows.scale")
"""Arrays of a shard that are read: those of the head, and the rows of its table if it is tied."""


def scan_head(
    segment: Segment,
    at: CheckpointId,
    head: VocabularyHead,
    queries: Gradient,
    kernel: Kernel,
    *,
    tied: bool = True,
) -> Float[np.ndarray, "q n"]:
    """Products with a vocabulary head, and with the rows of the same table if it is tied."""
    assert queries.head is not None
    kept = TIED if tied else HEAD
    if queries.weight is None and _few_positions(queries, *head.weight.shape):
        return _by_factors(segment, at, head, queries, kernel, kept)
    tables = (_on_table(head, queries.example(row)) for row in range(len(queries.head)))
    return np.stack([_by_table(segment, at, head, one, kept) for one in tables])


def _on_table(head: VocabularyHead, query: Gradient) -> Float[np.ndarray, "v d"]:
    """One query's gradient on the whole table, times its weight."""
    dense = query.head.outer(head).dense() if query.head is not None else np.zeros_like(head.weight)
    if query.rows is not None:
        np.add.at(dense, query.rows.ids, query.rows.rows)
    return dense if query.weight is None else dense * query.weight


def _few_positions(queries: Gradient, vocabulary: int, width: int) -> bool:
    """Whether factors cost less than tables ([v d] per query) and fit into memory."""
    assert queries.head is not None
    positions = len(queries.head.target)
    return positions <= width * len(queries.head) and positions * vocabulary * 4 <= 4 * BLOCK_BYTES


def _by_table(
    segment: Segment, at: CheckpointId, head: VocabularyHead, dense: Float[np.ndarray, "v d"], names: tuple[str, ...]
) -> Float[np.ndarray, " n"]:
    """Products of one query's gradient on the whole table."""
    total = np.zeros(segment.n)
    for examples, arrays in segment.shards(at, names):
        kept = Gradient.unpack(decode_arrays(arrays))
        assert kept.head is not None
        np.add.at(total, examples[kept.head.owners], _head_products(kept.head, head, dense))
        if kept.rows is not None:
            products = np.einsum("kd,kd->k", kept.rows.rows, dense[kept.rows.ids], dtype=np.float64)
            np.add.at(total, examples[kept.rows.owners], products)
    return total


def _by_factors(
    segment: Segment, at: CheckpointId, head: VocabularyHead, queries: Gradient, kernel: Kernel, names: tuple[str, ...]
) -> Float[np.ndarray, "q n"]:
    """Products by the queries' factors, so that predictions are computed once for all of them."""
    # With g a^T of a stored position and G^T A of a query: the sum over the query's positions of (G g)(A a).
    assert queries.head is not None
    count = len(queries.head)
    outer = queries.head.outer(head)
    total = np.zeros((count, segment.n))
    rows = queries.rows
    wide = max(len(outer.words), 0 if rows is None else len(rows.ids))  # width of a product, next to a prediction's
    if rows is not None:
        total += scan_rows(segment, at, by_token(rows.wide().merged(by_word=False)), count, kernel)
    for examples, arrays in segment.shards(at, names):
        kept = Gradient.unpack(decode_arrays(arrays))
        assert kept.head is not None
        owners = examples[kept.head.owners]
        for cut in _blocks(len(owners), max(wide, head.weight.shape[0])):
            a, weight = kept.head.a[cut], kept.head.weight[cut]
            g = head.probabilities(a)
            g[np.arange(len(g)), kept.head.target[cut]] -= 1.0
            parts = [(outer.owners, (g @ outer.g.T) * (a @ outer.a.T))]
            if rows is not None:
                parts.append((rows.owners, g[:, rows.ids] * (a @ rows.rows.T)))
            for asked, products in parts:
                _add(total, asked, owners[cut], products * weight[:, None])
        if kept.rows is None:
            continue
        owners = examples[kept.rows.owners]
        for cut in _blocks(len(owners), wide):
            products = outer.g[:, kept.rows.ids[cut]].T * (kept.rows.rows[cut] @ outer.a.T)
            _add(total, outer.owners, owners[cut], products)
    return total


def _head_products(kept: HeadOuter, head: VocabularyHead, dense: Float[np.ndarray, "v d"]) -> Float[np.ndarray, " t"]:
    """Product of a dense gradient with each stored position: weight (p - onehot) . (dense a)."""
    products = np.zeros(len(kept.target))
    for cut in _blocks(len(kept.target), head.weight.shape[0]):
        against = kept.a[cut] @ dense.T
        expected = np.einsum("tv,tv->t", head.probabilities(kept.a[cut]), against, dtype=np.float64)
        hit = against[np.arange(len(against)), kept.target[cut]]
        products[cut] = kept.weight[cut] * (expected - hit)
    return products


def _blocks(count: int, width: int) -> Iterator[slice]:
    step = max(1, BLOCK_BYTES // (max(1, width) * 4))
    return (slice(start, start + step) for start in range(0, count, step))


def _add(
    total: Float[np.ndarray, "q n"],
    asked: Int[np.ndarray, " t"],
    owners: Int[np.ndarray, " p"],
    products: Float[np.ndarray, "p t"],
) -> None:
    """Add products of stored positions with positions of the queries, in 64 bits."""
    if not products.size:
        return
    begins = np.flatnonzero(np.diff(asked, prepend=-1))
    summed = np.add.reduceat(products, begins, axis=1, dtype=np.float64)
    for row, column in zip(asked[begins].tolist(), summed.T, strict=True):
        np.add.at(total[row], owners, column)
