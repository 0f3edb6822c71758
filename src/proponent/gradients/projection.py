"""Compression of gradients.

For embeddings, drop special tokens and keep the tokens of largest norm. For other layers, keep one vector per example,
in full or after projecting both sides of every layer, at random or to its leading directions.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from proponent.gradients.forms import Rows
from proponent.gradients.layer_hooks import Call, TokenWords
from proponent.gradients.layer_rules import Block, OneHot
from proponent.method_parts import Direction, EmbeddingRows
from proponent.models.placement import beside, host

WIDEST = 4096
"""Largest side of a layer for which principal directions are computed; a wider one keeps a random projection."""


def compress(positions: Rows, kept: EmbeddingRows, special: Int[np.ndarray, " z"], head: Rows | None = None) -> Rows:
    """Convert one row per position, and a head's part by token and word, to one row per token and word."""
    if kept.drop_special:
        positions = positions.keep(~np.isin(positions.ids, special))
        head = None if head is None else head.keep(~np.isin(head.ids, special))
    whole = positions if head is None else joined(positions, head)
    if kept.top is not None and kept.top_by == "position":
        whole = whole.keep(_largest(whole, kept.top))
    made = whole.merged(by_word=True)
    if kept.top is not None and kept.top_by == "token":
        made = top_tokens(made, kept.top)
    return made if kept.direction is None else directed(made, positions, kept.direction)


def joined(left: Rows, right: Rows) -> Rows:
    """Concatenate the rows of both, example by example."""
    order = np.argsort(np.concatenate([left.owners, right.owners]), kind="stable")
    pairs = ((left.ids, right.ids), (left.words, right.words), (left.rows, right.rows))
    return Rows(left.indptr + right.indptr, *(np.concatenate(pair)[order] for pair in pairs))


def directed(made: Rows, positions: Rows, direction: Direction) -> Rows:
    """Scale the rows of each token, which are neighbours, by the norm of their sum and the token's count."""
    if not len(made.ids):
        return made
    span = int(max(made.ids.max(), positions.ids.max(initial=0))) + 1
    keys, there = made.owners * span + made.ids, positions.owners * span + positions.ids
    first = np.concatenate([[True], keys[1:] != keys[:-1]])
    begins = np.flatnonzero(first)
    norms = _group_norms(made.rows, begins)
    factors = np.divide(1.0, norms ** (1.0 - direction.norm), out=np.zeros_like(norms), where=norms > 0)
    if direction.repeats == "log":
        held, counts = np.unique(there, return_counts=True)
        at = np.minimum(np.searchsorted(held, keys[begins]), max(len(held) - 1, 0))
        # a masked token that must be predicted is at no position of its text
        factors *= np.where(held[at] == keys[begins], 1.0 + np.log(counts[at]), 1.0) if len(held) else 1.0
    return made.times(factors[np.cumsum(first) - 1].astype(np.float32)[:, None])


def _group_norms(rows: Float[np.ndarray, "k d"], begins: Int[np.ndarray, " g"]) -> Float[np.ndarray, " g"]:
    """Norms of the sums of groups of neighbouring rows."""
    sizes = np.diff(np.append(begins, len(rows)))
    sums, several = rows[begins], sizes > 1  # most groups have one row
    if several.any():
        own = rows[np.repeat(several, sizes)]
        sums[several] = np.add.reduceat(own, np.cumsum(sizes[several]) - sizes[several], axis=0)
    return np.sqrt(np.einsum("gd,gd->g", sums, sums, dtype=np.float64))


def top_tokens(rows: Rows, k: int) -> Rows:
    """Keep, per example, the rows of the k distinct tokens of largest gradient norm."""
    totals = rows.merged(by_word=False)
    kept = totals.keep(_largest(totals, k))
    span = int(rows.ids.max(initial=0)) + 1
    return rows.keep(np.isin(rows.owners * span + rows.ids, kept.owners * span + kept.ids))


def _largest(rows: Rows, k: int) -> np.ndarray:
    """Which rows have one of the k largest norms of their example: boolean [k]."""
    norms = np.linalg.norm(rows.rows, axis=1)
    order = np.lexsort((np.arange(len(norms)), -norms, rows.owners))
    rank = np.empty(len(norms), dtype=np.int64)
    rank[order] = np.arange(len(norms)) - np.repeat(rows.indptr[:-1], np.diff(rows.indptr))
    return rank < k


