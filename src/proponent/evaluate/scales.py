"""Do figures of a small model hold for a large one? Correlations over training sets, their intervals and controls.

Khaddaj, Engstrom and Madry 2025, "Small-to-Large Generalization" (arXiv 2505.16260). Columns are test sets, rows are
training sets; a correlation over few training sets has a wide interval, which is part of the answer.
"""

import numpy as np
from jaxtyping import Float

from proponent.evaluate.intervals import NORMAL, Estimate
from proponent.evaluate.left_out import correlations

LEAST_SETS = 4
"""Training sets without which a correlation has no interval."""
_SHUFFLES = 1000


def fisher(value: float, sets: int) -> Estimate:
    """A correlation over some sets with the interval of Fisher's z."""
    if sets < LEAST_SETS:
        return Estimate(value, -np.inf, np.inf, sets)
    centre, half = float(np.arctanh(np.clip(value, -1 + 1e-12, 1 - 1e-12))), NORMAL / (sets - 3) ** 0.5
    return Estimate(value, float(np.tanh(centre - half)), float(np.tanh(centre + half)), sets)


def mean_fisher(values: Float[np.ndarray, " t"], sets: int) -> Estimate:
    """The mean of correlations of several test sets; its interval is that of one, for test sets share their sets."""
    return fisher(float(values.mean()), sets)


def without_axis(
    small: Float[np.ndarray, "m t"], large: Float[np.ndarray, "m t"]
) -> tuple[Float[np.ndarray, "m t"], Float[np.ndarray, "m t"]]:
    """Both sides without the main axis of the large model's losses, along which sets differ on all tests alike."""
    first, second = small - small.mean(0), large - large.mean(0)
    scale = second.std(0)
    standard = np.divide(second, scale, out=np.zeros_like(second), where=scale > 0)
    axis = np.linalg.svd(standard, full_matrices=False)[0][:, :1]
    return first - axis @ (axis.T @ first), second - axis @ (axis.T @ second)


def shuffled(
    small: Float[np.ndarray, "m t"], large: Float[np.ndarray, "m t"], seed: int = 0
) -> Float[np.ndarray, " t"]:
    """The 95th percentile of |r| when the names of the training sets are shuffled, per test set."""
    generator = np.random.default_rng(seed)
    found = [np.abs(correlations(small[generator.permutation(len(small))], large)) for _ in range(_SHUFFLES)]
    return np.quantile(np.stack(found), 0.95, axis=0)
