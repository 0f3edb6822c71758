"""The interface of every preconditioner, refit and basis: the passes it needs, its sums per batch, and what it fits.

A pass reads data batch by batch. `partial` yields the sums of one batch, `reduce` converts the totals of a group of
layers to arrays, and `close` sees all layers. Arrays whose name begins with "_" serve later passes and are not stored.
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
"""What changes: the model or its projections, entries of gradients before a projection, or query vectors."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over data at each checkpoint; passes run in order, each with the arrays of the earlier ones."""

    name: str  # name of the pass, for `partial` and `reduce`
    over: Over  # training texts through the model, finished shards of gradients, or the queries of the build
    when: Literal["before", "after"]  # before or after the training gradients are computed
    # seed for sampling labels from the model's own output; None for the labels of the training set
    sampled: int | None = None


@runtime_checkable
class BuildOptions(Protocol):
    """The build options that fitters need."""

    @property
    def second_moment(self) -> str:
        """Where second moments come from: "recorded", "optimizer" or "estimate"."""
        ...

    @property
    def queries(self) -> Examples | None:
        """The queries whose autocorrelation is combined with that of the training set."""
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
    """Facts about the loaded model, before any gradient is computed."""

    classes: int | None  # number of classes of a classifier; None for other models
    table: tuple[int, int]  # size of the word embedding
    head: bool  # whether the gradient of a vocabulary head is computed
    layers: Sequence[LayerShape]  # the chosen layers
    checkpoints: Sequence[CheckpointFiles]  # the checkpoints in use
    options: BuildOptions  # how to build


@dataclass(frozen=True, slots=True)
class FitFacts:
    """Inputs of a checkpoint's notes other than its table."""

    step: str  # name of the checkpoint
    layers: Sequence[LayerShape]  # the layers of the plan
    queries: Examples | None = None  # the queries given to the build


@dataclass(frozen=True, slots=True)
class Cost:
    """What a fitter adds to a build."""

    before: int = 0  # passes over the texts before the gradients, at each checkpoint
    after: int = 0  # passes over the texts after them
    scans: int = 0  # reads of the finished shards
    held: int = 0  # bytes stored in the table of a checkpoint
    unforeseen: str = ""  # a note on costs that are not known beforehand


@runtime_checkable
class Fitter(Protocol):
    """Fits arrays at each checkpoint; the base of preconditioners, of the refit of a head and of bases."""

    stage: ClassVar[Stage] = "model"  # the part of the computation that the fitted arrays change
    repeated: ClassVar[Pass | None] = None  # the pass over finished gradients that a merge repeats
    outdated: ClassVar[str] = ""  # how the notes begin that such a pass makes untrue

    def check(self, facts: ModelFacts) -> None:
        """Refuse what this model or these options do not allow."""

    def passes(self, options: BuildOptions) -> tuple[Pass, ...]:
        """Which passes are needed."""
        ...

    def arrays(self, layers: Sequence[LayerShape]) -> tuple[str, ...]:
        """Array names whose presence in a table means that fitting is done."""
        ...

    def recorded(self, checkpoint: CheckpointFiles, computer: Computer, options: BuildOptions) -> Arrays:
        """Arrays that are read from the checkpoint, without a pass."""
        return {}

    def partial(self, this: Pass, batch: Batch, known: Arrays, group: Sequence[LayerShape]) -> Parts:
        """Yield the sums of one batch for a group of layers, by name."""
        ...

    def reduce(self, this: Pass, sums: Sums, known: Arrays, group: Sequence[LayerShape]) -> Arrays:
        """Convert the totals to arrays."""
        ...

    def close(self, this: Pass, known: Arrays, layers: Sequence[LayerShape]) -> Arrays:
        """Compute the arrays that concern all layers."""
        return {}

    def held(self, this: Pass, layer: LayerShape) -> int:
        """Bytes of a layer's sums; 0 if the pass needs nothing of the layer."""
        return 8 * layer.size

    def install(self, computer: Computer, table: Arrays) -> None:
        """Install the arrays that change how gradients are computed."""

    def fingerprints(self, checkpoints: Mapping[str, CheckpointFiles], options: BuildOptions) -> dict[str, str]:
        """Hash the inputs other than the run and its training set; checkpoints by name."""
        return {}

    def source(self, options: BuildOptions) -> str:
        """Describe the source of the fitted arrays, for the plan."""
        return ""

    def describe(self, table: Arrays, facts: FitFacts) -> list[str]:
        """Describe what was fitted at a checkpoint."""
        return []

    def appended(self, table: Arrays, batches: Iterable[Batch]) -> str:
        """Describe what an appended source, given by its finished gradients, reuses from the first build."""
        return ""

    def cost(self, facts: ModelFacts) -> Cost:
        """Describe what it adds to a build."""
        return counted(self.passes(facts.options))


class Preconditioner(Fitter, Protocol):
    """Multiplies gradients: their entries before a projection, or the query vectors."""

    accepts: ClassVar[frozenset[type]]  # forms that it multiplies; other forms are left unchanged
    symmetric: ClassVar[bool] = (
        False  # whether it is a product of one factor per side, so that norms include the factor
    )

    def apply(
        self, gradient: Gradient, table: Arrays, layers: Sequence[LayerShape], train: TrainVectors | None
    ) -> Gradient:
        """Multiply query gradients; linear in them."""
        ...


def counted(passes: Sequence[Pass], held: int = 0, unforeseen: str = "") -> Cost:
    """The cost of some passes."""
    texts = [one.when for one in passes if one.over == "texts"]
    scans = sum(one.over == "gradients" for one in passes)
    return Cost(texts.count("before"), texts.count("after"), scans, held, unforeseen)


def fitter_of(spec: Spec, method: Gradients) -> Fitter:
    """Look up the fitter of a spec by its kind."""
    kind = "principal-directions" if isinstance(spec, Projection) else str(getattr(spec, "kind", ""))
    module = import_module(f"proponent.preconditioners.{kind.replace('-', '_')}")
    return cast("Fitter", module.Fitter(spec, method))


def fitters_of(method: Spec) -> tuple[Fitter, ...]:
    """List the fitters of a method in order of work: refit, elementwise, basis, query preconditioner."""
    if not isinstance(method, Gradients):
        return ()
    projection = method.projection
    basis = projection if projection is not None and projection.basis == "principal" else None
    parts = (method.prepare, method.preconditioner("elementwise"), basis, method.preconditioner("query"))
    return tuple(fitter_of(one, method) for one in parts if one is not None)


def install_fitted(method: Spec, computer: Computer, table: Callable[[], Arrays]) -> None:
    """Install what was fitted before any gradient: a refitted last layer, second moments, directions."""
    fitters = [one for one in fitters_of(method) if one.stage != "query"]
    if computer.layers is not None and fitters:
        arrays = table()
        for one in fitters:
            one.install(computer, arrays)


def preconditioners_of(method: Spec) -> tuple[Preconditioner, ...]:
    """List the preconditioners of query gradients, in order."""
    if not isinstance(method, Gradients):
        return ()
    return tuple(cast("Preconditioner", fitter_of(one, method)) for one in method.preconditioners)
