"""Self-influence, and the influence of all other rows, also where a vocabulary head is part of the gradient."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from proponent.actions.label_errors import support
from proponent.errors import InputError
from proponent.gradients.gradient import Gradient
from proponent.gradients.vocabulary_head import VocabularyHead, head_of, squares
from proponent.method import EmbeddingRows, Gradients, Head, Logit, similarity_of
from proponent.preconditioners.base import preconditioners_of
from proponent.store import Store
from proponent.types import CheckpointId


def row_influence(store: Store, *, itself: bool = False) -> Float[np.ndarray, " n"]:
    """Sum the scores of all other training rows on each row, or take the score of each row on itself."""
    method = store.plan.term
    if itself and isinstance(method, Gradients) and method.scales_queries and _symmetric(method):
        raise InputError(f"{method.name} is a cosine, so every row has the same score on itself")
    return _by_head(store, itself=itself) if _has_plain_head(store) else support(store, itself=itself)


def _symmetric(method: Gradients) -> bool:
    return all(one.symmetric for one in preconditioners_of(method))


def _has_plain_head(store: Store) -> bool:
    """Whether scores are plain products of gradients on a vocabulary head, maybe with the rows of its table."""
    method = store.plan.term
    if not isinstance(method, Gradients) or store.plan.by_token or isinstance(method.objective, Logit):
        return False
    plain = not preconditioners_of(method) and method.prepare is None and similarity_of(method) is None
    named = isinstance(method.gradient, EmbeddingRows | Head) and store.plan.label_names is None
    return plain and named and not method.scales_queries


def _by_head(store: Store, *, itself: bool) -> Float[np.ndarray, " n"]:
    total = np.zeros(store.n)
    for checkpoint in store.plan.checkpoints:
        head, at = head_of(store.table(checkpoint.id)), checkpoint.id
        everything = None if itself else _sum(store, at, head)
        for places, gradient in _shards(store, at):
            assert gradient.head is not None
            own = squares(gradient.head, head, gradient.rows) * store.scale(at)[places]
            others = 0.0 if everything is None else _products(gradient, head, everything)
            total[places] += checkpoint.weight * (own if everything is None else others - own)
    return total


def _shards(store: Store, at: CheckpointId) -> Iterator[tuple[Int[np.ndarray, " m"], Gradient]]:
    """Gradients of each shard without those of hidden rows, rows of the table merged by token."""
    for places, arrays in store.shards(at):
        kept = Gradient.unpack(arrays).without(~store.alive[places])
        rows = None if kept.rows is None else kept.rows.merged(by_word=False)
        yield places, Gradient(rows=rows, head=kept.head)


def _sum(store: Store, at: CheckpointId, head: VocabularyHead) -> Float[np.ndarray, "v d"]:
    """Sum of all scaled gradients on the whole table."""
    total = np.zeros(head.weight.shape)
    scale = store.scale(at)
    for places, gradient in _shards(store, at):
        assert gradient.head is not None
        for row in range(len(places)):
            outer = gradient.head.example(row).outer(head)
            total += scale[places[row]] * (outer.g.T.astype(np.float64) @ outer.a)
        if gradient.rows is not None:
            factors = scale[places][gradient.rows.owners, None]
            np.add.at(total, gradient.rows.ids, gradient.rows.rows * factors)
    return total


def _products(gradient: Gradient, head: VocabularyHead, table: Float[np.ndarray, "v d"]) -> Float[np.ndarray, " m"]:
    """Product of each gradient with a gradient on the whole table."""
    assert gradient.head is not None
    found = np.zeros(len(gradient.head))
    for row in range(len(found)):
        outer = gradient.head.example(row).outer(head)
        found[row] = np.einsum("tv,tv->", outer.g, outer.a @ table.T, dtype=np.float64)
    if gradient.rows is not None:
        rows = gradient.rows
        np.add.at(found, rows.owners, np.einsum("kd,kd->k", rows.rows, table[rows.ids], dtype=np.float64))
    return found
