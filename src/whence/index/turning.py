"""Turn the queries' vectors before they are compared with what an index keeps, and scale them to norm 1.

The index keeps plain vectors: whatever a recipe does to a product of two gradients is done to the query's side
(decision 0005). What is done is linear in the vector, so that its split by words is turned alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from whence.curvature import Kronecker
from whence.forms import Dense, Gradient
from whence.index.fitting import cuts_of, fitted
from whence.recipe import Recipe
from whence.store import PlannedBlock


class Turning:
    """What a recipe does to the query's side of its products.

    Args:
        recipe: the method.
        blocks: the layers of the plan.
        table: reads the table of a checkpoint.
    """

    def __init__(
        self, recipe: Recipe, blocks: Sequence[PlannedBlock], table: Callable[[int], Mapping[str, np.ndarray]]
    ) -> None:
        self.recipe, self._cuts, self._count = recipe, cuts_of(blocks), len(blocks)
        self._table = table
        self._held: dict[int, list[np.ndarray | Kronecker]] = {}

    def vectors(self, step: int, v: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
        """Turn vectors.

        Args:
            step: the checkpoint.
            v: gradients of layers.

        Returns:
            The turned vectors.
        """
        if self.recipe.curvature == "none":
            return v
        if step not in self._held:
            self._held[step] = fitted(self._table(step), self._count)
        inverses = self._held[step]
        wide = v.astype(np.float64)
        turned = [
            inverse.turn(wide[:, cut]) if isinstance(inverse, Kronecker) else wide[:, cut] @ inverse
            for cut, inverse in zip(self._cuts, inverses, strict=True)
        ]
        return np.concatenate(turned, axis=1).astype(np.float32)

    def query(self, step: int, gradient: Gradient) -> tuple[Gradient, Float[np.ndarray, " q"]]:
        """Turn queries.

        Args:
            step: the checkpoint.
            gradient: of the queries.

        Returns:
            The turned gradient, and what every query was multiplied with.
        """
        count = len(gradient)
        plain = gradient.dense
        if plain is not None:
            gradient = replace(gradient, dense=Dense.of(self.vectors(step, plain.v)))
        if self.recipe.similarity == "dot":
            return gradient, np.ones(count)
        factors = self.scales(plain, gradient)
        return gradient.times(factors), factors

    def norms(self, step: int, gradient: Gradient) -> Float[np.ndarray, " n"]:
        """Norms of gradients as the recipe measures them: the root of the product of a gradient with its turned self.

        Args:
            step: the checkpoint.
            gradient: as kept.

        Returns:
            [n].
        """
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
