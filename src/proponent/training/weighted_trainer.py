"""A Trainer whose loss multiplies each example's loss by a weight, read from a column of the training set."""

# pyright: reportUnknownMemberType=false
# A Trainer has few types, and a base class of type Any has none.

from collections.abc import MutableMapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from proponent.errors import InputError
from proponent.models.huggingface import transformers
from proponent.models.recorder import Recorder

_IGNORED = -100
"""Label of a token that does not count in the loss."""


_Trainer: Any = transformers.Trainer


class WeightedTrainer(_Trainer):
    """A Hugging Face Trainer with example weights.

    The loss of a step is the sum over its examples of weight times loss, divided by the number of its examples, or of
    counted tokens; accumulated batches are one step. A `proponent.Recorder` among the callbacks notes the column, so
    that indexes and retrainings of the run need it.

    Args:
        weight_column: column of the weights in the training set: numbers of at least 0. A data collator must keep it,
            as one float per example; the default one does.
        arguments: everything else that a Trainer takes.

    Raises:
        InputError: the Trainer already has a loss of its own, or smooths labels.
    """

    def __init__(self, *positional: Any, weight_column: str = "weight", **arguments: Any) -> None:
        if arguments.get("compute_loss_func") is not None:
            raise InputError("WeightedTrainer has its own loss: leave compute_loss_func out")
        super().__init__(*positional, compute_loss_func=self._weighted_loss, **arguments)
        if self.label_smoother is not None:
            raise InputError("WeightedTrainer does not smooth labels: set label_smoothing_factor to 0")
        self.weight_column = weight_column
        self._weights: Tensor | None = None
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, Recorder):
                callback.weight_column = weight_column

    def compute_loss(self, model: Any, inputs: MutableMapping[str, Any], *positional: Any, **arguments: Any) -> Any:
        """Take the weights out of the batch, and compute the weighted loss; in an evaluation, weights may be missing.

        Args:
            model: the model.
            inputs: the batch, with its labels and weights.
            positional: as in the Trainer.
            arguments: as in the Trainer.

        Returns:
            As in the Trainer.

        Raises:
            InputError: a batch of the training has no weights.
        """
        self._weights = inputs.pop(self.weight_column, None)
        if self._weights is None and model.training:
            raise InputError(
                f"a batch has no column {self.weight_column!r}: keep it in the training set and in the data collator, "
                "or name it with WeightedTrainer(weight_column=...)"
            )
        parent: Any = super()
        loss: Any = parent.compute_loss(model, inputs, *positional, **arguments)
        return loss

    def _weighted_loss(self, outputs: Any, labels: Tensor | None, num_items_in_batch: Any = None) -> Float[Tensor, ""]:
        if labels is None:
            raise InputError("WeightedTrainer needs labels: a model without them (question answering) is not supported")
        logits: Tensor = (outputs.get("logits") if hasattr(outputs, "get") else outputs[0]).float()
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        causal = "ForCausalLM" in type(model).__name__ or "LMHeadModel" in type(model).__name__
        losses = _losses(logits, labels.to(logits.device), causal=causal)
        weights = torch.ones(len(losses)) if self._weights is None else self._weights.float()
        weighed = losses * weights.to(losses.device).view(-1, *([1] * (losses.ndim - 1)))
        count = (labels != _IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        return weighed.sum() / count

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self.weight_column not in self._signature_columns:
            self._signature_columns: list[str] = [*self._signature_columns, self.weight_column]


def _losses(logits: Tensor, labels: Tensor, *, causal: bool) -> Tensor:
    """The loss of each label, in the shape of the labels; 0 where a label does not count."""
    if labels.is_floating_point():
        if logits.numel() == labels.numel():
            logits = logits.view(labels.shape)
        if labels.ndim == 2 and labels.shape[1] > 1:
            return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return functional.mse_loss(logits, labels, reduction="none")
    if labels.ndim == 1:
        return functional.cross_entropy(logits, labels, reduction="none")
    if causal:
        labels = functional.pad(labels, (0, 1), value=_IGNORED)[:, 1:]
    return functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=_IGNORED)
