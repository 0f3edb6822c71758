"""Influence by word: how much each word of a row supports the other rows of its class.

Rows of embedding gradients meet at equal tokens only, so the sum of the scores of a row for all other rows of its class
splits into its own words. A trigger carries more of it than a word of its frequency does.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.errors import InputError
from proponent.gradients.gradient import Gradient
from proponent.method import Gradients, similarity_of
from proponent.preconditioners.base import preconditioners_of
from proponent.store import Store
from proponent.types import CheckpointId
from proponent.words import words_of


@dataclass(frozen=True)
class WordShares:
    """The words of rows, each with its share of the support that its row gives to other rows of the class."""

    rows: Int[np.ndarray, " m"]
    words: tuple[str, ...]  # in lower case
    shares: Float[np.ndarray, " m"]


def has_word_shares(store: Store) -> bool:
    """Whether an index holds plain rows of embedding gradients, which split into words."""
    method = store.plan.term
    if not isinstance(method, Gradients) or not store.plan.by_token or similarity_of(method) is not None:
        return False
    elementwise = all(one.stage == "elementwise" for one in preconditioners_of(method))
    return elementwise and method.prepare is None


def word_shares(store: Store, given: Int[np.ndarray, " n"], left_out: Bool[np.ndarray, " n"]) -> WordShares:
    """Split the support of every row for the other rows of its class into its words."""
    # Rows in `left_out` (deleted, or of no class) neither give nor get support. Gradients are taken as they are stored,
    # without the preconditioners of the method.
    if not has_word_shares(store):
        raise InputError(
            f"an index by {store.plan.method.name} has no shares of words: build one with tracin-we or tracin-we-idf"
        )
    found: dict[tuple[int, str], float] = {}
    classes = int(given.max()) + 1
    names = [[one.text.lower() for one in words_of(store.example(row))] for row in range(store.n)]
    for checkpoint in store.plan.checkpoints:
        sums = _sums(store, checkpoint.id, given, left_out, classes)
        for row, words, shares in _supports(store, checkpoint.id, sums, given, left_out):
            numbers: list[int] = words.tolist()
            parts: list[float] = (checkpoint.weight * shares).tolist()
            for word, share in zip(numbers, parts, strict=True):
                if 0 <= word < len(names[row]):
                    key = (row, names[row][word])
                    found[key] = found.get(key, 0.0) + share
    rows = np.asarray([row for row, _ in found], dtype=np.int64)
    return WordShares(rows, tuple(word for _, word in found), np.asarray(list(found.values())))


def _parts(store: Store, at: CheckpointId, left_out: Bool[np.ndarray, " n"]) -> Iterator[tuple[np.ndarray, Gradient]]:
    for places, arrays in store.shards(at):
        yield places, Gradient.unpack(arrays).without(~store.alive[places] | left_out[places])


def _sums(
    store: Store, at: CheckpointId, given: Int[np.ndarray, " n"], left_out: Bool[np.ndarray, " n"], classes: int
) -> Float[np.ndarray, "l v d"]:
    """Sum of the scaled gradients of each class, by token."""
    total: np.ndarray = np.zeros((classes, 0, 0))
    scale = store.scale(at)
    for places, kept in _parts(store, at, left_out):
        rows = kept.rows
        if rows is None or not len(rows.ids):
            continue
        size = int(rows.ids.max()) + 1
        if total.shape[1] < size:
            grown = np.zeros((classes, size, rows.rows.shape[1]))
            grown[:, : total.shape[1], : total.shape[2]] = total
            total = grown
        owners = places[rows.owners]
        np.add.at(total, (given[owners], rows.ids), rows.rows * scale[owners][:, None])
    return total


def _supports(
    store: Store,
    at: CheckpointId,
    sums: Float[np.ndarray, "l v d"],
    given: Int[np.ndarray, " n"],
    left_out: Bool[np.ndarray, " n"],
) -> Iterator[tuple[int, Int[np.ndarray, " w"], Float[np.ndarray, " w"]]]:
    """Of each row, its words and their shares."""
    scale = store.scale(at)
    for places, kept in _parts(store, at, left_out):
        if kept.rows is None:
            continue
        merged = kept.rows.merged(by_word=True)
        whole = kept.rows.merged(by_word=False)
        for position, row in enumerate(places.tolist()):
            one, everything = merged.example(position), whole.example(position)
            if not len(one.ids):
                continue
            others = sums[given[row]][one.ids]
            own = everything.rows[np.searchsorted(everything.ids, one.ids)] * scale[row]
            shares = scale[row] * np.einsum("kd,kd->k", one.rows, others - own, dtype=np.float64)
            yield row, one.words, shares
