"""Methods as data: a composition of small specs, each found by its `kind`. Imports types and errors only.

What a spec does is found by its kind elsewhere: preconditioners/<kind>.py, dynamics/<loop>.py, models/tasks/.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

Reduction = Literal["mean", "sum"]
EmbeddingPath = Literal["exact", "input", "output"]
BaselineName = Literal["bm25", "tfidf-label", "embedding", "label", "random"]
Scalar = bool | int | float | str


def _kind_alone(value: Any) -> Any:
    """A spec may be written by its kind alone: "head" is {"kind": "head"}."""
    return {"kind": value} if isinstance(value, str) else value


def _names(value: Any) -> Any:
    """Layers may be written in one text, with commas."""
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(one.strip() if isinstance(one, str) else one for one in parts) if isinstance(parts, list) else parts


ByKind = BeforeValidator(_kind_alone)


class Spec(BaseModel):
    """A part of a method."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# What is differentiated.


class Loss(Spec):
    """The task's loss, of rows and of queries."""

    kind: Literal["loss"] = "loss"
    reduction: Reduction = "mean"


class MaskedLoss(Spec):
    """The loss of a masked language model under masks that are drawn once per text."""

    kind: Literal["masked-loss"] = "masked-loss"
    reduction: Reduction = "mean"
    share: float = Field(default=0.15, gt=0.0, lt=1.0)
    seed: int = Field(default=0, ge=0)


class Logit(Spec):
    """Of a query the logit of its label; of a training example its loss."""

    kind: Literal["logit"] = "logit"


Objective = Annotated[Annotated[Loss | MaskedLoss | Logit, Field(discriminator="kind")], ByKind]


# Where gradients are taken.


class Equal(Spec):
    """Equal tokens are compared."""

    kind: Literal["equal"] = "equal"


class Similar(Spec):
    """Different tokens are compared too, one to one, when the cosine of their embeddings exceeds the threshold."""

    kind: Literal["similar"] = "similar"
    threshold: float = Field(ge=0.0, lt=1.0)


Match = Annotated[Annotated[Equal | Similar, Field(discriminator="kind")], ByKind]


class EmbeddingRows(Spec):
    """The word embedding, row by row."""

    kind: Literal["embedding-rows"] = "embedding-rows"
    about: ClassVar[str] = "the word embedding"
    path: EmbeddingPath = "exact"
    top: int | None = Field(default=None, ge=1)
    top_by: Literal["token", "position"] = "token"
    drop_special: bool = False
    match: Match = Equal()

    @property
    def selects_rows(self) -> bool:
        """Whether rows are chosen or matched, which a shared head's gradient cannot be."""
        return self.top is not None or self.drop_special or self.match.kind != "equal"


class Head(Spec):
    """The last linear layer, in closed form."""

    kind: Literal["head"] = "head"
    about: ClassVar[str] = "the last layer"


class Projection(Spec):
    """Sides of a layer wider than `width` are projected to it; "auto" projects large models only."""

    width: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    basis: Literal["random", "principal"] = "random"
    seed: int = 0


class Layers(Spec):
    """Chosen layers, as one vector per example; no projection keeps them in full."""

    kind: Literal["layers"] = "layers"
    about: ClassVar[str] = "many layers"
    names: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    biases: bool = False
    projection: Projection | None = None


Gradient = Annotated[Annotated[EmbeddingRows | Head | Layers, Field(discriminator="kind")], ByKind]


# What is done before and to gradients.


class RefitHead(Spec):
    """The last layer is fitted again under an L2 penalty before any gradient is taken."""

    kind: Literal["refit-head"] = "refit-head"
    gradients: ClassVar[tuple[str, ...]] = ("layers",)
    penalty: float = Field(gt=0.0)


class Adam(Spec):
    """Division by the root of Adam's second moment."""

    kind: Literal["adam"] = "adam"
    stage: ClassVar[str] = "elementwise"
    gradients: ClassVar[tuple[str, ...]] = ("embedding-rows", "layers")
    epsilon: float = Field(default=1e-8, gt=0.0)


class Damped(Spec):
    """A preconditioner that inverts damped eigenvalues."""

    stage: ClassVar[str] = "query"
    gradients: ClassVar[tuple[str, ...]] = ("layers",)
    damping: float = Field(default=0.1, ge=0.0)
    damping_of: Literal["mean", "top", "absolute"] = "mean"


class Autocorrelation(Damped):
    """Inverse autocorrelation of the training gradients, mixed with that of the build's queries (TrackStar)."""

    kind: Literal["autocorrelation"] = "autocorrelation"
    eval_share: Annotated[float, Field(ge=0.0, le=1.0)] | Literal["auto"] = "auto"
    eval_component: float = Field(default=1000 / 65_536, gt=0.0)


class GaussNewton(Damped):
    """Inverse of the exact Hessian of a classifier's head."""

    kind: Literal["gauss-newton"] = "gauss-newton"


class EKFAC(Damped):
    """Inverse of EK-FAC's Fisher matrix; `sampled` draws the labels from the model."""

    kind: Literal["ekfac"] = "ekfac"
    fisher: Literal["empirical", "sampled"] = "empirical"
    fisher_seed: int = Field(default=0, ge=0)


class DataInf(Damped):
    """DataInf's closed form."""

    kind: Literal["datainf"] = "datainf"


Preconditioner = Annotated[
    Annotated[Adam | Autocorrelation | GaussNewton | EKFAC | DataInf, Field(discriminator="kind")], ByKind
]


# Checkpoints, and what multiplies them.


