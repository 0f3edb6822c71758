"""A small runner of fitters, and texts and gradients made of random factors, for the tests of preconditioners."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proponent.data import Examples, read
from proponent.gradients.forms import Dense
from proponent.gradients.gradient import Gradient
from proponent.gradients.layer_hooks import Call
from proponent.gradients.layer_rules import Block, OneHot
from proponent.gradients.projection import Projection
from proponent.index.extra_passes import run_pass
from proponent.preconditioners.base import Fitter, Pass
from proponent.preconditioners.batches import (
    Batch,
    LayerShape,
    StoredBatch,
    TextBatch,
    TrainVectors,
    layer_shapes,
)

MIB = 2**20

Sources = Callable[[Pass], Iterable[Batch]]


@dataclass
class Options:
    """How to build."""

    second_moment: str = "estimate"
    queries: Any = None


def given(count: int) -> Examples:
    """Queries of a build."""
    some = read([{"text": f"what happened {place}?"} for place in range(max(count, 1))]).subset(range(count))
    some.name = "questions.csv"
    return some


def fitted(
    fitter: Fitter, source: Sources, layers: Sequence[LayerShape], options: Any = None, most: int = 512 * MIB
) -> dict[str, np.ndarray]:
    """Make all passes; give what is published."""
    known: dict[str, np.ndarray] = {}
    for this in fitter.passes(options or Options()):
        known = run_pass(fitter, this, source, known, layers, most)
    assert all(name in known for name in fitter.arrays(layers))
    return {name: value for name, value in known.items() if not name.startswith("_")}


@dataclass
class Planned:
    """A layer of a plan."""

    name: str
    o: int
    i: int
    kept_o: int
    kept_i: int


@dataclass
class Vectors:
    """The layers of a model."""

    projection: Projection


@dataclass
class Captured:
    """Factors of a batch."""

    calls: dict[str, list[Call]] | None


@dataclass
class FakeComputer:
    """Layers without a model."""

    layers: Vectors
    model: Any = field(default_factory=lambda: torch.nn.Linear(1, 1))  # on the CPU
    table: tuple[int, int] = (0, 0)
    elementwise: Any = None

    def vectors(self, captured: Any, count: int) -> np.ndarray:
        return self.layers.projection.vectors(captured.calls, count, self.elementwise)


@dataclass
class Made:
    """A training set as random factors: two batches of examples, and what follows from them."""

    projection: Projection
    batches: list[tuple[dict[str, list[Call]], int]]
    labels: list[int] = field(default_factory=list)
    computer: FakeComputer = field(init=False)

    def __post_init__(self) -> None:
        self.computer = FakeComputer(Vectors(self.projection))

    @property
    def layers(self) -> tuple[LayerShape, ...]:
        shapes = self.projection.shapes
        return layer_shapes(Planned(one.name, one.o, one.i, *shapes[one.name]) for one in self.projection.blocks)

    def source(self, this: Pass) -> Iterator[Batch]:
        """Batches of a pass over texts or stored gradients."""
        start = 0
        for calls, count in self.batches:
            labels = self.labels[start : start + count] or [0] * count
            start += count
            if this.over == "texts":
                yield TextBatch(self.computer, Captured(dict(calls)), count, labels)
            else:
                v = self.computer.vectors(Captured(calls), count)
                alive = np.ones(count, dtype=np.bool_)
                yield StoredBatch(Gradient(dense=Dense.of(v)), alive, np.asarray(labels))

    def dense(self, name: str) -> np.ndarray:
        """Gradients of a layer, formed [n o i]."""
        found: list[np.ndarray] = []
        for calls, _ in self.batches:
            parts = [np.einsum("nso,nsi->noi", full(one), one.right.double().numpy()) for one in calls[name]]
            found.append(np.sum(parts, axis=0))
        return np.concatenate(found)

    def vectors(self) -> np.ndarray:
        return np.concatenate([one.vectors for one in self.source(Pass("all", "gradients", "after"))])

    def train(self) -> TrainVectors:
        return lambda: (one.vectors for one in self.source(Pass("all", "gradients", "after")))


def full(call: Call) -> np.ndarray:
    """Left factors, formed."""
    left = call.left.full() if isinstance(call.left, OneHot) else call.left
    return left.double().numpy()


def made(p: int | None = None, seed: int = 0, counts: Sequence[int] = (4, 3, 5)) -> Made:
    """Three layers: a plain one, one that is called twice, and a table with one-hot factors."""
    random = np.random.default_rng(seed)
    blocks = tuple(Block(name, (name,), "weight", o, i) for name, o, i in (("a", 5, 4), ("b", 3, 6), ("t", 7, 3)))

    def some(*shape: int) -> torch.Tensor:
        return torch.as_tensor(random.normal(size=shape), dtype=torch.float32)

    def call(block: Block, n: int, s: int) -> Call:
        ids = torch.as_tensor(random.integers(0, block.o, (n, s)))
        return Call(OneHot(ids, block.o) if block.name == "t" else some(n, s, block.o), some(n, s, block.i), 1)

    batches = [
        ({one.name: [call(one, n, 2) for _ in range(2 if one.name == "b" else 1)] for one in blocks}, n) for n in counts
    ]
    return Made(Projection(blocks, p, 0), batches)


@dataclass
class Files:
    """A checkpoint on disk."""

    path: Path
    moments: Path | None = None


def applied(fitter: Any, v: np.ndarray, table: Mapping[str, np.ndarray], of: Made) -> np.ndarray:
    """Multiply vectors."""
    return fitter.apply(Gradient(dense=Dense.of(v)), table, of.layers, of.train()).dense.v
