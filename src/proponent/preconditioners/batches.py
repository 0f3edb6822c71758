"""Inputs of fitters: batches of texts or gradients, the layers they belong to, and totals of sums.

Torch tensors are typed `Any` here, so that an index can be read without torch.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.gradients.gradient import Gradient

EACH = "each."
"""Prefix of sums whose batches are concatenated."""

LARGEST = "largest."
"""Prefix of sums whose maximum is stored."""

Arrays = Mapping[str, np.ndarray]

Sums = dict[str, np.ndarray]

Parts = Iterator[tuple[str, np.ndarray]]
"""Sums of a batch by name, one at a time, so that only one is in memory in addition to the totals."""

TrainVectors = Callable[[], Iterator[Float[np.ndarray, "m p"]]]
"""Reads the vectors of the training set at a checkpoint, shard by shard."""


@runtime_checkable
class Planned(Protocol):
    """A layer of a plan."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def o(self) -> int: ...  # noqa: D102
    @property
    def i(self) -> int: ...  # noqa: D102
    @property
    def kept_o(self) -> int: ...  # noqa: D102
    @property
    def kept_i(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class LayerShape:
    """A layer whose gradient is a slice of every example's vector."""

    at: int  # index of the layer
    name: str  # its name
    o: int  # rows of its gradient
    i: int  # columns of its gradient
    kept_o: int  # stored rows, projected or not
    kept_i: int  # stored columns
    start: int  # start of its slice

    @property
    def size(self) -> int:
        """Number of stored values."""
        return self.kept_o * self.kept_i

    @property
    def cut(self) -> slice:
        """Its slice of the vectors."""
        return slice(self.start, self.start + self.size)

    @property
    def full(self) -> bool:
        """Whether no side of it is projected."""
        return (self.kept_o, self.kept_i) == (self.o, self.i)


def layer_shapes(planned: Iterable[Planned]) -> tuple[LayerShape, ...]:
    """Number the layers of a plan and compute their slices."""
    found: list[LayerShape] = []
    start = 0
    for at, one in enumerate(planned):
        found.append(LayerShape(at, one.name, one.o, one.i, one.kept_o, one.kept_i, start))
        start += found[-1].size
    return tuple(found)


@runtime_checkable
class Computer(Protocol):
    """Computes gradients at one checkpoint."""

    elementwise: Any  # by layer, the factor of the gradients' entries; None for no factor

    @property
    def model(self) -> Any:
        """The loaded checkpoint."""
        ...

    @property
    def table(self) -> tuple[int, int]:
        """Size of the word embedding."""
        ...

    @property
    def layers(self) -> Any:
        """The chosen layers and their layout; None for gradients of the word embedding or the last layer."""
        ...

    def vectors(self, captured: Any, count: int) -> Float[np.ndarray, "n p"]:
        """Arrange captured factors as vectors."""
        ...


@runtime_checkable
class CapturedLayers(Protocol):
    """Factors that a pass through the model captured."""

    @property
    def calls(self) -> Mapping[str, Sequence[Any]] | None:
        """Factors of the gradients, by layer."""
        ...


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Texts that went through the model in one batch."""

    computer: Computer  # the gradient computer of this checkpoint
    captured: CapturedLayers  # the factors of their gradients
    count: int  # how many texts
    labels: Sequence[int]  # their classes

    @property
    def projection(self) -> Any:
        """The layout of the layers."""
        return self.computer.layers.projection

    @property
    def calls(self) -> Mapping[str, Sequence[Any]]:
        """Factors of the gradients, by layer."""
        return self.captured.calls or {}


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """Computed gradients: those of one shard, or of all queries."""

    gradient: Gradient  # rows or vectors
    alive: Bool[np.ndarray, " m"]  # which examples have a finite gradient
    labels: Int[np.ndarray, " m"]  # their classes
    probabilities: Float[np.ndarray, "m l"] | None = None  # of a classifier
    table: tuple[int, int] = (0, 0)  # size of the word embedding

    @property
    def vectors(self) -> Float[np.ndarray, "a p"]:
        """The vectors of the examples with a finite gradient."""
        assert self.gradient.dense is not None
        return self.gradient.dense.v


Batch = TextBatch | StoredBatch


class Totals:
    """Adds the sums of batches up."""

    # Sums of the same name are added. Arrays whose names begin with "each." are concatenated. For names that begin
    # with "largest." the maximum is stored.

    def __init__(self) -> None:
        self._added: Sums = {}
        self._each: defaultdict[str, list[np.ndarray]] = defaultdict(list)

    def add(self, parts: Parts) -> None:
        """Add the sums of a batch."""
        for name, value in parts:
            if name.startswith(EACH):
                self._each[name].append(value)
            elif name not in self._added:
                self._added[name] = np.array(value)
            elif name.startswith(LARGEST):
                np.maximum(self._added[name], value, out=self._added[name])
            else:
                self._added[name] += value

    def sums(self) -> Sums:
        """The totals."""
        return self._added | {name: np.concatenate(parts) for name, parts in self._each.items()}
