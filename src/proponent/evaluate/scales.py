"""Do figures of a small model hold for a large one? Correlations over training sets, their intervals and controls.

Khaddaj, Engstrom and Madry 2025, "Small-to-Large Generalization" (arXiv 2505.16260). Columns are test sets, rows are
training sets; a correlation over few training sets has a wide interval, which is part of the answer.
"""

import numpy as np
from jaxtyping import Float

from proponent.evaluate.left_out import correlations

_SHUFFLES = 1000


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
) -> Float[np.ndarray, " t1"]:
    """The 95th percentile of |r| when the names of the training sets are shuffled, per test set, then of their mean."""
    generator = np.random.default_rng(seed)
    found = np.stack([correlations(small[generator.permutation(len(small))], large) for _ in range(_SHUFFLES)])
    return np.quantile(np.abs(np.column_stack([found, found.mean(1)])), 0.95, axis=0)
