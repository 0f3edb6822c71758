"""Damped inverses of one layer's second-moment matrix: autocorrelation (TrackStar), and DataInf's closed form."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from proponent.errors import InputError

MOST = 4096
"""Numbers of a layer up to which its matrix is formed."""

Of = Literal["mean", "top", "absolute"]


@dataclass(frozen=True)
class Damping:
    """What is added to every eigenvalue.

    Attributes:
        value: the factor.
        of: what it multiplies: the mean eigenvalue, the top one, or 1.
    """

    value: float
    of: Of

    def ridge(self, eigenvalues: Float[np.ndarray, " p"]) -> float:
        """Say what is added."""
        unit = {"mean": float(eigenvalues.mean()), "top": float(eigenvalues.max()), "absolute": 1.0}[self.of]
        return self.value * unit


class LayerMoments:
    """Sums over examples of one layer: outer products and squared norms.

    Args:
        name: of the layer, for messages.
        size: numbers of its gradient.

    Raises:
        InputError: the matrix would be too large.
    """

    def __init__(self, name: str, size: int) -> None:
        if size > MOST:
            raise InputError(
                f"layer {name} keeps {size:,} numbers, and its curvature would be a matrix of that many rows (at most "
                f"{MOST:,}): project it (--project 16), or choose ekfac"
            )
        self.name = name
        self.total: Float[np.ndarray, "p p"] = np.zeros((size, size))
        self.count = 0
        self.squares = 0.0

    def add(self, v: Float[np.ndarray, "n p"], weights: Float[np.ndarray, " n"] | None = None) -> None:
        """Take in some examples."""
        wide = v.astype(np.float64)
        self.total += (wide if weights is None else wide * weights[:, None]).T @ wide
        self.count += len(v)
        self.squares += float((wide**2).sum())

    def mean(self) -> Float[np.ndarray, "p p"]:
        """The mean outer product."""
        return self.total / max(self.count, 1)


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


def shrunk_identity(weighted: Float[np.ndarray, "p p"], count: int, ridge: float) -> Float[np.ndarray, "p p"]:
    """DataInf's stand-in for an inverse: the mean over examples of each rank-one matrix's own damped inverse."""
    # (1/m) sum_j (lambda + g_j g_j^T)^-1 = (1/lambda) (Id - (1/m) sum_j g_j g_j^T / (lambda + ||g_j||^2))
    # (Kwon et al. 2024, arXiv 2310.00902, equation 5).
    return (np.eye(len(weighted)) - weighted / count) / ridge


class DataInfProduct:
    """DataInf's stand-in times some vectors, from gradients that are read once: its matrix is not formed.

    T v = (v - (1/m) sum_j g_j <g_j, v> / (lambda + ||g_j||^2)) / lambda, as `shrunk_identity` times v.

    Args:
        ridge: lambda; 0 where no example has a gradient, and then everything is turned to zero.
        v: the vectors.
    """

    def __init__(self, ridge: float, v: Float[np.ndarray, "q p"]) -> None:
        self.ridge, self.v = ridge, v.astype(np.float64)
        self.taken: Float[np.ndarray, "q p"] = np.zeros(self.v.shape)
        self.count = 0

    def add(self, g: Float[np.ndarray, "n p"]) -> None:
        """Take in some examples; products are taken in the precision of their gradients, and summed in 64 bits."""
        weights = 1.0 / np.maximum(self.ridge + np.linalg.norm(g, axis=1).astype(np.float64) ** 2, 1e-300)
        weighed = (g @ self.v.T.astype(g.dtype)) * weights[:, None]
        self.taken += weighed.T.astype(g.dtype) @ g
        self.count += len(g)

    def turned(self) -> Float[np.ndarray, "q p"]:
        """What the vectors become, once every example was taken in."""
        if self.ridge <= 0.0:
            return np.zeros(self.v.shape)
        return (self.v - self.taken / max(self.count, 1)) / self.ridge