class All(Spec):
    """Every checkpoint."""

    kind: Literal["all"] = "all"


class LastOfEachRun(Spec):
    """The last checkpoint of each run."""

    kind: Literal["last-of-each-run"] = "last-of-each-run"


class Steps(Spec):
    """Checkpoints at these steps, of every run."""

    kind: Literal["steps"] = "steps"
    steps: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)


Checkpoints = Annotated[Annotated[All | LastOfEachRun | Steps, Field(discriminator="kind")], ByKind]


class LearningRate(Spec):
    """A checkpoint weighs its learning rate."""

    kind: Literal["learning-rate"] = "learning-rate"


class Constant(Spec):
    """Every checkpoint weighs the same."""

    kind: Literal["constant"] = "constant"


Weights = Annotated[Annotated[LearningRate | Constant, Field(discriminator="kind")], ByKind]


# Methods.


class Named(Spec):
    """What every method has: the name that users type."""

    name: str = "custom"


class Gradients(Named):
    """Products of stored gradients."""

    kind: Literal["gradients"] = "gradients"
    gradient: Gradient = EmbeddingRows()
    objective: Objective = Loss()
    prepare: RefitHead | None = None
    preconditioners: tuple[Preconditioner, ...] = ()
    normalize: Literal["none", "train", "both"] = "none"
    checkpoints: Checkpoints = All()
    weights: Weights = LearningRate()

    @model_validator(mode="after")
    def _check(self) -> "Gradients":
        check_parts(self)
        return self

    def preconditioner(self, stage: str) -> "Preconditioner | None":
        """The preconditioner of a stage: "elementwise" (before a projection) or "query" (after it)."""
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
        """The projection; None for gradients in full."""
        return self.gradient.projection if isinstance(self.gradient, Layers) else None


class LiSSA(Spec):
    """A recursion over random batches."""

    kind: Literal["lissa"] = "lissa"
    depth: int = Field(default=500, ge=1)
    runs: int = Field(default=3, ge=1)


class ConjugateGradient(Spec):
    """Conjugate gradient."""

    kind: Literal["cg"] = "cg"
    depth: int = Field(default=500, ge=1)


Solver = Annotated[Annotated[LiSSA | ConjugateGradient, Field(discriminator="kind")], ByKind]


class Retaken(Named):
    """An inverse-Hessian product per query; gradients are taken again, features alone are stored (FastIF)."""

    kind: Literal["retaken"] = "retaken"
    names: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    biases: bool = False
    objective: Objective = Loss()
    solver: Solver = LiSSA()
    damping: float = Field(default=0.1, ge=0.0)
    scale: float | Literal["auto"] = "auto"
    sample: int | None = Field(default=None, ge=1)
    seed: int = 0
    candidates: float = Field(default=1000.0, gt=0.0)
    nearest: Literal["auto", "signal", "features"] = "auto"
    checkpoints: LastOfEachRun = LastOfEachRun()


class Baseline(Named):
    """A score without gradients."""

    kind: Literal["baseline"] = "baseline"
    which: BaselineName
    objective: Objective = Loss()
    checkpoints: Checkpoints = All()


class Loop(Named):
    """A method with a loop of its own over the recorded training; its module checks the settings."""

    kind: Literal["loop"] = "loop"
    which: str
    settings: dict[str, Scalar] = {}


Term = Annotated[Gradients | Retaken | Baseline, Field(discriminator="kind")]


class Sum(Named):
    """The sum of the z-scored scores of several methods, each times its weight."""

    kind: Literal["sum"] = "sum"
    terms: tuple[Term, ...] = Field(min_length=1)
    factors: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "Sum":
        if self.factors and len(self.factors) != len(self.terms):
            raise ValueError(f"{len(self.factors)} factors for {len(self.terms)} terms: give one for each, or none")
        return self


Method = Annotated[Gradients | Retaken | Baseline | Loop | Sum, Field(discriminator="kind")]
METHOD: TypeAdapter[Gradients | Retaken | Baseline | Loop | Sum] = TypeAdapter(Method)


def terms_of(method: Gradients | Retaken | Baseline | Loop | Sum) -> tuple[Gradients | Retaken | Baseline, ...]:
    """What an index stores: the terms of a sum, or the method itself; nothing of a loop."""
    return () if isinstance(method, Loop) else method.terms if isinstance(method, Sum) else (method,)


def check_parts(method: Gradients) -> None:
    """Refuse parts that exclude each other; the one place for part x part."""
    for problem in _problems(method):
        raise ValueError(problem)


def _problems(method: Gradients) -> Iterator[str]:
    gradient, name = method.gradient, method.name
    parts = [*method.preconditioners, *([] if method.prepare is None else [method.prepare])]
    for part in parts:
        if gradient.kind not in part.gradients:
            yield (
                f"{name} is about {gradient.about}, and {part.kind} is for gradients of kind "
                f"{' or '.join(part.gradients)}: choose one of the two, such as --method tracin-layers, or leave "
                f"{part.kind} out"
            )
    if isinstance(gradient, Head) and method.scales_train:
        yield (
            f"{name} is about the last layer, and normalize={method.normalize} is for the word embedding and for "
            "layers: leave one out, or choose --method grad-cos with --layers head"
        )
    stages = [one.stage for one in method.preconditioners]
    if stages != sorted(stages) or len(stages) != len(set(stages)):
        yield (
            f"{name} has the preconditioners {', '.join(one.kind for one in method.preconditioners)}: at most adam and, "
            "after it, one other"
        )
