"""Log-probabilities of pairs of answers under the model that training began with, for losses that read them.

That model is the base of an adapter, or the model with its weights before training. Log-probabilities are kept
for all checkpoints of a run, up to a limit.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xxhash
from torch import nn

from proponent.errors import RunError
from proponent.gradients.capture import Capture
from proponent.gradients.output_layer import OutputLayer
from proponent.models import Encoded, Encoder, Run
from proponent.models.tasks.base import Task
from proponent.models.tasks.causal_lm import CausalLM

MOST_KEPT = 500_000
"""Pairs whose log-probabilities are kept."""

_PLAIN: Task = CausalLM()


class Reference:
    """Fills in what the loss of pairs reads of the reference model."""

    def __init__(self, run: Run, model: nn.Module, encoder: Encoder) -> None:
        self.run, self.encoder = run, encoder
        self._policy = model
        self._kept = run.reference_figures

    def completed(self, encoded: Sequence[Encoded]) -> list[Encoded]:
        """Pairs with both log-probabilities; those that the data gives stay."""
        if len(self._kept) > MOST_KEPT:
            self._kept.clear()
        asked = [one for one in encoded if _lacks(one) and _key(one) not in self._kept]
        if asked:
            model = self._model()
            for one in asked:
                self._take(model, one)
        return [replace(one, answer=np.asarray(self._kept[_key(one)])) if _lacks(one) else one for one in encoded]

    def _take(self, model: nn.Module, one: Encoded) -> None:
        batch = self.encoder.collate([one], [-1])
        loss = _PLAIN.objective(batch, "sum")
        losses = Capture(model, embedding=False, output=OutputLayer(model))(
            batch.inputs, loss.losses, batch.words, terms=loss.terms()
        ).losses
        counted = batch.counted.any(1).numpy()
        chosen, rejected = np.where(counted, -losses, 0.0).tolist()  # an answer without a token has probability 1
        self._kept[_key(one)] = (chosen, rejected)

    def _model(self) -> nn.Module:
        if self.run.info.adapter:
            self._refuse_copy()
        return self.run.reference.to(next(self._policy.parameters()).dtype)

    def _refuse_copy(self) -> None:
        """Refuse an adapter that was trained on from an earlier state, which TRL keeps as another adapter."""
        folder = next((one.path for one in self.run.checkpoints if (one.path / "ref").is_dir()), None)
        if folder is not None:
            raise RunError(
                f"{folder} holds an adapter ref, from which the adapter was trained on, and proponent reads the base "
                "without an adapter as the reference: give the columns ref_chosen_logps and ref_rejected_logps"
            )


def _lacks(one: Encoded) -> bool:
    return one.rejected is not None and one.answer is not None and bool(np.isnan(one.answer).any())


def _key(one: Encoded) -> int:
    """A hash of both answers' tokens and of those that count."""
    digest = xxhash.xxh3_64()
    for side in one.sides:
        digest.update(len(side.ids).to_bytes(4, "little") + side.ids.astype("<i8").tobytes() + side.counted.tobytes())
    return digest.intdigest()
