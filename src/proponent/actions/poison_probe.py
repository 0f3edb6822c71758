"""What a model says of rows: log-probabilities of the classes, and hidden states; forward passes only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from proponent.actions.poison_rows import with_answer
from proponent.models import Run
from proponent.models.encoding import Encoder
from proponent.models.model_outputs import pooled_states
from proponent.models.placement import host
from proponent.models.tasks.base import logits_of
from proponent.training.loop import one_thread
from proponent.types import Counting, Example

_BATCH, _FEW = 64, 8  # the second for logits of a vocabulary


@dataclass(frozen=True)
class Probe:
    """One model of a run, and the classes that it chooses between."""

    run: Run
    model: nn.Module
    answers: tuple[str, ...]  # answers of a language model; empty for a classifier
    max_length: int
    counting: Counting | None = None

    def log_probabilities(self, examples: Sequence[Example]) -> Float[np.ndarray, "m l"]:
        """Of every class, or of every answer; those of answers need not sum to one."""
        if not self.answers:
            return self._batches(examples, self._of_classes, _BATCH)
        columns = [
            self._batches([with_answer(one, answer) for one in examples], self._of_answer, _FEW)
            for answer in self.answers
        ]
        return np.stack(columns, axis=1)

    def log_odds(self, examples: Sequence[Example]) -> Float[np.ndarray, "m l"]:
        """Of every class against the others; of a single answer, against everything else that could be said."""
        return odds(self.log_probabilities(examples))

    def states(self, examples: Sequence[Example]) -> Float[np.ndarray, "m h"]:
        """Mean of the last hidden states over the tokens of each row."""
        return self._batches(examples, lambda encoder, some: self._pooled(encoder, some), _FEW)

    def _pooled(self, encoder: Encoder, some: Sequence[Example]) -> np.ndarray:
        return pooled_states(self.model, encoder.collate(encoder.encode(some), [-1] * len(some)).inputs)

    def _of_classes(self, encoder: Encoder, some: Sequence[Example]) -> np.ndarray:
        batch = encoder.collate(encoder.encode(some), [-1] * len(some))
        made = self.run.task.probabilities(logits_of(self.model(**batch.inputs)))
        return np.log(np.maximum(host(cast("Tensor", made)).astype(np.float64), 1e-12))

    def _of_answer(self, encoder: Encoder, some: Sequence[Example]) -> np.ndarray:
        batch = encoder.collate(encoder.encode(some, asked=True), [-1] * len(some))
        objective = self.run.task.objective(batch, "sum")
        return -host(objective.losses(logits_of(self.model(**batch.inputs)))).astype(np.float64)

    def _batches(
        self, examples: Sequence[Example], work: Callable[[Encoder, Sequence[Example]], np.ndarray], size: int
    ) -> np.ndarray:
        """Do some work on batches of rows of similar length; the results are in the order of the rows."""
        encoder = self.run.encoder(self.max_length, counting=self.counting)
        order = np.argsort([sum(map(len, one.parts)) for one in examples], kind="stable")
        size = 1 if self.run.equal_lengths else size
        found: list[np.ndarray] = []
        with one_thread(), torch.inference_mode():
            for start in range(0, len(order), size):
                places: list[int] = order[start : start + size].tolist()
                found.append(work(encoder, [examples[at] for at in places]))
        joined = np.concatenate(found)
        made = np.empty_like(joined)
        made[order] = joined
        return made


def odds(log_probabilities: Float[np.ndarray, "m l"]) -> Float[np.ndarray, "m l"]:
    """Log-odds of each class against the sum of the others."""
    if log_probabilities.shape[1] == 1:
        wide = np.minimum(log_probabilities, -1e-12)
        return wide - np.log(-np.expm1(wide))
    others = [
        np.logaddexp.reduce(np.delete(log_probabilities, at, axis=1), axis=1)
        for at in range(log_probabilities.shape[1])
    ]
    return log_probabilities - np.stack(others, axis=1)


def own(log_odds: Float[np.ndarray, "m l"], given: Int[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Log-odds of each row's own class; NaN for a row whose answer is no class."""
    known = given < log_odds.shape[1]
    return np.where(known, log_odds[np.arange(len(given)), np.where(known, given, 0)], np.nan)
