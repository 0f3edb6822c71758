"""DataInf's closed form: the mean over examples of the damped inverse of each example's rank-one matrix.

(1/m) sum_j (lambda + g_j g_j^T)^-1 = (1/lambda) (Id - (1/m) sum_j g_j g_j^T / (lambda + ||g_j||^2)) (Kwon et al. 2024,
arXiv 2310.00902, equation 5). The matrix of a wide layer is not formed: its product with the query vectors is computed
from the training gradients at query time.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from proponent.errors import InputError
from proponent.method_parts import DataInf
from proponent.preconditioners import damped
from proponent.preconditioners.base import BuildOptions, FitFacts, ModelFacts, Pass
from proponent.preconditioners.batches import LARGEST, Arrays, Batch, LayerShape, Parts, StoredBatch, Sums, TrainVectors
from proponent.preconditioners.damped import RIDGES, DampedFitter, kept_matrix, too_large

SPREAD = "curvature.ridge."
"""Prefix, before the layer's number, for layers whose product is computed from the gradients at query time."""


class DataInfProduct:
    """The closed form times some vectors, from gradients that are read once, without forming its matrix."""

    # T v = (v - (1/m) sum_j g_j <g_j, v> / (lambda + ||g_j||^2)) / lambda, equal to `shrunk_identity` times v.

    def __init__(self, ridge: float, v: Float[np.ndarray, "q p"]) -> None:
        self.ridge, self.v = ridge, v.astype(np.float64)
        self.taken: Float[np.ndarray, "q p"] = np.zeros(self.v.shape)
        self.count = 0

    def add(self, g: Float[np.ndarray, "n p"]) -> None:
        """Add some examples; products use the precision of their gradients, and sums use 64 bits."""
        weights = 1.0 / np.maximum(self.ridge + np.linalg.norm(g, axis=1).astype(np.float64) ** 2, 1e-300)
        weighed = (g @ self.v.T.astype(g.dtype)) * weights[:, None]
        self.taken += weighed.T.astype(g.dtype) @ g
        self.count += len(g)

    def product(self) -> Float[np.ndarray, "q p"]:
        """The product, once every example was added."""
        if self.ridge <= 0.0:
            return np.zeros(self.v.shape)
        return (self.v - self.taken / max(self.count, 1)) / self.ridge


def shrunk_identity(weighted: Float[np.ndarray, "p p"], count: int, ridge: float) -> Float[np.ndarray, "p p"]:
    """The closed form, from the sum of g_j g_j^T / (lambda + ||g_j||^2)."""
    return (np.eye(len(weighted)) - weighted / count) / ridge


class Fitter(DampedFitter[DataInf]):
    """The closed form as a matrix, or its damping where the product is computed at query time."""

    def check(self, facts: ModelFacts) -> None:
        """Refuse norms of the training side for layers whose matrix is not formed."""
        for layer in filter(too_large, facts.layers if self.method.scales_train else ()):
            raise InputError(
                f"layer {layer.name} has {layer.size:,} dimensions: above {damped.MOST:,}, datainf reads all "
                "gradients for each vector that it preconditions, and norms of training gradients would need that "
                "for every example: leave out unit_norm and similarity=cosine, or project the layers (--project 16)"
            )

    def passes(self, options: BuildOptions) -> tuple[Pass, ...]:
        """The norms, which give the damping; then the weighted outer products."""
        return (Pass("norms", "gradients", "after"), Pass("weighted", "gradients", "after"))

    def partial(self, this: Pass, batch: Batch, known: Arrays, group: Sequence[LayerShape]) -> Parts:
        """Squared norms, or outer products divided by them."""
        assert isinstance(batch, StoredBatch)
        v = batch.vectors
        yield "count", np.asarray([len(v)])
        for layer in group:
            wide = v[:, layer.cut].astype(np.float64)
            norms = (wide**2).sum(1)
            if this.name == "norms":
                yield f"norms.{layer.at}", np.asarray([norms.sum()])
                yield f"{LARGEST}norms.{layer.at}", np.asarray([norms.max(initial=0.0)])
            elif (ridge := float(known[f"_ridge.{layer.at}"][0])) > 0.0:
                yield f"outer.{layer.at}", (wide * (1.0 / (ridge + norms))[:, None]).T @ wide

    def reduce(self, this: Pass, sums: Sums, known: Arrays, group: Sequence[LayerShape]) -> Arrays:
        """The damping of each layer, or its matrix."""
        made: Sums = {}
        count = max(int(sums["count"][0]), 1)
        for layer in group:
            if this.name == "norms":
                made |= self._ridge(sums, count, layer)
            else:
                weighted, ridge = sums.get(f"outer.{layer.at}"), float(known[f"_ridge.{layer.at}"][0])
                zero = np.zeros((layer.size, layer.size))
                made |= kept_matrix(zero if weighted is None else shrunk_identity(weighted, count, ridge), ridge, layer)
        return made

    def _ridge(self, sums: Sums, count: int, layer: LayerShape) -> Sums:
        total, largest = (float(sums[f"{prefix}norms.{layer.at}"][0]) for prefix in ("", LARGEST))
        ridge = self.damping.times(total / count / layer.size, largest) if total > 0.0 else 0.0
        if total > 0.0 and ridge <= 0.0:
            raise InputError(
                f"datainf divides by the damping of layer {layer.name}: give a damping above 0, such as 0.1"
            )
        made = {f"_ridge.{layer.at}": np.asarray([ridge])}
        return made | ({f"{SPREAD}{layer.at}": np.asarray([ridge])} if too_large(layer) else {})

    def close(self, this: Pass, known: Arrays, layers: Sequence[LayerShape]) -> Arrays:
        """The ridges, at the end."""
        return super().close(this, known, layers) if this.name == "weighted" else {}

    def held(self, this: Pass, layer: LayerShape) -> int:
        """Bytes of a layer's matrix; 0 where it is not formed."""
        return 16 if this.name == "norms" else 0 if too_large(layer) else 8 * layer.size**2

    def products(
        self, v: Float[np.ndarray, "n p"], table: Arrays, layers: Sequence[LayerShape], train: TrainVectors | None
    ) -> Float[np.ndarray, "n p"]:
        """Multiply vectors; layers without a matrix share one read of the training gradients."""
        spread = {
            layer: DataInfProduct(float(table[f"{SPREAD}{layer.at}"][0]), v[:, layer.cut])
            for layer in layers
            if f"{SPREAD}{layer.at}" in table
        }
        made = super().products(v, table, [layer for layer in layers if layer not in spread], train)
        if spread:
            assert train is not None
            for g in train():
                for layer, one in spread.items():
                    one.add(g[:, layer.cut])
        for layer, one in spread.items():
            made[:, layer.cut] = one.product()
        return made

    def describe(self, table: Arrays, facts: FitFacts) -> list[str]:
        """Name the layers whose product is computed at query time."""
        large = sum(name.startswith(SPREAD) for name in table)
        said = (
            f"DataInf's closed form over {large} of {len(table[RIDGES])} layers (more than {damped.MOST:,} dimensions "
            "each) is computed per query, from the gradients of the selected training examples: each query reads "
            "them once more, and so does its split by words"
        )
        return [*super().describe(table, facts), *([said] if large else [])]
