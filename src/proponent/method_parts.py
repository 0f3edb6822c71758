"""Parts of a method, each a small spec that is looked up by its `kind`; `proponent.method` composes them.

The code of a part is looked up by its kind elsewhere: preconditioners/<kind>.py, dynamics/, models/tasks/.
"""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Reduction = Literal["mean", "sum"]
EmbeddingPath = Literal["exact", "input", "output"]
Stage = Literal["elementwise", "query"]
"""When a preconditioner is applied, in this order: elementwise before a projection, or to the query after it."""


def _kind_alone(value: Any) -> Any:
    """Accept a part written by its kind alone: "head" means {"kind": "head"}."""
    return {"kind": value} if isinstance(value, str) else value


def _names(value: Any) -> Any:
    """Accept layers written as one string, separated by commas."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return parts
    return tuple(one.strip() if isinstance(one, str) else one for one in cast("Iterable[object]", parts))


def _tuple(value: Any) -> Any:
    """Convert a JSON list, which pydantic passes on unchanged if a validator comes first."""
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


ByKind = BeforeValidator(_kind_alone)
LayerNames = Annotated[tuple[str, ...], BeforeValidator(_names)]
"""Groups of layers (all, embeddings, linear, blocks, quarter-1, last-block, head, ...) and patterns of module names."""


class Spec(BaseModel):
    """A part of a method, or a method."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# What is differentiated.


class Loss(Spec):
    """The task's loss, of training examples and of queries.

    Attributes:
        reduction: how the losses of a text's tokens are combined.
        temperature: a classifier's logits are divided by it before the loss; above 1, an example that the model already
            predicts well keeps a direction that is not noise.
    """

    kind: Literal["loss"] = "loss"
    reduction: Reduction = "mean"
    temperature: float = Field(default=1.0, gt=0.0, le=1e6)


class MaskedLoss(Spec):
    """The loss of a masked language model under masks that are sampled once per text."""

    kind: Literal["masked-loss"] = "masked-loss"
    reduction: Reduction = "mean"
    share: float = Field(default=0.15, gt=0.0, lt=1.0)
    seed: int = Field(default=0, ge=0)


class Logit(Spec):
    """For a query the logit of its label; for a training example its loss."""

    kind: Literal["logit"] = "logit"


AnyLoss = Annotated[Annotated[Loss | MaskedLoss, Field(discriminator="kind")], ByKind]
Objective = Annotated[Annotated[Loss | MaskedLoss | Logit, Field(discriminator="kind")], ByKind]


# Where gradients are computed.


class Equal(Spec):
    """Equal tokens are compared."""

    kind: Literal["equal"] = "equal"


class Similar(Spec):
    """Different tokens are also compared, one to one, when the cosine of their embeddings exceeds the threshold."""

    kind: Literal["similar"] = "similar"
    threshold: float = Field(ge=0.0, lt=1.0)


Match = Annotated[Annotated[Equal | Similar, Field(discriminator="kind")], ByKind]


class Direction(Spec):
    """Rows are scaled to directions: each token's row is divided by its norm, times 1 + log of the token's count.

    If the table is shared with the head, only the rows of the text's own tokens are used.

    Attributes:
        norm: power of its own norm that a row retains: 0 for unit rows, 1 for unscaled rows.
        repeats: weight of a token that occurs several times in a text: 1 + log of its count, or the same as once.
    """

    kind: Literal["by-direction"] = "by-direction"
    norm: float = Field(default=0.0, ge=0.0, le=1.0)
    repeats: Literal["log", "once"] = "log"


