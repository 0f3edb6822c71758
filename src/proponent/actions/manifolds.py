"""Subspaces of features, and how far a change leaves the manifold of the data.

A perturbation is split into a part inside the local plane of the nearest data and a part normal to it, as in "Manifold
View of Adversarial Risk" (arXiv 2203.13277).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from proponent.actions.hard_label_attacks import FULL, Subspace
from proponent.errors import InputError

NEIGHBOURS, KEPT = 20, 0.9
"""Points of a local plane, and the part of their variance that it holds."""


def subspace(
    features: Float[np.ndarray, "n d"], kind: Literal["pca", "random", "full"], width: int, seed: int = 0
) -> Subspace:
    """A subspace: principal directions of the features, random directions, or everything."""
    if kind == "full":
        return FULL
    most = min(features.shape[1], len(features) - 1)
    if not 1 <= width <= most:
        raise InputError(f"a subspace of {width} directions: must be from 1 to {most}, by features and rows")
    if kind == "random":
        drawn = np.random.default_rng(seed).standard_normal((features.shape[1], width))
        return Subspace(np.linalg.qr(drawn)[0].T)
    centred = features - features.mean(0)
    return Subspace(np.linalg.svd(centred, full_matrices=False)[2][:width])


@dataclass(frozen=True)
class ManifoldDistance:
    """How a perturbation lies to the data."""

    length: float
    normal: float  # length of its part outside the local plane
    nearest: float  # distance of the end point to the nearest data point

    @property
    def ratio(self) -> float:
        """Part of the length that is normal to the data."""
        return self.normal / self.length if self.length > 0 else 0.0


def manifold_distance(
    data: Float[np.ndarray, "n d"], origin: Float[np.ndarray, " d"], point: Float[np.ndarray, " d"]
) -> ManifoldDistance:
    """Measure a perturbation against the local plane of the data points nearest to its end."""
    if len(data) <= NEIGHBOURS:
        raise InputError(f"{len(data)} rows are too few for a local plane of {NEIGHBOURS} points: give more")
    gaps = np.linalg.norm(data - point, axis=1)
    near = data[np.argsort(gaps, kind="stable")[:NEIGHBOURS]]
    _, values, directions = np.linalg.svd(near - near.mean(0), full_matrices=False)
    shares = np.cumsum(values**2) / max(float((values**2).sum()), 1e-300)
    plane = directions[: int(np.searchsorted(shares, KEPT)) + 1]
    change = point - origin
    rest = change - (change @ plane.T) @ plane
    return ManifoldDistance(float(np.linalg.norm(change)), float(np.linalg.norm(rest)), float(gaps.min()))
