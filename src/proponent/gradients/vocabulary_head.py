"""The vocabulary head in closed form: its vocabulary-wide factor is recomputed on demand."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from proponent.gradients.forms import Outer, Ragged, Rows, Terms, gather

KEPT_BYTES = 64 * 2**20
"""Of the factors that a search keeps, one per checkpoint; a larger one is computed anew each time."""


@dataclass(frozen=True)
class VocabularyHead:
    """The table of a vocabulary head: logits = a weight^T + bias."""

    weight: Float[np.ndarray, "v d"]  # [v d]
    bias: Float[np.ndarray, " v"] | None = None  # [v], or None

    def pack(self) -> dict[str, np.ndarray]:
        """Name its arrays, as the table of a checkpoint stores them; `head_of` reads them back."""
        return {"head": self.weight} | ({} if self.bias is None else {"head_bias": self.bias})

    def probabilities(self, a: Float[np.ndarray, "t d"]) -> Float[np.ndarray, "t v"]:
        """Return the predicted probabilities."""
        logits = a @ self.weight.T
        if self.bias is not None:
            logits += self.bias
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        return logits


def head_of(table: Mapping[str, np.ndarray]) -> VocabularyHead:
    """Return the vocabulary head in a checkpoint's table."""
    return VocabularyHead(table["head"], table.get("head_bias"))


@dataclass(frozen=True)
class HeadOuter(Ragged):
    """Gradients of a vocabulary head under cross-entropy, stored without their vocabulary-wide factor."""

    words: Int[np.ndarray, " t"]  # word of the token that each position predicts; -1 for special tokens
    a: Float[np.ndarray, "t d"]  # the head's input
    target: Int[np.ndarray, " t"]  # the token that each position predicts
    # weight of the position in the loss; negative on the subtracted side of a contrast
    weight: Float[np.ndarray, " t"]

    def outer(self, head: VocabularyHead) -> Outer:
        """Compute the vocabulary-wide factor."""
        g = head.probabilities(self.a)
        g[np.arange(len(self.target)), self.target] -= 1.0
        g *= self.weight[:, None]
        return Outer(self.indptr, self.words, self.a, g)


class LastOuter:
    """Keeps the vocabulary-wide factor of the last gradient: a ranking asks for a query's once per example."""

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self._most = most
        self._known: tuple[HeadOuter, Outer] | None = None

    def of(self, form: HeadOuter, head: VocabularyHead) -> Outer:
        """The factor of a gradient at the one head that is asked, with the words of this form of it."""
        known = self._known  # read once: another thread may replace it
        if known is None or not _alike(known[0], form):
            known = form, form.outer(head)
            self._known = known if known[1].g.nbytes <= self._most else None
        return replace(known[1], words=form.words)


def _alike(one: HeadOuter, other: HeadOuter) -> bool:
    """Whether two forms view the same memory, which the kept one holds; their words may differ."""
    if one.indptr.tolist() != other.indptr.tolist():
        return False
    pairs = ((one.a, other.a), (one.target, other.target), (one.weight, other.weight))
    return all(mine.__array_interface__ == theirs.__array_interface__ for mine, theirs in pairs)


def squares(head: HeadOuter, table: VocabularyHead, rows: Rows | None) -> Float[np.ndarray, " n"]:
    """Squared norm of each example's gradient on the head's table; with its rows if the word embedding shares it."""
    total = np.zeros(len(head))
    for place in range(len(head)):
        outer = head.example(place).outer(table)
        total[place] = np.sum((outer.g @ outer.g.T) * (outer.a @ outer.a.T), dtype=np.float64)
        if rows is not None:
            total[place] += 2.0 * _crossed(rows.example(place), outer).sum()
    return total if rows is None else total + rows.norms() ** 2


def cross_terms(rows: Rows, outer: Outer, width: int, other_width: int) -> Terms:
    """Split the product of an embedding gradient with a vocabulary head's gradient (tied tables)."""
    return gather(_crossed(rows, outer), rows.words, outer.words, width, other_width)


def _crossed(rows: Rows, outer: Outer) -> Float[np.ndarray, "k t"]:
    # sum over rows k and positions t of g[t, ids_k] (a_t . rows_k); both gradients belong to the same table [v d].
    return outer.g[:, rows.ids].T.astype(np.float64) * (rows.rows.astype(np.float64) @ outer.a.astype(np.float64).T)
