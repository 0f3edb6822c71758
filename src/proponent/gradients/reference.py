"""Log-probabilities of judged answers under the model that training began with, for losses that read them.

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
from proponent.models.placement import host, is_half
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
        return [replace(one, answer=np.asarray(self._known(one))) if _lacks(one) else one for one in encoded]

    def _known(self, one: Encoded) -> tuple[float, ...]:
        """Log-probabilities under the reference model, computed once."""
        if len(self._kept) > MOST_KEPT:
            self._kept.clear()
        key = _key(one)
        if key not in self._kept:
            self._kept[key] = self._log_probabilities(self._model(), one)
        return self._kept[key]

    def _log_probabilities(self, model: nn.Module, one: Encoded) -> tuple[float, ...]:
        """Those of the counted tokens of an answer, summed; of a pair, both."""
        batch = self.encoder.collate([replace(one, answer=None)], [-1])
        loss = _PLAIN.objective(batch, "sum")
        losses = Capture(model, embedding=False, output=OutputLayer(model))(
            batch.inputs, loss.losses, batch.words, terms=loss.terms()
        ).losses
        counted = host(batch.counted.any(1))
        return tuple(np.where(counted, -losses, 0.0).tolist())  # an answer without a token has probability 1

    def _model(self) -> nn.Module:
        if self.run.info.adapter:
            self._refuse_copy()
        own = next(self._policy.parameters())
        return self.run.reference if is_half(own.dtype) else self.run.reference.to(own.dtype)

    def _refuse_copy(self) -> None:
        """Refuse an adapter that was trained on from an earlier state, which TRL keeps as another adapter."""
        folder = next((one.path for one in self.run.checkpoints if (one.path / "ref").is_dir()), None)
        if folder is not None:
            way = "" if self.run.task.judged else ": give the columns ref_chosen_logps and ref_rejected_logps"
            raise RunError(
                f"{folder} holds an adapter ref, from which the adapter was trained on, and proponent reads the base "
                f"without an adapter as the reference{way}"
            )


class JudgedReference(Reference):
    """Fills in what the loss of judged answers (KTO) reads of the reference model and of its batch."""

    def __init__(self, run: Run, model: nn.Module, encoder: Encoder) -> None:
        super().__init__(run, model, encoder)
        self._estimates: dict[int, float] = {}  # of each batch at this checkpoint

    def completed(self, encoded: Sequence[Encoded]) -> list[Encoded]:
        """Answers with their log-probability and the estimate of their batch."""
        trained = [one.answer is not None and one.n_counted > 0 for one in encoded]
        return [self._with_answer(one) if own else one for one, own in zip(encoded, trained, strict=True)]

    def _with_answer(self, one: Encoded) -> Encoded:
        assert one.answer is not None
        side, row = one.answer[:2].tolist()
        if np.isnan(row):  # a text that measures memory is no row
            return replace(one, answer=np.asarray([1.0, row, 0.0, 0.0]))
        return replace(one, answer=np.asarray([side, row, *self._known(one), self._estimate(int(row))]))

    def _estimate(self, row: int) -> float:
        """Mean log-ratio of the prompts of a batch with their neighbours' answers, at least 0."""
        if not self.run.task.sharing:
            return 0.0
        batches = self.run.judged.batches
        at = batches.batch_of[row]
        if at not in self._estimates:
            ratios = [
                self._log_probabilities(self._policy, one)[0] - self._known(one)[0] for one in batches.batches[at]
            ]
            self._estimates[at] = max(0.0, float(np.mean(ratios)))
        return self._estimates[at]


def reference_of(run: Run, model: nn.Module, encoder: Encoder) -> Reference:
    """What a loss that compares with another model reads."""
    return (JudgedReference if run.task.judged else Reference)(run, model, encoder)


def _lacks(one: Encoded) -> bool:
    return one.rejected is not None and one.answer is not None and bool(np.isnan(one.answer).any())


def _key(one: Encoded) -> int:
    """A hash of both answers' tokens and of those that count."""
    digest = xxhash.xxh3_64()
    for side in one.sides:
        digest.update(len(side.ids).to_bytes(4, "little") + side.ids.astype("<i8").tobytes() + side.counted.tobytes())
    return digest.intdigest()
