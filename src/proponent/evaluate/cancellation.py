"""Cancellation ratios: how much of what the examples push is taken back by other examples, layer by layer.

Large = much cancels. Yeh et al. 2022 argue from such a ratio against late layers; Vitel and Chhabra 2025 argue that
it is no guide. Three of their forms need only gradients at one checkpoint, two need the movement of the weights as
well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from proponent.errors import InputError


@dataclass
class Cancellation:
    """Sums over the training set of one layer's gradients.

    Attributes:
        absolute: sum of |g|, per parameter.
        signed: sum of g, per parameter.
        norms: sum of the examples' Euclidean norms.
    """

    absolute: Float[np.ndarray, " p"] | None = field(default=None, init=False)
    signed: Float[np.ndarray, " p"] | None = field(default=None, init=False)
    norms: float = field(default=0.0, init=False)

    def add(self, gradients: Float[np.ndarray, "n p"]) -> None:
        """Take in the gradients of some examples."""
        wide = np.asarray(gradients, dtype=np.float64)
        mass, total = np.abs(wide).sum(0), wide.sum(0)
        self.absolute = mass if self.absolute is None else self.absolute + mass
        self.signed = total if self.signed is None else self.signed + total
        self.norms += float(np.linalg.norm(wide, axis=1).sum())

    @property
    def l1(self) -> float:
        """C(W) = sum_i ||g_i||_1 / ||sum_i g_i||_1; 1 when all gradients agree, infinite when they cancel."""
        mass, total = self.sums()
        return _over(float(mass.sum()), float(np.abs(total).sum()))

    @property
    def l2(self) -> float:
        """sum_i ||g_i||_1 / ||sum_i g_i||_2."""
        mass, total = self.sums()
        return _over(float(mass.sum()), float(np.linalg.norm(total)))

    @property
    def per_parameter(self) -> Float[np.ndarray, " p"]:
        """sum_i |g_ip| / |sum_i g_ip| of the parameters with any gradient; may hold infinity."""
        mass, total = self.sums()
        alive = mass > 0
        with np.errstate(divide="ignore"):
            return mass[alive] / np.abs(total[alive])

    def norm(self, rate: float, moved: Float[np.ndarray, " p"]) -> float:
        """Rate * sum_i ||g_i||_2 / ||W_after - W_before||_2, the form of the first paper."""
        return _over(rate * self.norms, float(np.linalg.norm(moved)))

    def median_abs(self, rate: float, moved: Float[np.ndarray, " p"]) -> float:
        """Median over the parameters with any gradient of rate * sum_i |g_ip| / |moved_p|."""
        mass, _ = self.sums()
        alive = mass > 0
        with np.errstate(divide="ignore"):
            return float(np.median(rate * mass[alive] / np.abs(np.asarray(moved)[alive])))

    def sums(self) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
        """Both sums."""
        if self.absolute is None or self.signed is None:
            raise InputError("a cancellation ratio needs the gradient of one example at least")
        return self.absolute, self.signed


def grouped(layers: Mapping[str, Cancellation]) -> float:
    """C(W) of several layers together: numerators and denominators are added first."""
    parts = [one.sums() for one in layers.values()]
    return _over(sum(float(mass.sum()) for mass, _ in parts), sum(float(np.abs(total).sum()) for _, total in parts))


def _over(above: float, below: float) -> float:
    return above / below if below > 0 else float("inf")