class Projection:
    """Lays out the gradients of many layers as one vector per example."""

    # A layer's gradient G [o i] becomes P G Q^T with P [p o] and Q [p i] of independent normal entries of variance 1/p:
    # products of two gradients are preserved in expectation (Choe et al. 2024, arXiv 2405.13954; Chang et al. 2024,
    # arXiv 2410.17413). A side no wider than p is not projected; a vector keeps up to p^2 entries. G is never formed
    # when it is projected. `turn` replaces the random matrices.

    def __init__(self, blocks: Sequence[Block], p: int | None, seed: int) -> None:
        self.blocks = tuple(blocks)
        # Outside the blocks are few layers, some with large gradients (head, token types): 4 p^2 numbers are kept.
        widths = {one.name: None if p is None or (one.apart and one.size <= 4 * p * p) else p for one in blocks}
        sides = {one.name: (_width(one, widths[one.name]), widths[one.name]) for one in blocks}
        self.left = {one.name: _matrix(f"{seed} {one.name} o", one.o, sides[one.name][0]) for one in blocks}
        self.right = {one.name: _matrix(f"{seed} {one.name} i", one.i, sides[one.name][1]) for one in blocks}
        self.shapes = {
            one.name: (_stored_shape(one.o, sides[one.name][0]), _stored_shape(one.i, sides[one.name][1]))
            for one in blocks
        }
        sizes = [o * i for o, i in self.shapes.values()]
        bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64).tolist()
        self.cuts = {one.name: slice(bounds[at], bounds[at + 1]) for at, one in enumerate(blocks)}
        self.size: int = bounds[-1]

    def sides(self, block: Block) -> tuple[Tensor | None, Tensor | None]:
        """The projection matrices of both sides of a layer."""
        return self.left[block.name], self.right[block.name]

    def _sides_on(self, block: Block, other: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The same where another tensor is, and in its precision; a matrix is moved once."""
        for held in (self.left, self.right):
            matrix = held[block.name]
            if matrix is not None and (matrix.device, matrix.dtype) != (other.device, other.dtype):
                held[block.name] = matrix.to(other)
        return self.sides(block)

    def turn(self, sides: Mapping[str, tuple[Tensor | None, Tensor | None]]) -> None:
        """Project to given directions instead of random ones."""
        for name, (left, right) in sides.items():
            self.left[name] = self.left[name] if left is None else left
            self.right[name] = self.right[name] if right is None else right

    @property
    def projected(self) -> int:
        """Number of layers that are not stored in full."""
        return sum(self.shapes[one.name] != (one.o, one.i) for one in self.blocks)

    def factors(self, block: Block, call: Call) -> tuple[Float[Tensor, "n s p"], Float[Tensor, "n s q"]]:
        """Project both factors of one call of a layer."""
        left, right = self._sides_on(block, call.right)
        if isinstance(call.left, OneHot):
            lefts = call.left.full() if left is None else call.left.times(left)
        else:
            lefts = call.left if left is None else call.left @ left.T
        return lefts, call.right if right is None else call.right @ right.T

    def vectors(
        self, calls: Mapping[str, Sequence[Call]], n: int, roots: Mapping[str, Tensor] | None = None
    ) -> Float[np.ndarray, "n p"]:
        """Return one vector per example."""
        kept: Tensor | None = None
        for block in self.blocks:
            for call in calls.get(block.name, ()):
                made = self._formed(block, call, roots)
                kept = torch.zeros(n, self.size, device=made.device) if kept is None else kept
                kept[:, self.cuts[block.name]] += beside(made.reshape(n, -1), kept)
        return np.zeros((n, self.size), np.float32) if kept is None else host(kept)

    def by_word(
        self,
        calls: Mapping[str, Sequence[Call]],
        words: TokenWords,
        width: int,
        roots: Mapping[str, Tensor] | None = None,
    ) -> Float[np.ndarray, "w p"]:
        """Split one example's vector by its words."""
        kept: Tensor | None = None
        for block in self.blocks:
            for call in calls.get(block.name, ()):
                owners = words.of(call)
                for word in np.unique(owners).tolist():
                    own = torch.as_tensor(np.flatnonzero(owners == word), device=call.right.device)
                    left = (
                        OneHot(call.left.ids[:, own], call.left.size)
                        if isinstance(call.left, OneHot)
                        else call.left[:, own]
                    )
                    made = self._formed(block, Call(left, call.right[:, own], 0), roots)
                    kept = torch.zeros(width + 1, self.size, device=made.device) if kept is None else kept
                    kept[word if word >= 0 else width, self.cuts[block.name]] += beside(made.reshape(-1), kept)
        return np.zeros((width + 1, self.size), np.float32) if kept is None else host(kept)

    def _formed(self, block: Block, call: Call, roots: Mapping[str, Tensor] | None) -> Float[Tensor, "n p q"]:
        if roots is None:
            lefts, rights = self.factors(block, call)
            return lefts.transpose(1, 2) @ rights
        full = call.left.full() if isinstance(call.left, OneHot) else call.left
        whole = full.transpose(1, 2) @ call.right * beside(roots[block.name], call.right)
        left, right = self._sides_on(block, whole)
        whole = whole if left is None else left @ whole
        return whole if right is None else whole @ right.T


def _width(block: Block, p: int | None) -> int | None:
    """Projected width of the left side: p, or p^2 for a vector, which has no right side."""
    return p * p if p is not None and block.i == 1 else p


def _stored_shape(width: int, p: int | None) -> int:
    return width if p is None else min(width, p)


def _matrix(key: str, width: int, p: int | None) -> Float[Tensor, "p x"] | None:
    """Normal entries of variance 1/p, equal on every machine; None if nothing is projected."""
    if p is None or width <= p:
        return None
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    count = (p * width + 1) // 2
    raw = np.random.PCG64(seed).random_raw(2 * count)  # this bit stream is guaranteed never to change
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:count])), 2.0 * np.pi * uniform[count:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: p * width]
    return torch.as_tensor((normal / np.sqrt(p)).reshape(p, width).astype(np.float32))
