"""A Recipe: an attribution method as data.

A named method is a row of the table in `proponent.methods`: which gradient is taken (layer, path, loss), what is kept
of it (top, project), how it is preconditioned (preconditioner, curvature, solver), how two of them are compared
(similarity, synonyms), and how checkpoints are weighted; or which baseline scores instead. The index keeps the recipe
whole, so that an index opens without the table.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Layer = Literal["embedding", "head", "layers", "none"]
Path = Literal["exact", "input", "output"]


class Recipe(BaseModel):
    """One way to score training examples against a query.

    Attributes:
        name: as users type it.
        layer: whose gradient: the word embedding, the last linear layer, the layers named below, or none (a baseline).
        layers: which layers: groups (all, embeddings, linear, blocks, quarter-1 ... quarter-4, last-block, attention,
            mlp, last-two, head) and glob patterns over names of modules.
        biases: also score biases, and gains of normalisations; by default weights alone.
        project: sides of a layer wider than this are projected to it at random; None keeps every gradient in full,
            "auto" does so for small models and projects to 32 otherwise.
        basis: what sides are projected to: random directions (products hold on average), or the leading directions of
            the training set's gradients at each checkpoint (low rank: the largest part is kept exactly, the rest lost).
        seed: of the random projections.
        path: for an embedding that the output head shares: the input path, the output path, or the exact sum of both.
            Without sharing the three are the same gradient and "exact" is reported.
        top: keep the rows of the `top` tokens of largest gradient norm, on both sides; None keeps all.
        top_by: count distinct tokens (rows summed first) or positions (a repeated token takes several places).
        drop_special: leave special tokens out of the sum.
        synonym_threshold: match different tokens, one to one, whose embeddings have a cosine above it; None matches
            equal tokens only.
        preconditioner: divide the product once by the root of Adam's second moment, or not at all.
        epsilon: added to the second moment under the root.
        curvature: what the query's gradients of layers are multiplied with: nothing, the inverse of the training
            gradients' autocorrelation (TrackStar), of the exact Hessian of a classifier's head (ggn), of EK-FAC's
            Fisher matrix, or DataInf's closed form.
        damping: what is added to every eigenvalue before it is inverted, as a factor.
        damping_of: what that factor multiplies: the mean eigenvalue of the layer, the top one, or 1 (absolute).
        fisher: whose labels EK-FAC's Fisher matrix is made of: those of the training set (empirical), or labels drawn
            from the model's own probabilities (sampled: the Fisher matrix proper).
        fisher_seed: of that draw, with the text's own tokens.
        eval_share: how much of the autocorrelation is that of queries which were given to the build (TrackStar's
            lambda); "auto" chooses it so that both sides weigh the same at one eigenvalue. Without queries all of it is
            the training set's.
        eval_component: which eigenvalue that is, among the sorted ones of all layers: a share of them up to 1 (the
            paper: 1,000 of 65,536), or a number.
        solver: an inverse-Hessian product per query, over the layers in full: by LiSSA or conjugate gradient. The index
            then keeps features alone, and damping is a factor of the scale.
        depth: steps of the solver, at most.
        runs: independent runs of LiSSA that are averaged.
        sample: training texts of one Hessian; None takes 8 a step for LiSSA, 256 for conjugate gradient.
        scale: what LiSSA divides the Hessian by; "auto" is 3 times the largest eigenvalue seen.
        candidates: the nearest training examples that a query is compared with: a share of them up to 1, or a number.
        nearest: by what: features (mean last hidden states), or signal (a classifier's error signals times the cosine
            of the features, in absolute value); "auto" is signal for classifiers.
        measure: what is asked of a query: its loss, or the logit of its label (how much the example pushes it up).
        refit: L2 penalty under which the last layer is refitted before gradients are taken; None leaves it as trained.
        checkpoints: every checkpoint of the run, or the last one alone.
        unit_norm: scale every training example's (preconditioned) gradient to norm 1 at each checkpoint.
        similarity: product of two gradients, or of two gradients of norm 1 (both sides, at each checkpoint).
        weights: what multiplies a checkpoint: its learning rate (TracInCP) or 1.
        loss: mean or sum over the counted tokens of a language model.
        mask_share: part of a text's tokens that a masked language model has to guess.
        mask_seed: of the draw of those tokens, with the text's own tokens.
        baseline: name of the lexical or label baseline that scores instead of gradients.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str
    layer: Layer = "embedding"
    layers: tuple[str, ...] = ()
    biases: bool = False
    project: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    basis: Literal["random", "leading"] = "random"
    seed: int = 0
    path: Path = "exact"
    top: int | None = Field(default=None, ge=1)
    top_by: Literal["token", "position"] = "token"
    drop_special: bool = False
    synonym_threshold: float | None = Field(default=None, ge=0.0, lt=1.0)
    preconditioner: Literal["none", "adam"] = "none"
    epsilon: float = Field(default=1e-8, gt=0.0)
    curvature: Literal["none", "autocorrelation", "ggn", "ekfac", "datainf"] = "none"
    damping: float = Field(default=0.1, ge=0.0)
    damping_of: Literal["mean", "top", "absolute"] = "mean"
    fisher: Literal["empirical", "sampled"] = "empirical"
    fisher_seed: int = Field(default=0, ge=0)
    eval_share: Annotated[float, Field(ge=0.0, le=1.0)] | Literal["auto"] = "auto"
    eval_component: float = Field(default=1000 / 65_536, gt=0.0)
    solver: Literal["none", "lissa", "cg"] = "none"
    depth: int = Field(default=500, ge=1)
    runs: int = Field(default=3, ge=1)
    sample: int | None = Field(default=None, ge=1)
    scale: float | Literal["auto"] = "auto"
    candidates: float = Field(default=1000.0, gt=0.0)
    nearest: Literal["auto", "signal", "features"] = "auto"
    measure: Literal["loss", "logit"] = "loss"
    refit: float | None = Field(default=None, gt=0.0)
    checkpoints: Literal["all", "last"] = "all"
    unit_norm: bool = False
    similarity: Literal["dot", "cosine"] = "dot"
    weights: Literal["learning-rate", "equal"] = "learning-rate"
    loss: Literal["mean", "sum"] = "mean"
    mask_share: float = Field(default=0.15, gt=0.0, lt=1.0)
    mask_seed: int = Field(default=0, ge=0)
    baseline: str | None = None

    @property
    def normed(self) -> bool:
        """Whether the training side is scaled to norm 1."""
        return self.unit_norm or self.similarity == "cosine"
