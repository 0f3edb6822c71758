"""What every preconditioner, refit and basis answers: which passes it needs, its sums per batch, and what it fits.

A pass reads data batch by batch. `partial` yields the sums of one batch, `reduce` turns the totals of a group of layers
into arrays, and `close` sees all layers. Arrays whose name begins with "_" are for later passes and never published.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar, Literal, Protocol, cast, runtime_checkable

from proponent.data import Examples
from proponent.gradients.gradient import Gradient
from proponent.method import Gradients
from proponent.method_parts import Projection, Spec
from proponent.preconditioners.batches import Arrays, Batch, Computer, LayerShape, Parts, Sums, TrainVectors

Over = Literal["texts", "gradients", "queries"]

Stage = Literal["model", "elementwise", "query"]
"""What is changed: the model or its projections, entries of gradients before a projection, or vectors of queries."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over data at each checkpoint; passes run in order, each with the arrays of those before."""

    name: str  # of the pass, for `partial` and `reduce`
    over: Over  # training texts through the model, finished shards of gradients, or the queries of the build
    when: Literal["before", "after"]  # before or after the training gradients are taken
    # seed of labels that are drawn from the model's own output; None for those of the training set
    sampled: int | None = None


@runtime_checkable
class BuildOptions(Protocol):
    """What of the options of a build matters here."""

    @property
    def second_moment(self) -> str:
        """Where second moments come from: "recorded", "optimizer" or "estimate"."""
        ...

    @property
    def queries(self) -> Examples | None:
        """The queries whose autocorrelation is mixed in."""
        ...


@runtime_checkable
class CheckpointFiles(Protocol):
    """A checkpoint on disk."""

    @property
    def path(self) -> Path:
        """Its folder."""
        ...

    @property
    def moments(self) -> Path | None:
        """The recorded second moments."""
        ...


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known once the model is loaded, before any gradient is taken."""

    classes: int | None  # of a classifier; None for other models
    table: tuple[int, int]  # size of the word embedding
    head: bool  # whether the gradient of a vocabulary head is taken
    layers: Sequence[LayerShape]  # the chosen layers
    checkpoints: Sequence[CheckpointFiles]  # those that are used
    options: BuildOptions  # how to build


@dataclass(frozen=True, slots=True)
class FitFacts:
    """What the notes of a checkpoint need beside its table."""

    step: str  # name of the checkpoint
    layers: Sequence[LayerShape]  # the layers of the plan
    queries: Examples | None = None  # those of the build


@dataclass(frozen=True, slots=True)
class Cost:
    """What a fitter adds to a build."""

    before: int = 0  # passes over the texts before the gradients, at each checkpoint
    after: int = 0  # passes over the texts after them
    scans: int = 0  # reads of the finished shards
    held: int = 0  # bytes in the table of a checkpoint
    unforeseen: str = ""  # what of it is not known beforehand, as a note


@runtime_checkable
class Fitter(Protocol):
    """Fits arrays at each checkpoint; the base of preconditioners, of the refit of a head and of bases."""

    stage: ClassVar[Stage] = "model"  # what is changed by what is fitted

    def check(self, facts: ModelFacts) -> None:
        """Refuse what this model or these options do not allow."""

    def passes(self, options: BuildOptions) -> tuple[Pass, ...]:
        """Which passes are needed."""
        ...

    def arrays(self, layers: Sequence[LayerShape]) -> tuple[str, ...]:
        """Names whose presence in a table says that it is fitted."""
        ...

    def recorded(self, checkpoint: CheckpointFiles, computer: Computer, options: BuildOptions) -> Arrays:
        """What is read from the checkpoint, without a pass."""
        return {}

    def partial(self, this: Pass, batch: Batch, known: Arrays, group: Sequence[LayerShape]) -> Parts:
        """Yield the sums of one batch for a group of layers, by name."""
        ...

    def reduce(self, this: Pass, sums: Sums, known: Arrays, group: Sequence[LayerShape]) -> Arrays:
        """Make arrays of the totals."""
        ...

    def close(self, this: Pass, known: Arrays, layers: Sequence[LayerShape]) -> Arrays:
        """Make the arrays that are about all layers."""
        return {}

    def held(self, this: Pass, layer: LayerShape) -> int:
        """Bytes of a layer's sums; 0 when the pass needs nothing of the layer."""
        return 8 * layer.size

    def install(self, computer: Computer, table: Arrays) -> None:
        """Put in place what changes the gradients that are taken."""

    def fingerprints(self, checkpoints: Mapping[str, CheckpointFiles], options: BuildOptions) -> dict[str, str]:
        """Hash what the arrays are made of beside the run and its training set; checkpoints by name."""
        return {}

    def source(self, options: BuildOptions) -> str:
        """Say where what is fitted comes from, for the plan."""
        return ""

    def describe(self, table: Arrays, facts: FitFacts) -> list[str]:
        """Say what was fitted at a checkpoint."""
        return []

    def appended(self, table: Arrays, batches: Iterable[Batch]) -> str:
        """Say what an appended source, given by its finished gradients, takes over from the first build."""
        return ""

    def cost(self, facts: ModelFacts) -> Cost:
        """Say what it adds to a build."""
        return counted(self.passes(facts.options))


class Preconditioner(Fitter, Protocol):
    """Multiplies gradients: their entries before a projection, or the vectors of queries."""

    accepts: ClassVar[frozenset[type]]  # forms that it multiplies; others are left as they are
    symmetric: ClassVar[bool] = (
        False  # whether it stands for a factor of either side, so that norms are measured with it
    )

    def apply(
        self, gradient: Gradient, table: Arrays, layers: Sequence[LayerShape], train: TrainVectors | None
    ) -> Gradient:
        """Multiply the gradients of queries; linear in them."""
        ...


def counted(passes: Sequence[Pass], held: int = 0, unforeseen: str = "") -> Cost:
    """The cost of some passes."""
    texts = [one.when for one in passes if one.over == "texts"]
    scans = sum(one.over == "gradients" for one in passes)
    return Cost(texts.count("before"), texts.count("after"), scans, held, unforeseen)


def fitter_of(spec: Spec, method: Gradients) -> Fitter:
    """Find what a spec does, by its kind."""
    kind = "principal-directions" if isinstance(spec, Projection) else str(getattr(spec, "kind", ""))
    module = import_module(f"proponent.preconditioners.{kind.replace('-', '_')}")
    return cast("Fitter", module.Fitter(spec, method))


def fitters_of(method: Spec) -> tuple[Fitter, ...]:
    """Find what the parts of a method do, in the order of work: refit, elementwise, basis, and what turns queries."""
    if not isinstance(method, Gradients):
        return ()
    projection = method.projection
    basis = projection if projection is not None and projection.basis == "principal" else None
    parts = (method.prepare, method.preconditioner("elementwise"), basis, method.preconditioner("query"))
    return tuple(fitter_of(one, method) for one in parts if one is not None)


def install_fitted(method: Spec, computer: Computer, table: Callable[[], Arrays]) -> None:
    """Put in place what was fitted before any gradient: a refitted last layer, second moments, directions."""
    fitters = [one for one in fitters_of(method) if one.stage != "query"]
    if computer.layers is not None and fitters:
        arrays = table()
        for one in fitters:
            one.install(computer, arrays)


def preconditioners_of(method: Spec) -> tuple[Preconditioner, ...]:
    """Find what the gradients of queries are multiplied with, in order."""
    if not isinstance(method, Gradients):
        return ()
    return tuple(cast("Preconditioner", fitter_of(one, method)) for one in method.preconditioners)
