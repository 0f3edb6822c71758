"""Scan the gradients of a segment, example by example.

Gradients without postings (the last layer, an unfinished segment) are still scored exactly.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from proponent.gradients.forms import Outer
from proponent.gradients.gradient import Gradient
from proponent.search.kernels import Kernel
from proponent.store import Segment
from proponent.store.rows import decode_arrays
from proponent.types import CheckpointId


def scan_rows(
    segment: Segment,
    at: CheckpointId,
    tokens: Mapping[int, tuple[Int[np.ndarray, " j"], Float[np.ndarray, "j d"]]],
    count: int,
    kernel: Kernel,
) -> Float[np.ndarray, "q n"]:
    """Products with embedding rows, without postings."""
    total = np.zeros((count, segment.n))
    wanted = np.fromiter(tokens, dtype=np.int64, count=len(tokens))
    for examples, arrays in segment.shards(at, ("rows.indptr", "rows.ids", "rows.rows", "rows.scale")):
        owners = examples[np.repeat(np.arange(len(arrays["rows.indptr"]) - 1), np.diff(arrays["rows.indptr"]))]
        found = np.flatnonzero(np.isin(arrays["rows.ids"], wanted))
        found = found[np.argsort(arrays["rows.ids"][found], kind="stable")]
        ids = arrays["rows.ids"][found]
        for own in np.split(found, np.flatnonzero(np.diff(ids)) + 1) if len(found) else []:
            columns, rows = tokens[int(arrays["rows.ids"][own[0]])]
            scale = arrays["rows.scale"][own] if "rows.scale" in arrays else None
            kernel(total, owners[own], arrays["rows.rows"][own], scale, rows, columns)
    return total


def scan_outer(segment: Segment, at: CheckpointId, queries: Outer, count: int) -> Float[np.ndarray, "q n"]:
    """Products with the last layer of a classifier."""
    dense = [queries.example(position).dense() for position in range(count)]
    total = np.zeros((count, segment.n))
    for examples, arrays in segment.shards(at):
        outer = Gradient.unpack(arrays).outer
        assert outer is not None
        owners = examples[np.repeat(np.arange(len(outer)), np.diff(outer.indptr))]
        for row, query in enumerate(dense):
            np.add.at(total[row], owners, ((outer.g @ query) * outer.a).sum(1, dtype=np.float64))
    return total


def scan_dense(
    segment: Segment, at: CheckpointId, queries: Float[np.ndarray, "q p"], cut: slice
) -> Float[np.ndarray, "q n"]:
    """Products of vectors, or of a slice of them."""
    total = np.zeros((len(queries), segment.n))
    theirs = np.ascontiguousarray(queries[:, cut].T, dtype=np.float32)
    for examples, arrays in segment.shards(at, ("dense.indptr", "dense.v")):
        kept = examples[np.diff(arrays["dense.indptr"]) > 0]
        total[:, kept] = (arrays["dense.v"][:, cut] @ theirs).T
    return total


def lookup_rows(segment: Segment, at: CheckpointId) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Postings of a segment that has none on disk, built in memory."""
    found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for examples, arrays in segment.shards(at):
        rows = Gradient.unpack(decode_arrays(arrays)).rows
        assert rows is not None
        for token in np.unique(rows.ids).tolist():
            own = np.flatnonzero(rows.ids == token)
            found.setdefault(token, []).append((examples[rows.owners[own]], rows.rows[own]))
    return {
        token: (np.concatenate([one for one, _ in parts]), np.concatenate([one for _, one in parts]))
        for token, parts in found.items()
    }
