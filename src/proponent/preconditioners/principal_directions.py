"""Low rank instead of random projections: each layer is projected to the directions of its largest gradients.

Among all P G Q^T with orthonormal rows, a layer's gradients G [o i] lose least on each side when P holds the
leading eigenvectors of the mean of G G^T and Q those of the mean of G^T G (the higher-order singular value
decomposition of the gradients). Choe et al. 2024 (arXiv 2405.13954) start their projections from principal components,
too: those of the layer's inputs and of the gradients at its outputs.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from proponent.gradients.layer_hooks import Call
from proponent.gradients.layer_rules import Block, Left, OneHot
from proponent.gradients.projection import WIDEST
from proponent.method import Gradients
from proponent.method_parts import Projection
from proponent.models.placement import beside, host
from proponent.preconditioners import base
from proponent.preconditioners.base import BuildOptions, Cost, FitFacts, ModelFacts, Pass, counted
from proponent.preconditioners.batches import Arrays, Batch, Computer, LayerShape, Parts, Sums, TextBatch

MOST = WIDEST
"""Maximum width of a side with directions: a square matrix of that size is decomposed."""

_SIDES = ("left", "right")


class Fitter(base.Fitter):
    """Finds the principal directions of both sides of every projected layer."""

    def __init__(self, spec: Projection, method: Gradients) -> None:
        self.spec, self.method = spec, method

    def passes(self, options: BuildOptions) -> tuple[Pass, ...]:
        """One pass over the texts; all layers together, since an example's norm depends on all of them."""
        return (Pass("outer", "texts", "before"),)

    def arrays(self, layers: Sequence[LayerShape]) -> tuple[str, ...]:
        """Array names whose presence in a table means that fitting is done."""
        return ("basis",)

    def partial(self, this: Pass, batch: Batch, known: Arrays, group: Sequence[LayerShape]) -> Parts:
        """Sums of G G^T and G^T G; examples weigh the same if the method scales them to norm 1."""
        assert isinstance(batch, TextBatch)
        called = {layer.name: batch.calls[layer.name] for layer in group if batch.calls.get(layer.name)}
        roots = cast("Mapping[str, Tensor]", batch.computer.elementwise or {})
        found = {name: _LayerGradients(own, roots.get(name)) for name, own in called.items()}
        here = next((one.right.device for one in found.values()), None)
        weights = torch.ones(batch.count, dtype=torch.float64, device=here)
        if self.method.scales_train and found:
            squares = torch.stack([beside(one.squares(), weights) for one in found.values()]).sum(0)
            weights = torch.where(torch.isfinite(squares) & (squares > 0), 1.0 / squares, 0.0)
        for layer in group:
            for side, _, _ in _looked_for(layer) if layer.name in found else ():
                yield (
                    f"outer.{layer.at}.{side}",
                    host(found[layer.name].outer(side, beside(weights, found[layer.name].right))),
                )

    def reduce(self, this: Pass, sums: Sums, known: Arrays, group: Sequence[LayerShape]) -> Arrays:
        """The directions of both sides, and the share of the squared norm that they retain."""
        made: Sums = {}
        for layer in group:
            for side, p, width in _looked_for(layer):
                outer = sums.get(f"outer.{layer.at}.{side}", np.zeros((width, width)))
                rows, share = _directions(outer, p)
                made |= {f"basis.{layer.at}.{side}": rows, f"basis.{layer.at}.{side}.kept": np.asarray([share])}
        return made

    def close(self, this: Pass, known: Arrays, layers: Sequence[LayerShape]) -> Arrays:
        """The number of sides with directions, and of sides that are too wide for them."""
        found = sum(len(_looked_for(layer)) for layer in layers)
        projected = sum((one.kept_o < one.o) + (one.kept_i < one.i) for one in layers)
        return {"basis": np.asarray([found, projected - found])}

    def install(self, computer: Computer, table: Arrays) -> None:
        """Project gradients to the directions."""
        assert computer.layers is not None
        blocks = cast("Sequence[Block]", computer.layers.projection.blocks)

        def one(name: str) -> Tensor | None:
            return torch.as_tensor(table[name]) if name in table else None

        pairs = [(one(f"basis.{at}.left"), one(f"basis.{at}.right")) for at in range(len(blocks))]
        assert int(table["basis"][0]) == sum(side is not None for pair in pairs for side in pair)
        computer.layers.projection.turn({block.name: pair for block, pair in zip(blocks, pairs, strict=True)})

    def describe(self, table: Arrays, facts: FitFacts) -> list[str]:
        """Report how much of the gradients the directions retain."""
        shares = [float(value[0]) for name, value in table.items() if name.startswith("basis.") and "kept" in name]
        if not shares:
            return [
                f"leading directions, {facts.step}: none, every projected side is wider than {MOST:,} and keeps a "
                "random projection"
            ]
        wide = int(table["basis"][1:].sum())
        apart = f"; {wide} sides wider than {MOST:,} keep a random projection" if wide else ""
        return [
            f"leading directions, {facts.step}: {len(shares)} sides keep {min(shares):.1%} to {max(shares):.1%} of "
            f"the squared norm of the training set's gradients (median {np.median(shares):.1%}); no score contains "
            f"the rest{apart}"
        ]

    def cost(self, facts: ModelFacts) -> Cost:
        """A pass, and the stored directions."""
        kept = sum(4 * p * width + 8 for layer in facts.layers for _, p, width in _looked_for(layer)) + 16
        return counted(self.passes(facts.options), kept)


def _looked_for(layer: LayerShape) -> list[tuple[str, int, int]]:
    """Side, number of stored directions and width of every side that needs directions."""
    sides = zip(_SIDES, (layer.kept_o, layer.kept_i), (layer.o, layer.i), strict=True)
    return [(side, p, width) for side, p, width in sides if p < width <= MOST]


class _LayerGradients:
    """The gradients of one layer in a batch, as factors; formed only if their entries are multiplied."""

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
    """Inner products of all positions of one factor with all positions of another."""
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
