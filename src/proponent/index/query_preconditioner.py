"""Precondition and normalize query gradients.

The index keeps plain vectors: whatever a recipe does to a product of two gradients is done to the query's side
(decision 0005). What is done is linear in the vector, so that its split by words is turned alike.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from proponent.curvature import EKFAC, DataInfProduct
from proponent.gradients.forms import Dense
from proponent.gradients.gradient import Gradient
from proponent.index.curvature_fitter import fitted, layer_slices
from proponent.recipe import Recipe
from proponent.store import PlannedBlock, Store

Gradients = Callable[[int], Iterator[Float[np.ndarray, "m p"]]]
"""Reads the vectors of a checkpoint, shard by shard."""


def gradients_of(store: Store) -> Gradients:
    """Read the vectors of what may be found in an index."""

    def read(step: int) -> Iterator[Float[np.ndarray, "m p"]]:
        alive = store.alive
        for places, arrays in store.shards(step):
            kept = places[np.diff(arrays["dense.indptr"]) > 0]
            yield arrays["dense.v"][alive[kept]]

    return read


class QueryPreconditioner:
    """What a recipe does to the query's side of its products.

    Args:
        recipe: the method.
        blocks: the layers of the plan.
        table: reads the table of a checkpoint.
        gradients: reads the training set's vectors, for DataInf over layers whose matrix would be too large.
    """

    def __init__(
        self,
        recipe: Recipe,
        blocks: Sequence[PlannedBlock],
        table: Callable[[int], Mapping[str, np.ndarray]],
        gradients: Gradients | None = None,
    ) -> None:
        self.recipe, self._cuts, self._count = recipe, layer_slices(blocks), len(blocks)
        self._table, self._gradients = table, gradients
        self._held: dict[int, list[np.ndarray | EKFAC | float]] = {}

    def vectors(self, step: int, v: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
        """Turn vectors."""
        if self.recipe.curvature == "none":
            return v
        if step not in self._held:
            self._held[step] = fitted(self._table(step), self._count)
        wide = v.astype(np.float64)
        turned: Float[np.ndarray, "n p"] = np.zeros_like(wide)
        spread: list[tuple[slice, DataInfProduct]] = []
        for cut, inverse in zip(self._cuts, self._held[step], strict=True):
            if isinstance(inverse, float):
                spread.append((cut, DataInfProduct(inverse, wide[:, cut])))
            else:
                kept = isinstance(inverse, EKFAC)
                turned[:, cut] = inverse.turn(wide[:, cut]) if kept else wide[:, cut] @ inverse
        if spread:
            assert self._gradients is not None
            for own in self._gradients(step):
                for cut, one in spread:
                    one.add(own[:, cut])
        for cut, one in spread:
            turned[:, cut] = one.turned()
        return turned.astype(np.float32)

    def query(self, step: int, gradient: Gradient) -> tuple[Gradient, Float[np.ndarray, " q"]]:
        """Turn queries."""
        count = len(gradient)
        plain = gradient.dense
        if plain is not None:
            gradient = replace(gradient, dense=Dense.of(self.vectors(step, plain.v)))
        if self.recipe.similarity == "dot":
            return gradient, np.ones(count)
        factors = self.scales(plain, gradient)
        return gradient.times(factors), factors

    def norms(self, step: int, gradient: Gradient) -> Float[np.ndarray, " n"]:
        """Norms of gradients as the recipe measures them: the root of its product with its turned self."""
        turned = None if gradient.dense is None else Dense(gradient.dense.indptr, self.vectors(step, gradient.dense.v))
        return np.sqrt(_squares(gradient.dense, replace(gradient, dense=turned)))

    def scales(self, plain: Dense | None, turned: Gradient) -> Float[np.ndarray, " n"]:
        """1 / norm of gradients that were turned already; 1 for one that is zero."""
        norms = np.sqrt(_squares(plain, turned))
        return 1.0 / np.where(norms > 0, norms, 1.0)


def _squares(plain: Dense | None, turned: Gradient) -> Float[np.ndarray, " n"]:
    total = np.zeros(len(turned))
    if turned.rows is not None:
        total += turned.rows.norms() ** 2
    if plain is not None and turned.dense is not None:
        products = np.einsum("np,np->n", plain.v, turned.dense.v, dtype=np.float64)
        total += np.bincount(plain.owners, weights=np.maximum(products, 0.0), minlength=len(plain))
    return total
