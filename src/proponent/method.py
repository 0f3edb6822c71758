"""Methods as data: a composition of small specs (`proponent.method_parts`), each looked up by its `kind`.

An index stores its whole method, so that it opens without the table of named methods. Parts that exclude each other are
refused when a method is created; parts that a model does not support are refused when the model is loaded.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, model_validator

from proponent.method_parts import (
    EKFAC,
    IDF,
    Adam,
    All,
    AnyLoss,
    Autocorrelation,
    Checkpoints,
    ConjugateGradient,
    Constant,
    Damped,
    DataInf,
    Direction,
    EmbeddingPath,
    EmbeddingRows,
    Equal,
    GaussNewton,
    Gradient,
    Head,
    LastOfEachRun,
    LayerNames,
    Layers,
    LearningRate,
    LiSSA,
    Logit,
    Loss,
    MaskedLoss,
    Match,
    MidRun,
    Objective,
    Preconditioner,
    Projection,
    Reduction,
    RefitHead,
    Similar,
    Solver,
    Spec,
    Stage,
    Steps,
    Weights,
    WordOverlap,
)

__all__ = [
    "EKFAC", "IDF", "KINDS", "METHOD", "Adam", "All", "AnyLoss", "Autocorrelation", "Baseline", "BaselineName",
    "Checkpoints", "ConjugateGradient", "Constant", "Damped", "DataInf", "Direction", "EmbeddingPath", "EmbeddingRows",
    "Equal",
    "GaussNewton", "Gradient", "Gradients", "Head", "LastOfEachRun", "LayerNames", "Layers", "LearningRate",
    "LiSSA", "Logit", "Loop", "Loss", "MaskedLoss", "Match", "Method", "MidRun", "Objective", "Preconditioner",
    "Projection", "Reduction", "RefitHead", "Retaken", "Scalar", "Similar", "Solver", "Spec", "Stage", "Steps", "Sum",
    "Term", "Weights", "WordOverlap", "check_parts", "similarity_of", "terms_of",
]  # fmt: skip

BaselineName = Literal["bm25", "tfidf-label", "embedding", "label", "random"]
Scalar = bool | int | float | str


class Named(Spec):
    """Common to all methods: the name that users type."""

    name: str = "custom"


class Gradients(Named):
    """Products of stored gradients, summed over checkpoints.

    Attributes:
        name: as users type it.
        gradient: where gradients are computed: rows of the word embedding, the head, or chosen layers.
        objective: what is differentiated: the loss, the masked loss, or for queries the logit of their label.
        prepare: change to the model before any gradient is computed; None leaves it as trained.
        preconditioners: what gradients are multiplied by: at most adam, followed by at most one other.
        normalize: scale gradients to norm 1 at each checkpoint: of training examples ("train"), or of queries as well
            ("both": the product is a cosine).
        checkpoints: which checkpoints of the run are used.
        weights: the factor of a checkpoint.
        overlap: word overlap that is added to the scores; None adds none.
    """

    kind: Literal["gradients"] = "gradients"
    gradient: Gradient = EmbeddingRows()
    objective: Objective = Loss()
    prepare: RefitHead | None = None
    preconditioners: tuple[Preconditioner, ...] = ()
    normalize: Literal["none", "train", "both"] = "none"
    checkpoints: Checkpoints = All()
    weights: Weights = LearningRate()
    overlap: WordOverlap | None = None

    @model_validator(mode="after")
    def _check(self) -> "Gradients":
        check_parts(self)
        return self

    def preconditioner(self, stage: Stage) -> Preconditioner | None:
        """Return the preconditioner of a stage: "elementwise" (before a projection) or "query" (after it)."""
        return next((one for one in self.preconditioners if one.stage == stage), None)

    @property
    def scales_train(self) -> bool:
        """Whether training gradients are scaled to norm 1."""
        return self.normalize != "none"

    @property
    def scales_queries(self) -> bool:
        """Whether query gradients are scaled to norm 1."""
        return self.normalize == "both"

    @property
    def projection(self) -> Projection | None:
        """The projection; None for unprojected gradients."""
        return self.gradient.projection if isinstance(self.gradient, Layers) else None


class Retaken(Named):
    """An inverse-Hessian product per query; only features are stored, gradients are computed at query time (FastIF).

    Attributes:
        name: as users type it.
        names: which layers, as in `Layers`; their gradients are not projected.
        biases: also score biases, and gains of normalisations.
        objective: what is differentiated.
        solver: of the product with the inverse Hessian.
        damping: added to the Hessian's eigenvalues, as a factor of the scale.
        scale: what LiSSA divides the Hessian by; "auto" is 3 times the largest eigenvalue seen.
        sample: training texts per Hessian product; None uses 8 per step for LiSSA, 256 for conjugate gradient.
        seed: seed for sampling those texts.
        candidates: the nearest training examples that a query is compared with: a share of them up to 1, or a number.
        nearest: nearness: features (mean last hidden states), or signal (a classifier's error signals times the cosine
            of the features, in absolute value); "auto" is signal for classifiers.
        checkpoints: the last of each run, since the Hessian belongs to the end of training.
    """

    kind: Literal["retaken"] = "retaken"
    names: LayerNames = ()
    biases: bool = False
    objective: AnyLoss = Loss()
    solver: Solver = LiSSA()
    damping: float = Field(default=0.1, ge=0.0)
    scale: float | Literal["auto"] = "auto"
    sample: int | None = Field(default=None, ge=1)
    seed: int = 0
    candidates: float = Field(default=1000.0, gt=0.0)
    nearest: Literal["auto", "signal", "features"] = "auto"
    checkpoints: LastOfEachRun = LastOfEachRun()


class Baseline(Named):
    """A score without gradients.

    Attributes:
        name: as users type it.
        which: the lexical, feature or label score.
        objective: the loss that is applied to the model's outputs.
        checkpoints: which checkpoints of the run are read.
    """

    kind: Literal["baseline"] = "baseline"
    which: BaselineName
    objective: AnyLoss = Loss()
    checkpoints: Checkpoints = All()


class Loop(Named):
    """A method with its own loop over the recorded training, which is not stored in an index.

    Attributes:
        name: as users type it.
        which: the module that runs the loop.
        settings: settings of that module, which validates them.
    """

    kind: Literal["loop"] = "loop"
    which: str
    settings: dict[str, Scalar] = Field(default_factory=dict[str, Scalar])


Term = Annotated[Gradients | Retaken | Baseline, Field(discriminator="kind")]


class Sum(Named):
    """The weighted sum of the z-scored scores of several methods.

    Attributes:
        name: as users type it.
        terms: the methods.
        factors: one per term; empty means 1 for every term.
    """

    kind: Literal["sum"] = "sum"
    terms: tuple[Term, ...] = Field(min_length=1)
    factors: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "Sum":
        if self.factors and len(self.factors) != len(self.terms):
            raise ValueError(
                f"{self.name} has {len(self.factors)} factors for {len(self.terms)} terms: give one for each, or none"
            )
        return self


Method = Annotated[Gradients | Retaken | Baseline | Loop | Sum, Field(discriminator="kind")]
METHOD: TypeAdapter[Gradients | Retaken | Baseline | Loop | Sum] = TypeAdapter(Method)
"""Reads and writes any method."""


def _specs(of: type[Spec]) -> Iterator[type[Spec]]:
    for one in of.__subclasses__():
        yield one
        yield from _specs(one)


KINDS: dict[str, type[Spec]] = {
    one.model_fields["kind"].default: one for one in _specs(Spec) if "kind" in one.model_fields
}
"""Every part and method by its kind."""


def terms_of(method: Method) -> tuple[Term, ...]:
    """List the stored terms: the terms of a sum, or the method itself; none for a loop."""
    if isinstance(method, Loop):
        return ()
    return method.terms if isinstance(method, Sum) else (method,)


def similarity_of(method: Method) -> float | None:
    """Cosine of embeddings above which different tokens are compared; None if only equal tokens are compared."""
    gradient = method.gradient if isinstance(method, Gradients) else None
    match = gradient.match if isinstance(gradient, EmbeddingRows) else None
    return match.threshold if isinstance(match, Similar) else None


def check_parts(method: Gradients) -> None:
    """Refuse parts that exclude each other; the only place for rules between two parts."""
    gradient, name = method.gradient, method.name
    parts = [*method.preconditioners, *([] if method.prepare is None else [method.prepare])]
    unlike = next((part for part in parts if gradient.kind not in part.gradients), None)
    if unlike is not None:
        raise ValueError(
            f"{name} uses gradients of {gradient.about}, and {unlike.kind} is for gradients of kind "
            f"{' or '.join(unlike.gradients)}: choose another gradient, such as --method tracin-layers, or leave "
            f"{unlike.kind} out"
        )
    if isinstance(gradient, Head) and method.scales_train:
        raise ValueError(
            f"{name} uses gradients of the last layer, and normalize={method.normalize} is for the word embedding and "
            "for layers: leave normalize out, or choose --method grad-cos with --layers head"
        )
    exact = next((part for part in parts if isinstance(part, GaussNewton | RefitHead)), None)
    if isinstance(method.objective, Loss) and method.objective.temperature != 1 and exact is not None:
        raise ValueError(
            f"{name} has {exact.kind}, which is computed for the loss as trained: leave temperature out, or choose "
            "another method, such as --method ekfac"
        )
    stages = [one.stage for one in method.preconditioners]
    if stages != sorted(set(stages)):
        raise ValueError(
            f"{name} has the preconditioners {' and '.join(one.kind for one in method.preconditioners)}: use at most "
            "adam followed by one other"
        )
