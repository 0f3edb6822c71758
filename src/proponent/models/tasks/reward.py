"""Reward models trained on pairs of answers, as TRL's RewardTrainer does.

loss = -log sigmoid(r(chosen) - r(rejected) - margin) + c * (r(chosen) + r(rejected))^2, with the margin of a row, if
the data has the column, and c for the setting center_rewards_coefficient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from proponent.models.batch import Batch
from proponent.models.objective import Training
from proponent.models.preference_rows import Pairing
from proponent.models.tasks.answered import refuse_sampled
from proponent.models.tasks.base import Objective, Reduction, Task
from proponent.models.tasks.classification import Classification
from proponent.models.tasks.pairs import OnPairs, lost, number_of, refuse_settings
from proponent.models.tasks.regression import Regression
from proponent.types import Example, Preference

_PLAIN: Mapping[str, tuple[object, ...]] = {"loss_type": ("sigmoid", ["sigmoid"]), "label_smoothing": (0.0,)}


@dataclass(frozen=True)
class RewardLoss(Objective):
    """The loss of pairs of texts, whose rows lie next to each other."""

    margin: Float[Tensor, " n"]  # by which the reward of the chosen text must be larger
    trained: Bool[Tensor, " n"]  # pairs that training did not drop
    center: float  # weight of the square of the summed rewards

    @property
    def count(self) -> float:
        return float(len(self.margin))

    def losses(self, logits: Tensor) -> Float[Tensor, " n"]:
        chosen, rejected = logits.reshape(-1, 2).unbind(1)
        loss = lost(chosen - rejected - self.margin.to(logits.dtype)) + self.center * (chosen + rejected) ** 2
        return loss.masked_fill(~self.trained, torch.nan)

    def sampled(self, logits: Tensor, uniform: Float[Tensor, "n t"]) -> Float[Tensor, " n"]:
        raise refuse_sampled(RewardPairs.kind)


@dataclass(frozen=True)
class MinusReward(Objective):
    """Minus the reward of a text, so that helping means raising it."""

    empty: Bool[Tensor, " n"]  # texts without a token, whose loss is not a number

    @property
    def count(self) -> float:
        return float(len(self.empty))

    def losses(self, logits: Tensor) -> Float[Tensor, " n"]:
        return -logits.mean(1).masked_fill(self.empty, torch.nan)

    def sampled(self, logits: Tensor, uniform: Float[Tensor, "n t"]) -> Float[Tensor, " n"]:
        raise refuse_sampled(RewardPairs.kind)


@dataclass(frozen=True)
class RewardPairs(OnPairs, Classification):
    """Pairs of texts; a question with one answer asks which rows raised its reward."""

    center: float = 0.0

    kind: ClassVar[str] = "reward-pairs"
    trainer: ClassVar[str] = "reward"
    pairing: ClassVar[Pairing | None] = "texts"
    chats: ClassVar[bool] = True
    adapter_type, replays = None, False

    @property
    def settings(self) -> str:
        return f"rewards of pairs: center {self.center!r}"

    @classmethod
    def replaces(cls, task: Task) -> bool:
        return type(task) is Regression and task.outputs == 1

    @classmethod
    def settled(cls, task: Task, said: Training, base: str | None) -> Task:
        refuse_settings(said, _PLAIN)
        return cls(outputs=1, center=number_of(said, "center_rewards_coefficient", 0.0))

    def text(self, example: Example, tokenizer: object) -> str:
        """Prompt and answer are one text."""
        return "".join(example.parts)

    def figures(self, example: Example) -> Float[np.ndarray, " 1"]:
        """The margin; 0 where the data has none."""
        assert isinstance(example.content, Preference)
        return np.asarray([example.content.figures.get("margin", 0.0)])

    def objective(self, batch: Batch, reduction: Reduction = "mean", against: Sequence[int] | None = None) -> Objective:
        if not batch.paired:
            return MinusReward(batch.mask.sum(1) == 0)
        assert batch.answers is not None
        return RewardLoss(batch.answers[:, 0], batch.counted.any(1).reshape(-1, 2).any(1), self.center)

    def probabilities(self, logits: Tensor) -> None:
        return None

    def refuse_training(self, folder: Path, checkpoints: Sequence[Path]) -> None:
        """Its settings have been read; TRL's trainers of pairs smooth no labels of tokens."""
