"""Shared code of preconditioners that invert damped eigenvalues."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, Literal, TypeVar

import numpy as np
from jaxtyping import Float

from proponent.errors import InputError
from proponent.gradients.forms import Dense
from proponent.gradients.gradient import Gradient
from proponent.method import Gradients
from proponent.method_parts import Damped
from proponent.preconditioners.base import Cost, FitFacts, ModelFacts, Pass, Preconditioner, Stage, counted
from proponent.preconditioners.batches import Arrays, LayerShape, Parts, StoredBatch, Sums, TrainVectors

MOST = 4096
"""Maximum size of a layer's gradient for which its matrix is formed."""

RIDGES = "curvature.ridges"
"""Damping of every layer; in the table of a checkpoint once its damped matrices are fitted."""

DampedSpec = TypeVar("DampedSpec", bound=Damped)


@dataclass(frozen=True)
class Damping:
    """The value that is added to every eigenvalue."""

    value: float  # the factor
    of: Literal["mean", "top", "absolute"]  # what it multiplies: the mean eigenvalue, the top one, or 1

    @classmethod
    def of_spec(cls, spec: Damped) -> "Damping":
        """The damping of a spec."""
        return cls(spec.damping, spec.damping_of)

    def ridge(self, eigenvalues: Float[np.ndarray, " p"]) -> float:
        """The added value."""
        return self.times(float(eigenvalues.mean()), float(eigenvalues.max()))

    def times(self, mean: float, top: float) -> float:
        """The added value, from the mean and the top eigenvalue."""
        return self.value * {"mean": mean, "top": top, "absolute": 1.0}[self.of]


def too_large(layer: LayerShape) -> bool:
    """Whether the layer is too wide to form its matrix."""
    return layer.size > MOST


def refuse_large(layers: Sequence[LayerShape]) -> None:
    """Refuse a matrix that would be too large."""
    for layer in filter(too_large, layers):
        raise InputError(
            f"layer {layer.name} has {layer.size:,} dimensions, and its curvature would be a matrix of that many rows "
            f"(at most {MOST:,}): project it (--project 16), or choose ekfac"
        )


def damped_inverse(
    matrix: Float[np.ndarray, "p p"], damping: Damping, name: str
) -> tuple[Float[np.ndarray, "p p"], float]:
    """Invert a symmetric matrix with a ridge, by its eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    top = float(values[-1])
    if top <= 0.0:
        return np.zeros_like(matrix), 0.0
    ridge = damping.ridge(values)
    kept = np.maximum(values, 0.0) + ridge
    if float(kept[0]) <= 1e-12 * top:
        raise InputError(
            f"the curvature of layer {name} cannot be inverted (its smallest eigenvalue is {values[0]:.2g}, its "
            f"largest {top:.2g}): add damping, such as --set damping=0.01"
        )
    return (vectors / kept) @ vectors.T, ridge


def outer_sums(batch: StoredBatch, group: Sequence[LayerShape]) -> Parts:
    """Sums over examples of g g^T, by layer."""
    v = batch.vectors
    yield "count", np.asarray([len(v)])
    for layer in group:
        wide = v[:, layer.cut].astype(np.float64)
        yield f"outer.{layer.at}", wide.T @ wide


def mean_outer(sums: Sums, layer: LayerShape) -> Float[np.ndarray, "p p"]:
    """The mean of g g^T over the examples."""
    return sums[f"outer.{layer.at}"] / max(int(sums["count"][0]), 1)


class DampedFitter(Preconditioner, Generic[DampedSpec]):
    """Multiplies query vectors by one damped inverse per layer."""

    stage: ClassVar[Stage] = "query"
    accepts: ClassVar[frozenset[type]] = frozenset({Dense})

    def __init__(self, spec: DampedSpec, method: Gradients) -> None:
        self.spec, self.method = spec, method
        self.damping = Damping.of_spec(spec)

    def arrays(self, layers: Sequence[LayerShape]) -> tuple[str, ...]:
        """Array names whose presence in a table means that fitting is done."""
        return (RIDGES,)

    def matrix(self, mean: Float[np.ndarray, "p p"], layer: LayerShape) -> Sums:
        """The damped inverse of a layer's matrix, and its ridge."""
        inverse, ridge = damped_inverse(mean, self.damping, layer.name)
        return kept_matrix(inverse, ridge, layer)

    def close(self, this: Pass, known: Arrays, layers: Sequence[LayerShape]) -> Arrays:
        """The ridges of all layers, once they exist."""
        names = [f"_ridge.{layer.at}" for layer in layers]
        return {RIDGES: np.concatenate([known[name] for name in names])} if names and names[0] in known else {}

    def apply(
        self, gradient: Gradient, table: Arrays, layers: Sequence[LayerShape], train: TrainVectors | None
    ) -> Gradient:
        """Multiply query vectors."""
        plain = gradient.dense
        if plain is None:
            return gradient
        if RIDGES not in table:
            raise InputError(
                "the curvature of this index is computed from all of its gradients: finish the build before you "
                "query it"
            )
        made = self.products(plain.v.astype(np.float64), table, layers, train)
        return replace(gradient, dense=Dense(plain.indptr, made.astype(np.float32)))

    def products(
        self,
        v: Float[np.ndarray, "n p"],
        table: Arrays,
        layers: Sequence[LayerShape],
        train: TrainVectors | None,  # for a closed form that is not stored
    ) -> Float[np.ndarray, "n p"]:
        """Multiply vectors, layer by layer."""
        made = np.zeros_like(v)
        for layer in layers:
            made[:, layer.cut] = self.product(v[:, layer.cut], table, layer)
        return made

    def product(self, v: Float[np.ndarray, "n p"], table: Arrays, layer: LayerShape) -> Float[np.ndarray, "n p"]:
        """Multiply the slice of one layer."""
        return v @ table[f"curvature.{layer.at}.matrix"]

    def describe(self, table: Arrays, facts: FitFacts) -> list[str]:
        """Report the size of the damping."""
        of = {"mean": "the mean eigenvalue", "top": "the top eigenvalue", "absolute": "1"}[self.damping.of]
        ridges = table[RIDGES]
        return [
            f"curvature {_kind(self.spec)}, {facts.step}: damping {self.damping.value:g} of {of} of each layer, "
            f"{ridges.min():.3g} to {ridges.max():.3g}"
        ]

    def cost(self, facts: ModelFacts) -> Cost:
        """Passes are counted; the size of the matrices is not predicted."""
        unforeseen = (
            f"not in the forecast: time, memory and disk space for the matrices of curvature {_kind(self.spec)}, and "
            "the pass over the queries of --eval, if given"
        )
        return counted(self.passes(facts.options), unforeseen=unforeseen)


def kept_matrix(inverse: Float[np.ndarray, "p p"], ridge: float, layer: LayerShape) -> Sums:
    """The arrays that a table stores for a layer's inverse."""
    return {f"curvature.{layer.at}.matrix": inverse.astype(np.float32), f"_ridge.{layer.at}": np.asarray([ridge])}


def _kind(spec: Damped) -> str:
    return str(getattr(spec, "kind", ""))
