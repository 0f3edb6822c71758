"""Tasks whose answer is neither one class nor a token: a value, several labels, tags, a place in a text."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from proponent.errors import DataError, InputError, LabelError
from proponent.models.batch import Aligned, Encoded
from proponent.models.tasks.base import Task
from proponent.types import Example, Preference

LEFT_OUT = -100.0
"""The answer at a place that does not count."""


class Answered(Task):
    """A task that reads an answer from the label of an example, as numbers; NaN where a question gives none."""

    answers: ClassVar[bool] = True
    predicts_tokens: ClassVar[bool] = False
    needed: ClassVar[str]
    """What a row without an answer lacks, in words."""

    @abstractmethod
    def read(self, example: Example) -> Float[np.ndarray, " m"]:
        """The answer of an example, before its tokens are known; NaN for none."""

    def answer(self, example: Example, one: Aligned, tokenizer: Any) -> Float[np.ndarray, " m"]:
        return self.read(example)

    def stored(self, example: Example) -> str | None:
        return None if example.label is None else str(example.label)

    def label_numbers(self, examples: Iterable[Example], source: str) -> list[int]:
        task = self.named(getattr(examples, "label_names", None) or ())
        if task is not self:
            return task.label_numbers(examples, source)
        numbers: list[int] = []
        missing: list[str] = []
        for example in examples:
            if isinstance(example.content, Preference):
                raise InputError(
                    f"{source}, row {example.row} holds a preference (chosen and rejected), and nothing says that "
                    "TRL's RewardTrainer trained this run (docs/data.md says how to state it): it is read as "
                    f"{self.kind}; give texts with a {self.needed} each"
                )
            try:
                if example.label is None:
                    missing.append(str(example.row))
                else:
                    self.read(example)
            except (LabelError, InputError) as error:
                raise type(error)(f"{source}, row {example.row}: {error}") from error
            numbers.append(-1)
        if missing:
            raise DataError(
                f"{len(missing)} rows of {source} have no {self.needed} (rows {', '.join(missing[:5])}): name the "
                "column with --label-column, or fill it in"
            )
        return numbers


def refuse_sampled(kind: str) -> InputError:
    """The refusal of labels sampled from a model."""
    return InputError(
        f"a {kind} model has no labels that a Fisher matrix could sample: choose a method without curvature of "
        "sampled labels, such as tracin-we or grad-cos"
    )


def or_predicted(answers: Float[Tensor, "*n m"], predicted: Tensor) -> Float[Tensor, "*n m"]:
    """Answers with the model's own in place of missing ones."""
    return torch.where(answers.isnan(), predicted.to(answers.dtype), answers)


def has_loss(one: Encoded) -> bool:
    """Whether a token of an example, or the tag of one, counts."""
    return bool(one.n_counted) if one.answer is None else bool((one.answer != LEFT_OUT).any())
