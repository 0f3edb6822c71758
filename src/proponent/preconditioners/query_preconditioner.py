"""Precondition query gradients before they are compared with an index, and normalize them.

The index stores plain gradients; preconditioners apply to the query side only (decision 0005). They are linear in the
gradient, so its split by words is preconditioned in the same way.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from proponent.gradients.forms import Dense
from proponent.gradients.gradient import Gradient
from proponent.gradients.vocabulary_head import head_of, squares
from proponent.method import Gradients, Term
from proponent.preconditioners.base import preconditioners_of
from proponent.preconditioners.batches import layer_shapes
from proponent.store import PlannedBlock, Store
from proponent.types import CheckpointId

TrainGradients = Callable[[CheckpointId], Iterator[Float[np.ndarray, "m p"]]]
"""Reads the vectors of a checkpoint, shard by shard."""


def gradients_of(store: Store) -> TrainGradients:
    """Read the vectors of an index's searchable examples."""

    def read(step: CheckpointId) -> Iterator[Float[np.ndarray, "m p"]]:
        alive = store.alive
        for places, arrays in store.shards(step):
            kept = places[np.diff(arrays["dense.indptr"]) > 0]
            yield arrays["dense.v"][alive[kept]]

    return read


class QueryPreconditioner:
    """The query-side operations of a method."""

    def __init__(
        self,
        method: Term,
        blocks: Sequence[PlannedBlock],
        table: Callable[[CheckpointId], Mapping[str, np.ndarray]],
        gradients: TrainGradients | None = None,
        *,
        tied: bool = False,
    ) -> None:
        self._scaled = isinstance(method, Gradients) and method.scales_queries
        self._scales_train = isinstance(method, Gradients) and method.scales_train
        self._preconditioners, self._layers = preconditioners_of(method), layer_shapes(blocks)
        self._tied, self._symmetric = tied, any(one.symmetric for one in self._preconditioners)
        self._table, self._gradients = lru_cache(maxsize=None)(table), gradients

    def _multiplied(self, step: CheckpointId, gradient: Gradient) -> Gradient:
        read = self._gradients
        train = None if read is None else lambda: read(step)
        for one in self._preconditioners:
            gradient = one.apply(gradient, self._table(step), self._layers, train)
        return gradient

    def vectors(self, step: CheckpointId, v: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
        """Precondition vectors of layers."""
        made = self._multiplied(step, Gradient(dense=Dense.of(v))).dense
        assert made is not None
        return made.v

    def query(self, step: CheckpointId, gradient: Gradient) -> tuple[Gradient, Float[np.ndarray, " q"]]:
        """Precondition queries, and normalize them if the method says so."""
        made = self._multiplied(step, gradient)
        if not self._scaled:
            return made, np.ones(len(gradient))
        measured = made if self._symmetric else replace(made, rows=gradient.rows)
        norms = np.sqrt(self._squares(step, measured, gradient))
        factors = 1.0 / np.where(norms > 0, norms, 1.0)
        return made.times(factors), factors

    def norms(self, step: CheckpointId, gradient: Gradient) -> Float[np.ndarray, " n"]:
        """Norms of training gradients in the method's metric: of preconditioned rows; sqrt(v . Pv) for vectors v."""
        made = self._multiplied(step, gradient)
        return np.sqrt(self._squares(step, made, gradient))

    def scale(
        self,
        step: CheckpointId,
        weights: Float[np.ndarray, " n"],
        shards: Iterable[tuple[Int[np.ndarray, " m"], Gradient]],
    ) -> Float[np.ndarray, " n"]:
        """The factor of each training gradient of a segment, given by shard: its weight, and 1 / norm if normalized."""
        scale = weights.astype(np.float64)
        for places, gradient in shards if self._scales_train else ():
            norms = self.norms(step, gradient)
            scale[places] /= np.where(norms > 0, norms, 1.0)
        return scale

    def _squares(self, step: CheckpointId, made: Gradient, gradient: Gradient) -> Float[np.ndarray, " n"]:
        """Squared norms: of rows and head themselves; v . Pv for vectors (and rows preconditioned on both sides)."""
        total, rows, plain = np.zeros(len(made)), made.rows, gradient.dense
        if made.head is not None:
            total += squares(made.head, head_of(self._table(step)), rows if self._tied else None)
        if rows is not None and not (self._tied and made.head is not None):
            total += (
                rows.products(gradient.rows) if self._symmetric and gradient.rows is not None else rows.norms() ** 2
            )
        if plain is not None and made.dense is not None:
            products = np.einsum("np,np->n", plain.v, made.dense.v, dtype=np.float64)
            total += np.bincount(plain.owners, weights=np.maximum(products, 0.0), minlength=len(plain))
        return np.maximum(total, 0.0)
