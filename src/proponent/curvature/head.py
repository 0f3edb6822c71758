"""The last layer of a classifier: its exact Gauss-Newton matrix, and its refit under an L2 penalty."""

from typing import cast

import numpy as np
from jaxtyping import Float, Int

from proponent.errors import InputError

STEPS = 100
"""Most Newton steps of a refit."""


def ggn(a: Float[np.ndarray, "n i"], p: Float[np.ndarray, "n l"]) -> Float[np.ndarray, "x x"]:
    """Gauss-Newton matrix of softmax cross-entropy in the weight of a linear layer; there it is the Hessian."""
    # H = (1/n) sum (diag(p) - p p^T) (x) a a^T, row by row of the weight.
    n, i = a.shape
    classes = p.shape[1]
    blocks = np.empty((classes, i, classes, i))
    for one in range(classes):
        for other in range(one, classes):
            weight = p[:, one] * ((one == other) - p[:, other])
            blocks[one, :, other] = (a * weight[:, None]).T @ a / n
            blocks[other, :, one] = blocks[one, :, other].T
    return blocks.reshape(classes * i, classes * i)


def fitted_head(
    a: Float[np.ndarray, "n i"], labels: Int[np.ndarray, " n"], classes: int, penalty: float
) -> Float[np.ndarray, "l i"]:
    """Refit the last layer: minimise mean cross-entropy + penalty ||W||^2 by damped Newton steps (no bias)."""
    n, i = a.shape
    weight: Float[np.ndarray, "l i"] = np.zeros((classes, i))
    truth = np.eye(classes)[labels]
    for _ in range(STEPS):
        p = _softmax(a @ weight.T)
        gradient = (p - truth).T @ a / n + 2.0 * penalty * weight
        if float(np.abs(gradient).max()) < 1e-10 * max(1.0, float(np.abs(a).max())):
            return weight
        hessian = ggn(a, p) + 2.0 * penalty * np.eye(classes * i)
        step = cast("np.ndarray", np.linalg.solve(hessian, gradient.ravel())).reshape(classes, i)
        slope, size, before = float((gradient * step).sum()), 1.0, _cost(a, truth, weight, penalty)
        while _cost(a, truth, weight - size * step, penalty) > before - 1e-4 * size * slope and size > 1e-8:
            size /= 2.0
        weight -= size * step
    raise InputError(
        f"the refit of the last layer did not come to rest in {STEPS} steps: choose a larger penalty, such as "
        "--set refit=0.01"
    )


def _softmax(logits: Float[np.ndarray, "n l"]) -> Float[np.ndarray, "n l"]:
    grown = np.exp(logits - logits.max(1, keepdims=True))
    return grown / grown.sum(1, keepdims=True)


def _cost(
    a: Float[np.ndarray, "n i"], truth: Float[np.ndarray, "n l"], weight: Float[np.ndarray, "l i"], penalty: float
) -> float:
    logits = a @ weight.T
    top = logits.max(1)
    spread = top + np.log(np.exp(logits - top[:, None]).sum(1))
    return float((spread - (logits * truth).sum(1)).mean() + penalty * (weight**2).sum())
