"""FastIF at one checkpoint: s = (H + ridge)^-1 g(z') of a query, and its products with training gradients."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from proponent.errors import DivergedError, InputError
from proponent.gradients.computer import GradientComputer
from proponent.gradients.hessian import Hessian
from proponent.gradients.inverse_products import conjugate_gradient, lissa, top_eigenvalue
from proponent.gradients.layer_hooks import Call
from proponent.gradients.layer_rules import Block, OneHot
from proponent.gradients.layer_vectors import token_words
from proponent.index.loading import LoadedRun
from proponent.index.queries import QueryBatch
from proponent.method import LiSSA, Retaken
from proponent.models import Encoded
from proponent.models.placement import beside, host, in_full
from proponent.store import Store
from proponent.types import CheckpointId, Example

SAMPLE = {"lissa": 8, "cg": 256}
"""Training texts per Hessian, unless the method sets their number."""

PROBES = 8
"""Number of batches whose top eigenvalues set the scale."""

MARGIN = 3.0
"""The automatic scale is the largest observed top eigenvalue times this factor."""

READ = 20_000
"""Number of encoded training texts that are cached for the next draw."""


@dataclass(frozen=True)
class Solution:
    """Solutions for some queries."""

    batch: QueryBatch  # the queries
    rows: tuple[int, ...]  # which of them
    s: Float[Tensor, "q p"]  # one vector each
    description: tuple[str, ...]  # how it was solved, with which damping, and how reliable it is


class TrainingTexts:
    """Training texts of an index, encoded on demand and shared by all its checkpoints."""

    def __init__(self, store: Store, loaded: LoadedRun) -> None:
        self._store, self._loaded = store, loaded
        self._read: dict[int, Encoded] = {}
        self._reading = Lock()

    def encoded(self, places: Int[np.ndarray, " m"]) -> tuple[list[Encoded], list[int]]:
        """Encode some texts or return cached encodings; LiSSA's threads read the file one after another."""
        with self._reading:
            return self._encoded(places), self._labels[places].tolist()

    def _encoded(self, places: Int[np.ndarray, " m"]) -> list[Encoded]:
        fresh = [place for place in dict.fromkeys(places.tolist()) if place not in self._read]
        if len(self._read) + len(fresh) > READ:
            self._read.clear()
            fresh = list(dict.fromkeys(places.tolist()))
        examples = [self._store.example(place) for place in fresh]
        self._read |= zip(fresh, self._loaded.encoder.encode(examples) if examples else (), strict=True)
        return [self._read[place] for place in places.tolist()]

    def lengths(self, places: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
        """Estimate the tokens of each text, known only after reading: by characters, or exactly where it matters."""
        if self._loaded.run.equal_lengths:
            return np.asarray([one.length for one in self.encoded(places)[0]])
        return self._store.lengths(places)

    @cached_property
    def _labels(self) -> Int[np.ndarray, " n"]:
        return np.asarray(self._store.features["labels"])


class Solver:
    """Solves and scores at one checkpoint of an index whose method solves per query."""

    def __init__(self, store: Store, loaded: LoadedRun, step: CheckpointId, texts: TrainingTexts) -> None:
        self.store, self.step, self._loaded, self._texts = store, step, loaded, texts
        assert isinstance(store.plan.term, Retaken)
        self.method = store.plan.term
        self._solved: Solution | None = None

    def terms(
        self, batch: QueryBatch, row: int, example: Example, label: int, widths: tuple[int, int]
    ) -> Float[np.ndarray, "w x"]:
        """Split the score of an example by its words; the query counts as a single word."""
        solution = self.solution(batch, range(row, row + 1))
        s = self._blocks(solution.s[solution.rows.index(row)][None])
        (encoded,) = self._loaded.encoder.encode([example])
        terms = np.zeros((widths[0] + 1, widths[1] + 1))
        for captured, _ in self._computer.calls([encoded], [label]):
            for block, call in self._called(captured.calls or {}):
                shares = _positions(call, s[block.name])[0, 0]
                np.add.at(terms[:, -1], token_words(encoded).of(call), host(shares).astype(np.float64))
        return terms

    def solution(self, batch: QueryBatch, rows: Sequence[int]) -> Solution:
        """Solve for some queries, or return the cached solution for the same queries."""
        held = self._solved
        if held is None or held.batch is not batch or not set(rows) <= set(held.rows):
            self._solved = held = self._solve(batch, rows)
        return held

    def _solve(self, batch: QueryBatch, rows: Sequence[int]) -> Solution:
        self._loaded.say(f"inverse-Hessian products of {len(rows)} queries ({self.method.solver.kind})")
        with self._hessian.open():
            v = torch.stack([self._hessian.gradient(partial(self._query_loss, batch, row)) for row in rows])
            scale = self._scale
            ridge = self.method.damping * scale
            s, notes = (
                self._lissa(v, scale, self.method.solver)
                if isinstance(self.method.solver, LiSSA)
                else self._cg(v, ridge)
            )
        how = f"{MARGIN:g} times the top eigenvalue seen" if self.method.scale == "auto" else "as given"
        notes.append(
            f"damping {self.method.damping:g} of the scale {scale:.3g} ({how}): a ridge of {ridge:.3g} on every "
            "eigenvalue"
        )
        return Solution(batch, tuple(rows), s, tuple(notes))

    def _lissa(self, v: Float[Tensor, "q p"], scale: float, solver: LiSSA) -> tuple[Float[Tensor, "q p"], list[str]]:
        method = self.method

        def one(run: int) -> tuple[Float[Tensor, "q p"], float]:
            draws = np.random.default_rng([method.seed, run])

            def product(step: int, h: Float[Tensor, "q p"]) -> Float[Tensor, "q p"]:  # noqa: ARG001 # batches follow
                return self._hessian.products(partial(self._loss, draws.choice(self._alive, self._sample)), h)

            made = lissa(product, v, solver.depth, method.damping, scale)
            return made.s, made.change

        workers = min(solver.runs, max(1, (os.cpu_count() or 1) // torch.get_num_threads()))
        try:
            with ThreadPoolExecutor(workers) as pool:
                made = list(pool.map(one, range(solver.runs)))
        except DivergedError as error:
            raise DivergedError(f"{error}: {way_out(scale, max(self._eigenvalues()), method.damping)}") from error
        parts = [s for s, _ in made]
        cosines = [
            float(torch.nn.functional.cosine_similarity(first, second).min())
            for first, second in combinations(parts, 2)
        ]
        alike = f", with a pairwise cosine of at least {min(cosines):.3f}" if cosines else ""
        change = max(change for _, change in made)
        return torch.stack(parts).mean(0), [
            f"LiSSA: the mean of {solver.runs} runs of {solver.depth} steps over {self._sample} texts{alike}; the last "
            f"tenth of the steps changed s by {change:.1%}"
        ]

    def _cg(self, v: Float[Tensor, "q p"], ridge: float) -> tuple[Float[Tensor, "q p"], list[str]]:
        places = self._alive
        if self._sample < len(places):
            places = np.sort(np.random.default_rng(self.method.seed).choice(places, self._sample, replace=False))
        batches = [places[start : start + 32] for start in range(0, len(places), 32)]

        def product(h: Float[Tensor, "q p"]) -> Float[Tensor, "q p"]:
            parts = [self._hessian.products(partial(self._loss, one), h) * len(one) for one in batches]
            return torch.stack(parts).sum(0) / len(places)

        try:
            made = conjugate_gradient(product, v, ridge, self.method.solver.depth)
        except DivergedError as error:
            raise DivergedError(
                f"{error} (the Hessian has eigenvalues below -{ridge:.3g}): use more damping than "
                f"{self.method.damping:g}, such as --set damping={10 * max(self.method.damping, 1e-3):g}"
            ) from error
        return made.s, [
            f"conjugate gradient on the Hessian of {len(places)} training texts: {made.steps} steps, relative "
            f"residual {made.change:.1e}"
        ]

    @cached_property
    def _scale(self) -> float:
        if self.method.scale != "auto":
            return float(self.method.scale)
        found = MARGIN * max(self._eigenvalues())
        if not np.isfinite(found) or found <= 0.0:
            raise InputError(
                f"the Hessian of {', '.join(self.method.names)} is zero on the sampled batches: {self.method.name} "
                "cannot solve with it (choose other --layers)"
            )
        return found

    def _eigenvalues(self) -> list[float]:
        draws = np.random.default_rng([self.method.seed, 999_983])
        losses = [partial(self._loss, draws.choice(self._alive, self._sample)) for _ in range(PROBES)]
        products = [partial(self._hessian.products, loss) for loss in losses]
        return [top_eigenvalue(one, self._hessian.size, at) for at, one in enumerate(products)]

    def products(self, s: Float[Tensor, "q p"], places: Int[np.ndarray, " m"]) -> Float[np.ndarray, "q m"]:
        """Products of some examples' recomputed gradients with the solutions."""
        found = np.zeros((len(s), len(places)))
        if len(places) <= READ:
            self._texts.encoded(places)  # read once, in order: the batches below access rows at random
        lengths = self._texts.lengths(places)
        order = np.argsort(lengths, kind="stable")
        size, blocks = self.store.plan.source.batch_size, self._blocks(s)
        for cut in _cuts(lengths[order], size, equal=self._loaded.run.equal_lengths):
            own = order[cut]
            encoded, labels = self._texts.encoded(places[own])
            start = 0
            for captured, count in self._computer.calls(encoded, labels):
                for block, call in self._called(captured.calls or {}):
                    sums = _positions(call, blocks[block.name]).sum(-1)
                    found[:, own[start : start + count]] += host(sums).astype(np.float64)
                start += count
        return found

    def _called(self, calls: Mapping[str, Sequence[Call]]) -> Iterator[tuple[Block, Call]]:
        for block in self._hessian.blocks:
            yield from ((block, call) for call in calls.get(block.name, ()))

    def _blocks(self, s: Float[Tensor, "q p"]) -> dict[str, Float[Tensor, "q o i"]]:
        blocks = self._hessian.blocks
        bounds = np.cumsum([0, *(one.size for one in blocks)]).tolist()
        return {
            one.name: s[:, at : at + one.size].view(len(s), one.o, one.i)
            for one, at in zip(blocks, bounds, strict=False)
        }

    def _loss(self, places: Int[np.ndarray, " m"]) -> Float[Tensor, ""]:
        return self._computer.losses(*self._texts.encoded(places)).mean()

    def _query_loss(self, batch: QueryBatch, row: int) -> Float[Tensor, ""]:
        against = None if batch.against is None else [batch.against]
        return self._computer.losses([batch.encoded[row]], [batch.labels[row]], against).sum()

    @property
    def _computer(self) -> GradientComputer:
        return self._loaded.solving(self.step)

    @property
    def _hessian(self) -> Hessian:
        layers = self._computer.layers
        assert layers is not None
        return Hessian(self._computer.model, layers.choice.blocks)

    @cached_property
    def _alive(self) -> Int[np.ndarray, " m"]:
        return np.flatnonzero(self.store.alive)

    @property
    def _sample(self) -> int:
        return self.method.sample or SAMPLE[self.method.solver.kind]


def way_out(scale: float, top: float, damping: float) -> str:
    """Suggest a remedy where LiSSA diverges: a scale above the eigenvalues, else damping (negative eigenvalues)."""
    if scale <= top:
        return (
            f"the top eigenvalue of its batches reaches {top:.3g}: use --set scale={2 * MARGIN * top:.3g}, or more "
            f"damping than {damping:g} if that is not enough"
        )
    return (
        f"the scale is above the top eigenvalue of its batches ({top:.3g}), so the Hessian has negative ones: use more "
        f"damping than {damping:g}, such as --set damping={10 * max(damping, 1e-3):g}"
    )


def _positions(call: Call, s: Float[Tensor, "q o i"]) -> Float[Tensor, "q n s"]:
    """Each position's part of the product of a layer's gradient with [o i]: left . (s right)."""
    s = beside(in_full(s), call.right)
    if isinstance(call.left, OneHot):
        return torch.stack([(one[call.left.ids] * call.right).sum(-1) for one in s])
    return torch.stack([((call.left @ one) * call.right).sum(-1) for one in s])


def _cuts(lengths: Int[np.ndarray, " m"], size: int, *, equal: bool) -> list[slice]:
    cuts: list[slice] = []
    start = 0
    for place in range(1, len(lengths) + 1):
        ends = place == len(lengths) or place - start == size or (equal and lengths[place] != lengths[start])
        if ends:
            cuts.append(slice(start, place))
            start = place
    return cuts
