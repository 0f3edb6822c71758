"""What losses of judged answers (DPO, KTO) share: sums over the tokens of answers, and what follows from them."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from proponent.models.tasks.answered import refuse_sampled
from proponent.models.tasks.base import Objective, TokenLoss, TokenTerms

BETA = 0.1
"""TRL's default."""

SMALLEST = 1e-30
"""Weight of a row whose loss is 0 to the last digit."""


@dataclass(frozen=True)
class JudgedAnswers(Objective):
    """A loss that follows from the log-probabilities of whole answers."""

    tokens: TokenLoss  # of the answers, summed

    kind: ClassVar[str]
    """The task, for messages."""

    @property
    def predictions(self) -> tuple[Int[Tensor, "m u"], Float[Tensor, "m u"]]:
        return self.tokens.target, self.tokens.counted.double()

    def terms(self, uniform: Float[Tensor, "m u"] | None = None) -> TokenTerms:
        if uniform is not None:
            raise refuse_sampled(self.kind)
        return TokenTerms(self.tokens.target, self.tokens.counted, self.combined)

    def losses(self, logits: Tensor) -> Float[Tensor, " n"]:
        return self.combined(self.tokens.each(logits))

    def sampled(self, logits: Tensor, uniform: Float[Tensor, "n t"]) -> Float[Tensor, " n"]:
        raise refuse_sampled(self.kind)

    @abstractmethod
    def combined(self, token: Float[Tensor, "m u"]) -> Float[Tensor, " n"]:
        """Losses of tokens to losses of rows."""