class EmbeddingRows(Spec):
    """Gradients of the word embedding, row by row.

    Attributes:
        path: for an embedding that the output head shares: the input path, the output path, or the exact sum of both.
            Without sharing the three are the same gradient and "exact" is reported.
        top: use only the rows of the `top` tokens of largest gradient norm, on both sides; None uses all.
        top_by: count distinct tokens (rows summed first) or positions (a repeated token counts several times).
        drop_special: exclude special tokens from the sum.
        match: which rows of two examples are multiplied: those of equal tokens, or of similar ones too.
        direction: how rows are scaled by their norm and count; None leaves them unscaled.
    """

    kind: Literal["embedding-rows"] = "embedding-rows"
    about: ClassVar[str] = "the word embedding"
    path: EmbeddingPath = "exact"
    top: int | None = Field(default=None, ge=1)
    top_by: Literal["token", "position"] = "token"
    drop_special: bool = False
    match: Match = Equal()
    direction: Annotated[Direction | None, ByKind] = None

    @property
    def selects_rows(self) -> bool:
        """Whether rows are chosen or matched, which is impossible for the gradient of a shared head."""
        return self.top is not None or self.drop_special or self.match.kind != "equal"


class Head(Spec):
    """Gradients of the last linear layer, in closed form; it has no fields."""

    kind: Literal["head"] = "head"
    about: ClassVar[str] = "the last layer"


class Projection(Spec):
    """Projection of a layer's gradient: sides wider than `width` are projected to that width.

    Attributes:
        width: size of a projected side; "auto" projects large models only, to 32.
        basis: random directions (products are unbiased), or the principal directions of the training set's
            gradients at each checkpoint (low rank: the largest part is exact, the rest is lost).
        seed: seed for the random directions.
    """

    width: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    basis: Literal["random", "principal"] = "random"
    seed: int = 0


class Layers(Spec):
    """Gradients of chosen layers, as one vector per example.

    Attributes:
        names: which layers: groups (all, embeddings, linear, blocks, quarter-1 ... quarter-4, last-block, attention,
            mlp, last-two, head) and glob patterns over names of modules.
        biases: also score biases, and gains of normalisations; by default weights only.
        projection: reduces the size of gradients; None leaves them unprojected.
    """

    kind: Literal["layers"] = "layers"
    about: ClassVar[str] = "many layers"
    names: LayerNames = ()
    biases: bool = False
    projection: Projection | None = None


Gradient = Annotated[Annotated[EmbeddingRows | Head | Layers, Field(discriminator="kind")], ByKind]


# Preparation of the model, and preconditioners of gradients.


class RefitHead(Spec):
    """The last layer is refitted with an L2 penalty before any gradient is computed.

    Attributes:
        penalty: factor of the squared norm of the layer's weights.
    """

    kind: Literal["refit-head"] = "refit-head"
    gradients: ClassVar[tuple[str, ...]] = ("layers",)
    penalty: float = Field(gt=0.0)


class Adam(Spec):
    """Division of the product, once, by the root of Adam's second moment.

    Attributes:
        epsilon: added to the second moment under the root, both as 32-bit floats.
    """

    kind: Literal["adam"] = "adam"
    stage: ClassVar[Stage] = "elementwise"
    gradients: ClassVar[tuple[str, ...]] = ("embedding-rows", "layers")
    epsilon: float = Field(default=1e-8, ge=1e-37, le=1e37)


class IDF(Spec):
    """Inverse document frequency: the row of each token is multiplied by log((n + 1) / (df + 1)), on both sides.

    Attributes:
        power: exponent of that logarithm; 0 weights all tokens equally.
    """

    kind: Literal["idf"] = "idf"
    stage: ClassVar[Stage] = "elementwise"
    gradients: ClassVar[tuple[str, ...]] = ("embedding-rows",)
    power: float = Field(default=1.0, ge=0.0, le=4.0)


class Damped(Spec):
    """A preconditioner of the query's gradient that inverts damped eigenvalues.

    Attributes:
        damping: added to every eigenvalue before inversion, as a factor.
        damping_of: what that factor multiplies: the mean eigenvalue of the layer, the top one, or 1 (absolute).
    """

    stage: ClassVar[Stage] = "query"
    gradients: ClassVar[tuple[str, ...]] = ("layers",)
    damping: float = Field(default=0.1, ge=0.0)
    damping_of: Literal["mean", "top", "absolute"] = "mean"


