"""Regression and reward models: one or several numbers for a text or a pair of texts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from proponent.errors import LabelError
from proponent.labels import listed
from proponent.models.batch import Batch, Encoded
from proponent.models.placement import host
from proponent.models.tasks.answered import Answered
from proponent.models.tasks.base import Objective, Reduction, Task
from proponent.models.tasks.classification import Classification
from proponent.types import Example


@dataclass(frozen=True)
class ValueLoss(Objective):
    """Mean squared error of the outputs; minus the output where no value is given, so that helping means raising it."""

    values: Float[Tensor, "n m"]  # NaN for none
    empty: Bool[Tensor, " n"]  # texts without a token, whose loss is not a number

    @property
    def count(self) -> float:
        return float(len(self.values))

    def losses(self, logits: Tensor) -> Float[Tensor, " n"]:
        known = ~self.values.isnan()
        off = logits - torch.where(known, self.values.to(logits.dtype), 0.0)
        return torch.where(known, off**2, -logits).mean(1).masked_fill(self.empty, torch.nan)

    def sampled(self, logits: Tensor, uniform: Float[Tensor, "n t"]) -> Float[Tensor, " n"]:
        """Squared error is the likelihood of a normal distribution of variance 1/2 around the output."""
        if logits.shape[1] > uniform.shape[1]:
            uniform = uniform.repeat(1, -(-logits.shape[1] // uniform.shape[1]))
        uniform = uniform[:, : logits.shape[1]].clamp(1e-9, 1 - 1e-9)
        drawn = (torch.erfinv(2 * uniform - 1)).to(logits.dtype)  # of variance 1/2
        return ((logits - logits.detach() - drawn) ** 2).mean(1)

    def logits(self, logits: Tensor) -> Float[Tensor, " n"]:
        return -logits.mean(1)


@dataclass(frozen=True)
class Regression(Answered, Classification):
    """Sequence classification with one output, or with the problem type regression."""

    kind, needed = "regression", "value"

    @classmethod
    def fits(cls, config: Any) -> bool:
        problem = getattr(config, "problem_type", None)
        return problem == "regression" or (problem is None and len(config.id2label) == 1)

    @classmethod
    def of(cls, architecture: str, config: Any) -> Task:
        return cls(outputs=len(config.id2label), reads_at_end=bool(getattr(config, "is_encoder_decoder", False)))

    def read(self, example: Example) -> Float[np.ndarray, " m"]:
        if example.label is None:
            return np.full(self.outputs, np.nan)
        given = listed(example.label)
        given = [example.label] if given is None else given
        if len(given) != self.outputs:
            raise LabelError(f"label {example.label!r} holds {len(given)} value(s), but this model has {self.outputs}")
        values = [_number(one) for one in given]
        bad = next((one for one, value in zip(given, values, strict=True) if value is None), None)
        if bad is not None or None in values:
            raise LabelError(f"label {bad!r} is not a finite number, and this model predicts numbers: give one")
        return np.asarray(values, dtype=np.float64)

    def objective(self, batch: Batch, reduction: Reduction = "mean", against: Sequence[int] | None = None) -> ValueLoss:
        assert batch.answers is not None
        return ValueLoss(batch.answers, batch.mask.sum(1) == 0)

    def predicted(self, logits: Tensor, one: Encoded) -> Float[np.ndarray, " m"]:
        return host(logits).astype(np.float64)

    def completed(self, answer: Float[np.ndarray, " m"], predicted: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        return answer

    def spoken(self, example: Example, answer: Float[np.ndarray, " m"], one: Encoded) -> str:
        if np.isnan(answer).all():
            return "a higher value"
        return ", ".join(f"{value:.4g}" for value in answer)

    def probabilities(self, logits: Tensor) -> None:
        return None


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
