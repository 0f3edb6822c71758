"""Low rank instead of random projections: every layer on the directions in which its gradients are largest.

A layer's gradients G [o i] lose least, of all that P G Q^T with orthonormal rows can keep a side, when P holds the
leading eigenvectors of the mean of G G^T and Q those of the mean of G^T G (the higher-order singular value
decomposition of the gradients). Choe et al. 2024 (arXiv 2405.13954) start their projections from principal components,
too, those of the layer's inputs and of the gradients at its outputs.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from proponent.gradients.layer_hooks import Call
from proponent.gradients.layer_rules import Left, OneHot
from proponent.gradients.projection import Projection
from proponent.index.extra_passes import Stream
from proponent.index.gradient_computer import GradientComputer
from proponent.recipe import Recipe

MOST = 4096
"""Width up to which a side's directions are looked for: a square matrix of it is decomposed."""

_SIDES = ("left", "right")


def fit_directions(work: GradientComputer, stream: Stream) -> dict[str, np.ndarray]:
    """Find the directions of every layer that is to be projected."""
    assert work.layered is not None
    projection = work.layered.projection
    sums = {
        (name, side): torch.zeros(width, width, dtype=torch.float64)
        for name, side, _, width in _candidate_width(projection)
    }
    for encoded, labels in stream():
        for captured, count in work.calls(encoded, labels):
            _add(sums, work, captured.calls or {}, count)
    kept: dict[str, np.ndarray] = {}
    for at, block in enumerate(projection.blocks):
        for side, p in zip(_SIDES, projection.shapes[block.name], strict=True):
            if (block.name, side) in sums:
                rows, share = _directions(sums[block.name, side].numpy(), p)
                kept |= {f"basis.{at}.{side}": rows, f"basis.{at}.{side}.kept": np.asarray([share])}
    projected = sum(one is not None for block in projection.blocks for one in projection.sides(block))
    return kept | {"basis": np.asarray([len(kept) // 2, projected - len(sums)])}


def held(projection: Projection) -> int:
    """Say how much the directions of a checkpoint will take."""
    return sum(4 * p * width + 8 for _, _, p, width in _candidate_width(projection)) + 16


def _candidate_width(projection: Projection) -> list[tuple[str, str, int, int]]:
    """Layer, side, numbers kept and width of every side that directions are looked for on."""
    return [
        (block.name, side, p, width)
        for block in projection.blocks
        for side, matrix, p, width in zip(
            _SIDES, projection.sides(block), projection.shapes[block.name], (block.o, block.i), strict=True
        )
        if matrix is not None and width <= MOST
    ]


def describe(recipe: Recipe, steps: Sequence[int], table: Callable[[int], Mapping[str, np.ndarray]]) -> list[str]:
    """Say how much of the gradients the directions keep."""
    return [_describe_share(step, table(step)) for step in steps] if recipe.basis == "leading" else []


def _describe_share(step: int, table: Mapping[str, np.ndarray]) -> str:
    shares = [float(value[0]) for name, value in table.items() if name.startswith("basis.") and name.endswith(".kept")]
    if not shares:
        return f"leading directions, step {step}: none, every projected side is wider than {MOST:,} and stays random"
    wide = int(table["basis"][1:].sum())
    apart = f"; {wide} sides wider than {MOST:,} stay random" if wide else ""
    return (
        f"leading directions, step {step}: {len(shares)} sides keep {min(shares):.1%} to {max(shares):.1%} of the "
        f"squared norm of the training set's gradients (median {np.median(shares):.1%}); the rest is lost to all scores"
        f"{apart}"
    )


def _add(
    sums: dict[tuple[str, str], Float[Tensor, "x x"]],
    work: GradientComputer,
    calls: Mapping[str, Sequence[Call]],
    count: int,
) -> None:
    """Add a batch's G G^T and G^T G; examples weigh alike where the method scales them to norm 1."""
    assert work.layered is not None
    called = {block.name: calls[block.name] for block in work.layered.choice.blocks if calls.get(block.name)}
    roots = work.roots or {}
    found = {name: _Gradients(own, roots.get(name)) for name, own in called.items()}
    weights = torch.ones(count, dtype=torch.float64)
    if work.recipe.normed and found:
        squares = torch.stack([one.squares() for one in found.values()]).sum(0)
        weights = torch.where(torch.isfinite(squares) & (squares > 0), 1.0 / squares, 0.0)
    for (name, side), total in sums.items():
        if name in found:
            total += found[name].outer(side, weights)


class _Gradients:
    """The gradients of one layer in a batch, by their factors; formed only where their entries are multiplied.

    Args:
        calls: of the layer, at least one.
        root: what the entries are multiplied with; None for nothing.
    """

    def __init__(self, calls: Sequence[Call], root: Float[Tensor, "o i"] | None) -> None:
        self.root = root
        self.lefts = [one.left if isinstance(one.left, OneHot) else one.left.double() for one in calls]
        self.right = torch.cat([one.right.double() for one in calls], 1)

    def squares(self) -> Float[Tensor, " n"]:
        """Squared norms."""
        if self.root is not None:
            return self._formed().pow(2).flatten(1).sum(1)
        return (self._gram() * (self.right @ self.right.transpose(1, 2))).flatten(1).sum(1)

    def outer(self, side: str, weights: Float[Tensor, " n"]) -> Float[Tensor, "x x"]:
        """The weighted sum of G G^T (left) or G^T G (right) over the examples with finite gradients."""
        if self.root is not None:
            g = self._formed() * weights.sqrt()[:, None, None]
            one = other = g.transpose(1, 2) if side == "left" else g
        elif side == "left":
            one = self._full()
            other = (self.right @ self.right.transpose(1, 2)) @ one * weights[:, None, None]
        else:
            one = self.right
            other = self._gram() @ one * weights[:, None, None]
        fine = torch.isfinite(one).flatten(1).all(1) & torch.isfinite(other).flatten(1).all(1)
        return one[fine].flatten(0, 1).T @ other[fine].flatten(0, 1)

    def _gram(self) -> Float[Tensor, "n s s"]:
        return torch.cat([torch.cat([_inner(one, other) for other in self.lefts], 2) for one in self.lefts], 1)

    def _full(self) -> Float[Tensor, "n s o"]:
        return torch.cat([one.full().double() if isinstance(one, OneHot) else one for one in self.lefts], 1)

    def _formed(self) -> Float[Tensor, "n o i"]:
        assert self.root is not None
        return self._full().transpose(1, 2) @ self.right * self.root.double()


def _inner(one: Left, other: Left) -> Float[Tensor, "n s t"]:
    """Products of all positions of one factor with all of another."""
    if isinstance(one, OneHot) and isinstance(other, OneHot):
        return (one.ids[:, :, None] == other.ids[:, None, :]).double()
    if isinstance(one, OneHot):
        assert not isinstance(other, OneHot)
        return other.gather(2, one.ids[:, None, :].expand(-1, other.shape[1], -1)).transpose(1, 2)
    if isinstance(other, OneHot):
        return _inner(other, one).transpose(1, 2)
    return one @ other.transpose(1, 2)


def _directions(mean: Float[np.ndarray, "x x"], p: int) -> tuple[Float[np.ndarray, "p x"], float]:
    values, vectors = np.linalg.eigh(mean)
    total = float(values.sum())
    share = float(values[::-1][:p].sum()) / total if total > 0 else 1.0
    return np.ascontiguousarray(vectors[:, ::-1][:, :p].T).astype(np.float32), share
