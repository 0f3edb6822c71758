"""Tasks: what the model's output costs on one example, and what a query measures.

A task turns logits into one loss per example; it knows neither where the model came from nor what is done with the
gradient. A query measures the loss of a label, or the difference of two labels' losses.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Classification:
    """Cross-entropy of one label per example, or the contrast of two.

    Attributes:
        labels: class numbers.
        against: class numbers whose loss is subtracted; None for no contrast.
    """

    labels: Int[Tensor, " n"]
    against: Int[Tensor, " n"] | None = None

    def losses(self, logits: Tensor) -> Float[Tensor, " n"]:
        """Cost of each example."""
        loss = functional.cross_entropy(logits, self.labels, reduction="none")
        if self.against is None:
            return loss
        return loss - functional.cross_entropy(logits, self.against, reduction="none")

    def logits(self, logits: Tensor) -> Float[Tensor, " n"]:
        """Minus the logit of each example's label: what falls when an example pushes it up."""
        own = logits.gather(1, self.labels[:, None])[:, 0]
        return -own if self.against is None else logits.gather(1, self.against[:, None])[:, 0] - own


@dataclass(frozen=True)
class CausalLM:
    """Cross-entropy of the counted tokens, each predicted from the tokens before it.

    Attributes:
        ids: token ids [n t].
        counted: which tokens count [n t]; never the first.
        reduction: mean or sum over the counted tokens.
    """

    ids: Int[Tensor, "n t"]
    counted: Bool[Tensor, "n t"]
    reduction: Literal["mean", "sum"] = "mean"

    @property
    def weight(self) -> Float[Tensor, "n t"]:
        """What each position's prediction of the next token weighs in the loss; 0 at the last position."""
        # An example without any counted token has NaN throughout: it has no loss.
        return _weights(functional.pad(self.counted[:, 1:].float(), (0, 1)), self.reduction)

    @property
    def target(self) -> Int[Tensor, "n t"]:
        """The token that each position predicts; 0 at the last position, where the weight is 0."""
        return functional.pad(self.ids[:, 1:], (0, 1))

    def losses(self, logits: Tensor) -> Float[Tensor, " n"]:
        """Cost of each example."""
        return weighed(logits, self.target, self.weight)


@dataclass(frozen=True)
class Tokens:
    """Cross-entropy of tokens that are predicted at their own position of the output.

    Attributes:
        target: what each position predicts [n u]: the text before it was masked, or the decoder's target.
        counted: which positions count [n u].
        reduction: mean or sum over the counted positions.
    """

    target: Int[Tensor, "n u"]
    counted: Bool[Tensor, "n u"]
    reduction: Literal["mean", "sum"] = "mean"

    @property
    def weight(self) -> Float[Tensor, "n u"]:
        """What each position weighs in the loss; NaN throughout for an example of which no position counts."""
        return _weights(self.counted.float(), self.reduction)

    def losses(self, logits: Tensor) -> Float[Tensor, " n"]:
        """Cost of each example."""
        return weighed(logits, self.target, self.weight)


def _weights(counted: Float[Tensor, "n u"], reduction: Literal["mean", "sum"]) -> Float[Tensor, "n u"]:
    total = counted.sum(1, keepdim=True)
    scale = total if reduction == "mean" else (total > 0).float()
    return counted / torch.where(scale > 0, scale, torch.nan)


def weighed(logits: Tensor, target: Int[Tensor, "n u"], weight: Float[Tensor, "n u"]) -> Float[Tensor, " n"]:
    """Sum the weighed costs of every example's positions."""
    token = functional.cross_entropy(logits.transpose(1, 2), target, reduction="none")
    return (token * weight).sum(1)
