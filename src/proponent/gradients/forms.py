"""Ragged forms: concatenated gradients of n examples, and their word x word products."""

from dataclasses import dataclass, fields, replace
from typing import TypeVar, cast

import numpy as np
from jaxtyping import Bool, Float, Int

Terms = Float[np.ndarray, "w x"]
"""Word x word split of one product: rows are words of the first example, columns words of the second; the special
bucket is last on both sides."""


Form = TypeVar("Form", bound="Ragged")


@dataclass(frozen=True)
class Ragged:
    """Concatenated examples; every array but `indptr` has one row per token position (or merged token)."""

    indptr: Int[np.ndarray, " m"]  # [n+1] start of each example

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def owners(self) -> Int[np.ndarray, " k"]:
        """Example of each row."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    def example(self: Form, position: int) -> Form:
        """Select one example."""
        start, stop = int(self.indptr[position]), int(self.indptr[position + 1])
        return self._cut(np.asarray([0, stop - start]), slice(start, stop))

    def keep(self: Form, chosen: np.ndarray) -> Form:
        """Select some rows."""
        counts = np.bincount(self.owners[chosen], minlength=len(self))
        return self._cut(np.concatenate([[0], np.cumsum(counts)]), chosen)

    def without(self: Form, examples: Bool[np.ndarray, " n"]) -> Form:
        """Remove all rows of some examples."""
        return self.keep(~examples[self.owners]) if examples.any() else self

    def joined(self: Form, size: int) -> Form:
        """Make one example of each `size` neighbours."""
        return replace(self, indptr=self.indptr[::size])

    def finite(self) -> Bool[np.ndarray, " n"]:
        """Whether each example holds only finite numbers."""
        bad = np.zeros(int(self.indptr[-1]), dtype=np.bool_)
        for one in fields(self):
            array = cast("np.ndarray", getattr(self, one.name))
            if array.dtype.kind == "f":
                bad |= ~np.isfinite(array.reshape(len(bad), -1)).all(1) if array.size else False
        return np.bincount(self.owners[bad], minlength=len(self)) == 0

    def _cut(self: Form, indptr: np.ndarray, kept: slice | np.ndarray) -> Form:
        arrays = {one.name: getattr(self, one.name)[kept] for one in fields(self) if one.name != "indptr"}
        return replace(self, indptr=indptr, **arrays)


@dataclass(frozen=True)
class Rows(Ragged):
    """Embedding gradients of n examples."""

    ids: Int[np.ndarray, " k"]  # token of each row
    words: Int[np.ndarray, " k"]  # word of each row within its example's words; -1 for special tokens
    rows: Float[np.ndarray, "k d"]  # the gradient rows

    def merged(self, *, by_word: bool) -> "Rows":
        """Sum the rows of equal token (and word) within each example."""
        words = self.words if by_word else np.full_like(self.words, -1)
        order = np.lexsort((words, self.ids, self.owners))
        owners, ids, words = self.owners[order], self.ids[order], words[order]
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = (np.diff(owners) != 0) | (np.diff(ids) != 0) | (np.diff(words) != 0)
        starts = np.flatnonzero(first)
        summed = self.rows[order[starts]]
        again = np.flatnonzero(~first)  # only the few rows that share token and word are added, in order
        np.add.at(summed, np.cumsum(first)[again] - 1, self.rows[order[again]])
        indptr = np.concatenate([[0], np.cumsum(np.bincount(owners[starts], minlength=len(self)))])
        return replace(self, indptr=indptr, ids=ids[starts], words=words[starts], rows=summed)

    def times(self, factor: Float[np.ndarray, "k #d"]) -> "Rows":
        """Multiply every coordinate, or every row, by its own factor."""
        return replace(self, rows=self.rows * factor)

    def wide(self) -> "Rows":
        """The same rows in 64-bit floats, for summing without loss."""
        return replace(self, rows=self.rows.astype(np.float64))

    def narrow(self) -> "Rows":
        """The same rows in 32-bit floats."""
        return replace(self, rows=self.rows.astype(np.float32))

    def norms(self) -> Float[np.ndarray, " n"]:
        """Euclidean norm of each example's gradient."""
        total = self.merged(by_word=False)
        squares = np.einsum("kd,kd->k", total.rows, total.rows, dtype=np.float64)
        return np.sqrt(np.bincount(total.owners, weights=squares, minlength=len(self)))

    def products(self, other: "Rows") -> Float[np.ndarray, " n"]:
        """Product of each example's gradient with another gradient of the same tokens and words."""
        mine, theirs = self.merged(by_word=False), other.merged(by_word=False)
        products = np.einsum("kd,kd->k", mine.rows, theirs.rows, dtype=np.float64)
        return np.maximum(np.bincount(mine.owners, weights=products, minlength=len(self)), 0.0)

    def terms(self, other: "Rows", width: int, other_width: int, matched: np.ndarray | None = None) -> Terms:
        """Split the product of two single examples into word x word terms."""
        same = self.ids[:, None] == other.ids[None, :] if matched is None else matched
        product = np.where(same, self.rows.astype(np.float64) @ other.rows.astype(np.float64).T, 0.0)
        return gather(product, self.words, other.words, width, other_width)


@dataclass(frozen=True)
class Outer(Ragged):
    """Gradients of a linear layer, factorised: sum over positions of g a^T."""

    words: Int[np.ndarray, " t"]  # word of each position within its example's words; -1 for special tokens
    a: Float[np.ndarray, "t i"]  # the layer's input
    g: Float[np.ndarray, "t o"]  # gradient of the loss with respect to the layer's output

    def dense(self) -> Float[np.ndarray, "o i"]:
        """Compute the full gradient of a single example (or the sum over all examples)."""
        return self.g.T @ self.a

    def terms(self, other: "Outer", width: int, other_width: int) -> Terms:
        """Split the product of two single examples into word x word terms; see `Rows.terms`."""
        product = (self.g.astype(np.float64) @ other.g.astype(np.float64).T) * (
            self.a.astype(np.float64) @ other.a.astype(np.float64).T
        )
        return gather(product, self.words, other.words, width, other_width)


@dataclass(frozen=True)
class Dense(Ragged):
    """Gradients of many layers as one vector per example, in full or projected; `indptr` counts 0, 1, 2 ... n."""

    v: Float[np.ndarray, "n p"]  # the layers' gradients, one after another

    @classmethod
    def of(cls, v: Float[np.ndarray, "n p"]) -> "Dense":
        """Build the form from one vector per example."""
        return cls(np.arange(len(v) + 1), v)

    def terms(self, other: "Dense", width: int, other_width: int) -> Terms:
        """Product of two single examples; a vector belongs to no word, so the whole product is special."""
        terms = np.zeros((width + 1, other_width + 1))
        terms[-1, -1] = np.einsum("np,np->", self.v, other.v, dtype=np.float64) if len(self.v) == len(other.v) else 0.0
        return terms


def gather(
    product: Float[np.ndarray, "k m"],
    words: Int[np.ndarray, " k"],
    other_words: Int[np.ndarray, " m"],
    width: int,
    other_width: int,
) -> Terms:
    """Sum a row x row (or position x position) matrix into word x word terms."""
    terms = np.zeros((width + 1, other_width + 1))
    np.add.at(terms, (words[:, None], other_words[None, :]), product)
    return terms
