"""Multi-label classification: any number of labels for a text or a pair of texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from proponent.errors import LabelError
from proponent.labels import NO_LABELS, Labels, listed
from proponent.models.batch import Batch, Encoded
from proponent.models.class_settings import class_names
from proponent.models.placement import host
from proponent.models.tasks.answered import LEFT_OUT, Answered, or_predicted, refuse_sampled
from proponent.models.tasks.base import Objective, Reduction, Task
from proponent.models.tasks.classification import Classification
from proponent.types import Example


@dataclass(frozen=True)
class LabelsLoss(Objective):
    """Binary cross-entropy, mean over the labels that are asked about."""

    given: Float[Tensor, "n m"]  # 1 for a label that applies, 0 for one that does not, -100 for one left out
    empty: Bool[Tensor, " n"]  # texts without a token, whose loss is not a number

    @property
    def count(self) -> float:
        return float(len(self.given))

    def losses(self, logits: Tensor) -> Float[Tensor, " n"]:
        given = or_predicted(self.given, logits.detach() > 0).to(logits.dtype)
        asked = given != LEFT_OUT
        each = functional.binary_cross_entropy_with_logits(logits, given.clamp(min=0), reduction="none")
        return ((each * asked).sum(1) / asked.sum(1)).masked_fill(self.empty, torch.nan)

    def sampled(self, logits: Tensor, uniform: Float[Tensor, "n t"]) -> Float[Tensor, " n"]:
        raise refuse_sampled(MultiLabel.kind)


@dataclass(frozen=True)
class MultiLabel(Answered, Classification):
    """Sequence classification with the problem type multi_label_classification."""

    names: Labels = NO_LABELS  # of the outputs

    kind, needed = "multi-label", "labels"

    @classmethod
    def fits(cls, config: Any) -> bool:
        return getattr(config, "problem_type", None) == "multi_label_classification"

    @classmethod
    def of(cls, architecture: str, config: Any) -> Task:
        names = class_names(config)
        at_end = bool(getattr(config, "is_encoder_decoder", False))
        return cls(outputs=len(names), reads_at_end=at_end, names=Labels(names))

    def read(self, example: Example) -> Float[np.ndarray, " m"]:
        """A name or number alone asks about this label only, and a list about all labels."""
        if example.label is None:
            return np.full(self.outputs, np.nan)
        given = listed(example.label)
        if given is None:
            answer = np.full(self.outputs, LEFT_OUT)
            answer[self.names.number(example.label)] = 1.0
            return answer
        if len(given) == self.outputs > 1 and all(_is_flag(one) for one in given):
            return np.asarray(given, dtype=np.float64)
        answer = np.zeros(self.outputs)
        for one in given:
            answer[self.names.number(one)] = 1.0
        return answer

    def label_numbers(self, examples: Any, source: str) -> list[int]:
        """A training row has a list: a single name would leave the other labels open."""
        every: list[Example] = list(examples)
        for example in every:
            if example.label is not None and listed(example.label) is None:
                raise LabelError(
                    f"{source}, row {example.row}: label {example.label!r} is no list, and this model predicts several "
                    'labels: give a list of names, such as ["a", "b"], or 0 or 1 for each label'
                )
        return super().label_numbers(every, source)

    def stored(self, example: Example) -> str | None:
        return json.dumps([name for name, value in zip(self.names, self.read(example), strict=True) if value == 1])

    def objective(
        self, batch: Batch, reduction: Reduction = "mean", against: Sequence[int] | None = None
    ) -> LabelsLoss:
        assert batch.answers is not None
        return LabelsLoss(batch.answers, batch.mask.sum(1) == 0)

    def predicted(self, logits: Tensor, one: Encoded) -> Float[np.ndarray, " m"]:
        return host(logits > 0).astype(np.float64)

    def spoken(self, example: Example, answer: Float[np.ndarray, " m"], one: Encoded) -> str:
        return ", ".join(name for name, value in zip(self.names, answer, strict=True) if value == 1) or "no label"

    def chances(self, logits: Tensor) -> Mapping[str, float]:
        chances = host(torch.sigmoid(logits.detach().double()))
        return {name: float(chance) for name, chance in zip(self.names, chances, strict=True)}

    def probabilities(self, logits: Tensor) -> None:
        return None


def _is_flag(value: object) -> bool:
    return isinstance(value, bool | int | float) and value in {0, 1}
