"""Inverse-Hessian products without the Hessian: LiSSA, conjugate gradient, and the top eigenvalue that scales them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from proponent.errors import DivergedError

Product = Callable[[Float[Tensor, "q p"]], Float[Tensor, "q p"]]
"""Multiplies some vectors by one symmetric matrix."""


@dataclass(frozen=True)
class Solved:
    """Solutions of (ridge + H) s = v."""

    s: Float[Tensor, "q p"]  # one per row of v
    steps: int  # number of steps
    # LiSSA: relative change of s over the last tenth of the steps; conjugate gradient: relative residual of v. The
    # largest over the rows
    change: float


def lissa(
    product: Callable[[int, Float[Tensor, "q p"]], Float[Tensor, "q p"]],
    v: Float[Tensor, "q p"],
    depth: int,
    damping: float,
    scale: float,
) -> Solved:
    """Solve by a recursion over random batches: h <- v + (1 - damping) h - H h / scale, s = h / scale."""
    # At the fixed point (damping scale + H) s = v, so damping x scale is the ridge (Agarwal, Bullins and Hazan 2017,
    # arXiv 1602.03943; for influence Koh and Liang 2017; in FastIF's notation, Guo et al. 2021, arXiv 2012.15781).
    h, before = v.clone(), v
    sizes = _norms(v)
    limit = 10.0 * min(float(depth), 1.0 / max(damping, 1e-12))
    for step in range(1, depth + 1):
        if step == depth - depth // 10:
            before = h
        h = v + (1.0 - damping) * h - product(step, h) / scale
        norms = _norms(h)
        if not bool(torch.isfinite(norms).all()) or bool((norms > limit * sizes).any()):
            raise DivergedError(f"LiSSA diverges at step {step} of {depth} with scale {scale:g}")
    change = _norms(h - before) / _norms(h).clamp(min=1e-30)
    return Solved(h / scale, depth, float(change.max()) if len(change) else 0.0)


def conjugate_gradient(
    product: Product, v: Float[Tensor, "q p"], ridge: float, depth: int, tolerance: float = 1e-4
) -> Solved:
    """Solve (ridge + H) s = v by conjugate gradient, each row separately (Hestenes and Stiefel 1952; Martens 2010)."""
    s, rest = torch.zeros_like(v), v.clone()
    direction, sizes = rest.clone(), (v**2).sum(1)
    squares, step = sizes.clone(), 0
    while step < depth and bool((squares > tolerance**2 * sizes).any()):
        turned = product(direction) + ridge * direction
        curved = (direction * turned).sum(1)
        going = squares > tolerance**2 * sizes
        if bool((curved[going] <= 0).any()):
            raise DivergedError(f"conjugate gradient found a direction of negative curvature at step {step + 1}")
        size = torch.where(going, squares / torch.where(going, curved, 1.0), 0.0)[:, None]
        s, rest = s + size * direction, rest - size * turned
        fresh = (rest**2).sum(1)
        direction = rest + torch.where(squares > 0, fresh / squares.clamp(min=1e-30), 0.0)[:, None] * direction
        squares, step = fresh, step + 1
    left = (squares / sizes.clamp(min=1e-30)).sqrt()
    return Solved(s, step, float(left.max()) if len(left) else 0.0)


def top_eigenvalue(product: Product, size: int, seed: int, iterations: int = 10) -> float:
    """Estimate the eigenvalue of largest magnitude by power iteration."""
    v = torch.randn(1, size, generator=torch.Generator().manual_seed(seed))
    found = 0.0
    for _ in range(iterations):
        v = v / _norms(v).clamp(min=1e-30)[:, None]
        v = product(v)
        found = float(_norms(v)[0])
    return found


def _norms(v: Float[Tensor, "q p"]) -> Float[Tensor, " q"]:
    return (v**2).sum(1).sqrt()
