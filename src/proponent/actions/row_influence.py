"""Self-influence, and the influence of all other rows, also where a vocabulary head is part of the gradient."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from proponent.actions.label_errors import support
from proponent.errors import InputError
from proponent.gradients.gradient import Gradient
from proponent.gradients.vocabulary_head import VocabularyHead, head_of
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
    plain = not preconditioners_of(method) and method.prepare is None and method.overlap is None
    plain = plain and similarity_of(method) is None
    named = isinstance(method.gradient, EmbeddingRows | Head) and store.plan.label_names is None
    return plain and named and not method.scales_queries


def _by_head(store: Store, *, itself: bool) -> Float[np.ndarray, " n"]:
    total = np.zeros(store.n)
    for checkpoint in store.plan.checkpoints:
        head, at = head_of(store.table(checkpoint.id)), checkpoint.id
        everything = None if itself else _sum(store, at, head)
        scale = store.scale(at)
        for places, gradient in _shards(store, at):
            for row, place in enumerate(places.tolist()):
                one = gradient.example(row)
                total[place] += checkpoint.weight * _product(one, head, float(scale[place]), everything)
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
        for row, place in enumerate(places.tolist()):
            outer = gradient.head.example(row).outer(head)
            total += scale[place] * (outer.g.T @ outer.a)
        if gradient.rows is not None:
            np.add.at(total, gradient.rows.ids, gradient.rows.rows * scale[places][gradient.rows.owners, None])
    return total.astype(np.float32)


def _product(one: Gradient, head: VocabularyHead, scale: float, everything: Float[np.ndarray, "v d"] | None) -> float:
    """Product of one gradient with itself, or with the sum of all others."""
    assert one.head is not None
    outer = one.head.outer(head)
    own = float(np.sum((outer.g @ outer.g.T) * (outer.a @ outer.a.T), dtype=np.float64))
    if one.rows is not None:
        ids, rows = one.rows.ids, one.rows.rows
        own += float(np.sum(rows * rows, dtype=np.float64))
        own += 2.0 * float(np.sum(outer.g[:, ids].T * (rows @ outer.a.T), dtype=np.float64))
    if everything is None:
        return scale * own
    total = float(np.einsum("tv,tv->", outer.g, outer.a @ everything.T, dtype=np.float64))
    if one.rows is not None:
        total += float(np.einsum("kd,kd->", one.rows.rows, everything[one.rows.ids], dtype=np.float64))
    return total - scale * own