class Autocorrelation(Damped):
    """Inverse autocorrelation of the training gradients, combined with that of the build's queries (TrackStar).

    Attributes:
        damping: see `Damped`.
        damping_of: see `Damped`.
        eval_share: share of the autocorrelation that comes from the queries given to the build (TrackStar's lambda);
            "auto" chooses it so that both sides weigh the same at one eigenvalue. Without queries, the training set's
            autocorrelation is used alone.
        eval_component: index of that eigenvalue among the sorted ones of all layers: a share of them up to 1 (the
            paper: 1,000 of 65,536), or a number.
    """

    kind: Literal["autocorrelation"] = "autocorrelation"
    eval_share: Annotated[float, Field(ge=0.0, le=1.0)] | Literal["auto"] = "auto"
    eval_component: float = Field(default=1000 / 65_536, gt=0.0)


class GaussNewton(Damped):
    """Inverse of the exact Hessian of a classifier's head.

    Attributes:
        damping: see `Damped`.
        damping_of: see `Damped`.
    """

    kind: Literal["gauss-newton"] = "gauss-newton"


class EKFAC(Damped):
    """Inverse of EK-FAC's Fisher matrix.

    Attributes:
        damping: see `Damped`.
        damping_of: see `Damped`.
        fisher: source of the labels: those of the training set (empirical), or labels sampled from the
            model's own probabilities (sampled: the Fisher matrix proper).
        fisher_seed: seed for sampling those labels, combined with the text's own tokens.
    """

    kind: Literal["ekfac"] = "ekfac"
    fisher: Literal["empirical", "sampled"] = "empirical"
    fisher_seed: int = Field(default=0, ge=0)


class DataInf(Damped):
    """DataInf's closed form of an inverse Fisher matrix.

    Attributes:
        damping: see `Damped`.
        damping_of: see `Damped`.
    """

    kind: Literal["datainf"] = "datainf"


Preconditioner = Annotated[
    Annotated[Adam | IDF | Autocorrelation | GaussNewton | EKFAC | DataInf, Field(discriminator="kind")], ByKind
]


# Word overlap.


class WordOverlap(Spec):
    """Word overlap (BM25) that is added to the scores, signed by the label where there are classes.

    Both sides are divided by their standard deviation over the training set, for each query.

    Attributes:
        factor: what the word overlap is multiplied by before it is added.
    """

    kind: Literal["bm25"] = "bm25"
    factor: float = Field(default=0.5, gt=0.0, le=1e3)


# Solvers of an inverse-Hessian product.


class LiSSA(Spec):
    """A recursion over random batches: at most `depth` steps, averaged over independent `runs`."""

    kind: Literal["lissa"] = "lissa"
    depth: int = Field(default=500, ge=1)
    runs: int = Field(default=3, ge=1)


class ConjugateGradient(Spec):
    """Conjugate gradient: at most `depth` steps."""

    kind: Literal["cg"] = "cg"
    depth: int = Field(default=500, ge=1)


Solver = Annotated[Annotated[LiSSA | ConjugateGradient, Field(discriminator="kind")], ByKind]


# Checkpoints, and their weights.


class All(Spec):
    """Every checkpoint."""

    kind: Literal["all"] = "all"


class LastOfEachRun(Spec):
    """The last checkpoint of each run."""

    kind: Literal["last-of-each-run"] = "last-of-each-run"


class MidRun(Spec):
    """Checkpoints in the middle of each run: those nearest to evenly spaced points from 30 to 70 % of its steps.

    Attributes:
        count: number of points; fewer checkpoints are used where several points have the same nearest one.
    """

    kind: Literal["mid-run"] = "mid-run"
    count: int = Field(default=3, ge=1)


class Steps(Spec):
    """Checkpoints at these steps, of every run."""

    kind: Literal["steps"] = "steps"
    at: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), BeforeValidator(_tuple)]


Checkpoints = Annotated[Annotated[All | LastOfEachRun | MidRun | Steps, Field(discriminator="kind")], ByKind]


class LearningRate(Spec):
    """A checkpoint is weighted by its learning rate (TracInCP)."""

    kind: Literal["learning-rate"] = "learning-rate"


class Constant(Spec):
    """Every checkpoint has the same weight."""

    kind: Literal["constant"] = "constant"


Weights = Annotated[Annotated[LearningRate | Constant, Field(discriminator="kind")], ByKind]
