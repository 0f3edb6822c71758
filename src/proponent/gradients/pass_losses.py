"""What a pass differentiates: the loss, the logit of a label, and a loss of softened logits."""

from collections.abc import Callable
from typing import NamedTuple

from proponent.models.batch import Batch
from proponent.models.tasks.base import Losses, Objective, TokenTerms


class PassLoss(NamedTuple):
    """What is differentiated in a batch."""

    whole: Callable[[Batch, Objective], Losses]  # as a function of the model's logits
    terms: Callable[[Batch, Objective], TokenTerms | None]  # by tokens; None where that is impossible


def _losses(_: Batch, objective: Objective) -> Losses:
    return objective.losses


def _terms(_: Batch, objective: Objective) -> TokenTerms | None:
    return objective.terms()


def _label_logits(_: Batch, objective: Objective) -> Losses:
    return objective.logits


def _no_terms(_: Batch, _objective: Objective) -> None:
    return None


LOSS, LOGIT = PassLoss(_losses, _terms), PassLoss(_label_logits, _no_terms)


def softened(losses: Losses, temperature: float) -> Losses:
    """Divide the logits by a temperature before the loss."""
    return losses if temperature == 1 else lambda logits: losses(logits / temperature)
