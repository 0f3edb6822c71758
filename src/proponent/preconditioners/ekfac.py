"""EK-FAC: the Fisher matrix of a layer in the eigenbasis of its Kronecker factors, with corrected eigenvalues.

George et al. 2018 (arXiv 1806.03884); for influence Grosse et al. 2023 (arXiv 2308.03296). For a weight W [o i] with
gradients g a^T, the factors are the means of a a^T [i i] and g g^T [o o] over positions; the eigenvalues are the mean
squares of the examples' gradients in the joint eigenbasis. Labels come from the training set (empirical Fisher) or are
sampled from the model's own output.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from proponent.errors import InputError
from proponent.gradients.layer_hooks import Call
from proponent.gradients.layer_rules import Block, OneHot
from proponent.method_parts import EKFAC
from proponent.models.placement import host
from proponent.preconditioners.base import BuildOptions, FitFacts, Pass
from proponent.preconditioners.batches import Arrays, Batch, LayerShape, Parts, Sums, TextBatch
from proponent.preconditioners.damped import DampedFitter, Damping


@dataclass(frozen=True)
class EKFACInverse:
    """Eigenbasis and damped inverse eigenvalues of one layer."""

    left: Float[np.ndarray, "o o"]  # eigenvectors of the output side, in columns
    right: Float[np.ndarray, "i i"]  # eigenvectors of the input side
    inverse: Float[np.ndarray, "o i"]  # 1 / (eigenvalue + ridge)

    @classmethod
    def of(
        cls,
        left: Float[np.ndarray, "o o"],
        right: Float[np.ndarray, "i i"],
        squares: Float[np.ndarray, "o i"],
        damping: Damping,
        name: str,
    ) -> tuple["EKFACInverse", float]:
        """Damp and invert the eigenvalues."""
        top = float(squares.max())
        if top <= 0.0:
            return cls(left, right, np.zeros_like(squares)), 0.0
        ridge = damping.ridge(squares.ravel())
        if float(squares.min()) + ridge <= 1e-12 * top:
            raise InputError(
                f"the curvature of layer {name} cannot be inverted (its smallest eigenvalue is {squares.min():.2g}, "
                f"its largest {top:.2g}): add damping, such as --set damping=0.1"
            )
        return cls(left, right, 1.0 / (squares + ridge)), ridge

    def times(self, v: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
        """Multiply gradients by the inverse."""
        shaped = v.reshape(len(v), *self.inverse.shape)
        inside = self.left.T @ shaped @ self.right
        return (self.left @ (inside * self.inverse) @ self.right.T).reshape(v.shape)


class Fitter(DampedFitter[EKFAC]):
    """The damped inverse of EK-FAC's Fisher matrix."""

    def passes(self, options: BuildOptions) -> tuple[Pass, ...]:
        """The factors, then the eigenvalues in their eigenbases."""
        if self.spec.fisher == "empirical":
            return (Pass("factors", "texts", "after"), Pass("squares", "gradients", "after"))
        seed = self.spec.fisher_seed
        return (Pass("factors", "texts", "after", seed), Pass("squares", "texts", "after", seed))

    def partial(self, this: Pass, batch: Batch, known: Arrays, group: Sequence[LayerShape]) -> Parts:
        """Outer products of the factors, or squares in the eigenbases."""
        if isinstance(batch, TextBatch) and this.name == "factors":
            yield from _factor_sums(batch, group)
            return
        v = batch.computer.vectors(batch.captured, batch.count) if isinstance(batch, TextBatch) else batch.vectors
        yield from _square_sums(v[np.isfinite(v).all(1)], known, group)

    def reduce(self, this: Pass, sums: Sums, known: Arrays, group: Sequence[LayerShape]) -> Arrays:
        """Eigenbases, or the damped inverse of the eigenvalues."""
        made: Sums = {}
        for layer in group:
            made |= _bases(sums, layer) if this.name == "factors" else self._inverse(sums, known, layer)
        return made

    def _inverse(self, sums: Sums, known: Arrays, layer: LayerShape) -> Sums:
        squares = sums[f"squares.{layer.at}"] / max(int(sums["count"][0]), 1)
        left, right = (known[f"_{side}.{layer.at}"] for side in _SIDES)
        found, ridge = EKFACInverse.of(left, right, squares, self.damping, layer.name)
        kept = {"left": found.left, "right": found.right, "inverse": found.inverse}
        made = {f"curvature.{layer.at}.{name}": value.astype(np.float32) for name, value in kept.items()}
        return made | {f"_ridge.{layer.at}": np.asarray([ridge])}

    def product(self, v: Float[np.ndarray, "n p"], table: Arrays, layer: LayerShape) -> Float[np.ndarray, "n p"]:
        """Multiply the slice of one layer."""
        kept = (table[f"curvature.{layer.at}.{name}"] for name in ("left", "right", "inverse"))
        return EKFACInverse(*kept).times(v)

    def describe(self, table: Arrays, facts: FitFacts) -> list[str]:
        """Describe whose labels the Fisher matrix uses."""
        if self.spec.fisher == "sampled":
            said = f"Fisher matrix: labels drawn from the model's own probabilities (seed {self.spec.fisher_seed})"
        else:
            said = (
                "Fisher matrix: labels of the training set (the empirical one); --set fisher=sampled draws them from "
                "the model"
            )
        return [*super().describe(table, facts), said]


_SIDES = ("left", "right")


def _factor_sums(batch: TextBatch, group: Sequence[LayerShape]) -> Parts:
    """Sums over positions of g g^T and a a^T, projected like the gradients."""
    numbers = {layer.name: layer.at for layer in group}
    for block in cast("Sequence[Block]", batch.projection.blocks):
        at = numbers[block.name]
        for call in cast("Sequence[Call]", batch.calls.get(block.name, ())):
            lefts, rights = _counted(*batch.projection.factors(block, call), one_hot=isinstance(call.left, OneHot))
            yield f"left.{at}", host(lefts.T @ lefts)
            yield f"right.{at}", host(rights.T @ rights)
            yield f"count.{at}", np.asarray([len(lefts)])


def _counted(
    left: Float[Tensor, "n s o"], right: Float[Tensor, "n s i"], *, one_hot: bool
) -> tuple[Float[Tensor, "k o"], Float[Tensor, "k i"]]:
    """The factors at all positions except padding, where the gradient is zero."""
    lefts, rights = left.flatten(0, 1), right.flatten(0, 1)
    signal = rights if one_hot else lefts
    counted = (signal != 0).any(-1) & torch.isfinite(signal).all(-1)
    return lefts[counted].double(), rights[counted].double()


def _bases(sums: Sums, layer: LayerShape) -> Sums:
    """Eigenvectors of both factors."""
    made: Sums = {}
    for side, width in zip(_SIDES, (layer.kept_o, layer.kept_i), strict=True):
        total = sums.get(f"{side}.{layer.at}", np.zeros((width, width)))
        count = int(sums.get(f"count.{layer.at}", np.zeros(1))[0])
        made[f"_{side}.{layer.at}"] = np.linalg.eigh(total / max(count, 1))[1]
    return made


def _square_sums(v: Float[np.ndarray, "n p"], known: Arrays, group: Sequence[LayerShape]) -> Parts:
    """Sums over examples of the squared gradients in the eigenbases."""
    yield "count", np.asarray([len(v)])
    for layer in group:
        left, right = (known[f"_{side}.{layer.at}"] for side in _SIDES)
        shaped = v[:, layer.cut].astype(np.float64).reshape(len(v), len(left), len(right))
        yield f"squares.{layer.at}", ((left.T @ shaped @ right) ** 2).sum(0)
