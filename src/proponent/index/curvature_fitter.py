"""Fit the curvature of a recipe to the finished shards of an index, and read it back to turn queries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from proponent.curvature import EKFAC, Damping, LayerMoments, damped_inverse, ggn, matrices, shrunk_identity
from proponent.errors import InputError
from proponent.index.mixing import PLACE, SHARE, chosen_share
from proponent.recipe import Recipe
from proponent.store import PlannedBlock

Shards = Callable[[], Iterator[tuple[Int[np.ndarray, " m"], dict[str, np.ndarray]]]]
"""Reads all shards of a checkpoint: places of the examples in the training set, and arrays."""

Factors = Callable[[], Mapping[str, tuple[Float[np.ndarray, "o o"], Float[np.ndarray, "i i"]]]]
"""Means of g g^T and a a^T over the positions of the training set, by layer."""

Squares = Callable[[Mapping[str, tuple[Float[np.ndarray, "o o"], Float[np.ndarray, "i i"]]]], Mapping[str, np.ndarray]]
"""Given the eigenbases, mean squares in them of gradients with drawn labels, by layer."""

Queries = Callable[[], Float[np.ndarray, "q p"]]
"""Takes the vectors of the queries whose autocorrelation is mixed in."""

SPREAD = "curvature.ridge."
"""Before the number of a layer whose closed form is taken from the gradients when asked."""

RIDGES = "curvature.ridges"


def layer_slices(blocks: Sequence[PlannedBlock]) -> list[slice]:
    """Find the stretch of every layer in the vectors."""
    bounds = [0, *np.cumsum([one.kept_o * one.kept_i for one in blocks]).tolist()]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


class CurvatureFitter:
    """Fits the curvature of one checkpoint, layer by layer.

    Args:
        recipe: says which curvature.
        blocks: the layers.
        shards: reads the vectors.
        labels: class numbers of the training set.
        queries: takes the vectors of queries; None when there are none.
    """

    def __init__(
        self,
        recipe: Recipe,
        blocks: Sequence[PlannedBlock],
        shards: Shards,
        labels: Sequence[int],
        queries: Queries | None = None,
    ) -> None:
        self.recipe, self.blocks, self._shards, self._queries = recipe, blocks, shards, queries
        self._labels = np.asarray(labels, dtype=np.int64)
        self._damping = Damping(recipe.damping, recipe.damping_of)

    def tables(self, factors: Factors, squares: Squares) -> dict[str, np.ndarray]:
        """Fit."""
        if self.recipe.curvature == "autocorrelation" and self._queries is not None:
            return self._mixed(self._queries())
        kind, kept = self.recipe.curvature, dict[str, np.ndarray]()
        if kind == "ekfac":
            return self._kroneckers(factors, squares)
        ridges = np.zeros(len(self.blocks))
        fit = {"autocorrelation": self._autocorrelation, "ggn": self._ggn, "datainf": self._datainf}[kind]
        for at, (block, cut) in enumerate(zip(self.blocks, layer_slices(self.blocks), strict=True)):
            inverse, ridges[at] = fit(block, cut)
            if inverse is None:
                kept[f"{SPREAD}{at}"] = np.asarray([ridges[at]])
            else:
                kept[f"curvature.{at}.matrix"] = inverse.astype(np.float32)
        return kept | {RIDGES: ridges}

    def _vectors(self, cut: slice) -> Iterator[Float[np.ndarray, "m p"]]:
        for _, arrays in self._shards():
            yield arrays["dense.v"][:, cut]

    def _autocorrelation(self, block: PlannedBlock, cut: slice) -> tuple[np.ndarray, float]:
        return damped_inverse(self._moments(block, cut), self._damping, block.name)

    def _moments(self, block: PlannedBlock, cut: slice) -> Float[np.ndarray, "p p"]:
        moments = LayerMoments(block.name, cut.stop - cut.start)
        for v in self._vectors(cut):
            moments.add(v)
        return moments.mean()

    def _mixed(self, queries: Float[np.ndarray, "q p"]) -> dict[str, np.ndarray]:
        """The queries' autocorrelation mixed in; lambda is one for all layers."""
        parts = list(zip(self.blocks, layer_slices(self.blocks), strict=True))

        def both(block: PlannedBlock, cut: slice) -> tuple[np.ndarray, np.ndarray]:
            theirs = LayerMoments(block.name, cut.stop - cut.start)
            theirs.add(queries[:, cut])
            return self._moments(block, cut), theirs.mean()

        values: list[list[np.ndarray]] = [[], []]
        for block, cut in parts if self.recipe.eval_share == "auto" else ():
            for one, matrix in zip(values, both(block, cut), strict=True):
                one.append(np.linalg.eigvalsh(matrix))
        train, asked = (np.concatenate(one) if one else np.zeros(0) for one in values)
        chosen = chosen_share(self.recipe, train, asked, len(queries))
        kept, ridges = dict[str, np.ndarray](), np.zeros(len(parts))
        for at, (block, cut) in enumerate(parts):
            mine, theirs = both(block, cut)
            mixed = chosen.share * theirs + (1.0 - chosen.share) * mine
            inverse, ridges[at] = damped_inverse(mixed, self._damping, block.name)
            kept[f"curvature.{at}.matrix"] = inverse.astype(np.float32)
        return kept | {RIDGES: ridges, SHARE: np.asarray([chosen.share]), PLACE: np.asarray([chosen.place])}

    def _datainf(self, block: PlannedBlock, cut: slice) -> tuple[np.ndarray | None, float]:
        """The closed form as a matrix; None for a layer so large that it is taken from the gradients when asked."""
        size = cut.stop - cut.start
        large = size > matrices.MOST
        if large and self.recipe.normed:
            raise InputError(
                f"layer {block.name} keeps {size:,} numbers: above {matrices.MOST:,} datainf reads all gradients for "
                "each vector that it turns, and norms of the training side would need that for every example: leave "
                "out unit_norm and similarity=cosine, or project the layers (--project 16)"
            )
        norms = np.concatenate([(v.astype(np.float64) ** 2).sum(1) for v in self._vectors(cut)])
        if not norms.any():
            return None if large else np.zeros((size, size)), 0.0
        unit = {"mean": norms.mean() / size, "top": norms.max(), "absolute": 1.0}[self.recipe.damping_of]
        ridge = self.recipe.damping * float(unit)
        if ridge <= 0.0:
            raise InputError(f"datainf divides by the damping of layer {block.name}: give one above 0, such as 0.1")
        if large:
            return None, ridge
        weighted = LayerMoments(block.name, size)
        for v in self._vectors(cut):
            weighted.add(v, 1.0 / (ridge + (v.astype(np.float64) ** 2).sum(1)))
        return shrunk_identity(weighted.total, weighted.count, ridge), ridge

    def _ggn(self, block: PlannedBlock, cut: slice) -> tuple[np.ndarray, float]:
        """Exact for the head of a classifier: its gradient is (p - y) a^T, so that a is found again from it."""
        LayerMoments(block.name, cut.stop - cut.start)  # refuses what is too large
        inputs: list[np.ndarray] = []
        predicted: list[np.ndarray] = []
        for places, arrays in self._shards():
            p = arrays.get("meta.probabilities")
            if p is None or p.shape[1] != block.o or (block.kept_o, block.kept_i) != (block.o, block.i):
                raise InputError(
                    f"{self.recipe.name} needs the exact Hessian of a classifier's head, kept in full: {block.name} is "
                    "not that (choose ekfac or trackstar for other layers)"
                )
            alive = ~arrays["meta.bad"]
            p = p[alive].astype(np.float64)
            signal = p - np.eye(block.o)[self._labels[places][alive]]
            g = arrays["dense.v"][:, cut].astype(np.float64).reshape(len(p), block.o, block.i)
            inputs.append(np.einsum("no,noi->ni", signal, g) / np.maximum((signal**2).sum(1), 1e-30)[:, None])
            predicted.append(p)
        return damped_inverse(ggn(np.concatenate(inputs), np.concatenate(predicted)), self._damping, block.name)

    def _kroneckers(self, factors: Factors, squares: Squares) -> dict[str, np.ndarray]:
        kept, ridges = dict[str, np.ndarray](), np.zeros(len(self.blocks))
        bases = {name: EKFAC.basis(*sides) for name, sides in factors().items()}
        drawn = squares(bases) if self.recipe.fisher == "sampled" else None
        for at, (block, cut) in enumerate(zip(self.blocks, layer_slices(self.blocks), strict=True)):
            left, right = bases[block.name]
            found = self._squares(cut, left, right) if drawn is None else drawn[block.name]
            fitted, ridges[at] = EKFAC.of(left, right, found, self._damping, block.name)
            arrays = {"left": fitted.left, "right": fitted.right, "inverse": fitted.inverse}
            kept |= {f"curvature.{at}.{name}": value.astype(np.float32) for name, value in arrays.items()}
        return kept | {RIDGES: ridges}

    def _squares(self, cut: slice, left: np.ndarray, right: np.ndarray) -> Float[np.ndarray, "o i"]:
        """Mean squares in the eigenbasis of the gradients that the index keeps."""
        total, count = np.zeros((len(left), len(right))), 0
        for v in self._vectors(cut):
            inside = left.T @ v.astype(np.float64).reshape(len(v), *total.shape) @ right
            total += (inside**2).sum(0)
            count += len(v)
        return total / max(count, 1)


def fitted(table: Mapping[str, np.ndarray], count: int) -> list[np.ndarray | EKFAC | float]:
    """Read a fitted curvature back."""
    if RIDGES not in table:
        raise InputError(
            "the curvature of this index is fitted once all its gradients are there: finish the build before you ask"
        )

    def one(at: int) -> np.ndarray | EKFAC | float:
        if f"{SPREAD}{at}" in table:
            return float(table[f"{SPREAD}{at}"][0])
        if f"curvature.{at}.inverse" in table:
            return EKFAC(*(table[f"curvature.{at}.{name}"] for name in ("left", "right", "inverse")))
        return table[f"curvature.{at}.matrix"]

    return [one(at) for at in range(count)]
