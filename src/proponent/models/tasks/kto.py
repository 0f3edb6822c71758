"""Language models trained on judged answers by KTO (Ethayarajh et al. 2024, arXiv 2402.01306), as by TRL's KTOTrainer.

loss = w (1 - sigmoid(s beta (r - z))), r = (log pi - log ref)(answer), where pi is the model, ref the one that training
began with, s is 1 for a wanted and -1 for an unwanted answer, and w the weight of its side. z, at least 0, is the mean
of r over the rows of the batch with the answers of their neighbours, and has no gradient. So the gradient of a row is
-w s beta sigmoid'(...) grad log pi(answer): reference and batch are only in the weight. `apo_zero_unpaired` has z = 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from proponent.errors import DataError, RunError
from proponent.models.batch import Batch
from proponent.models.objective import Training, training_of
from proponent.models.run_files import StoredName
from proponent.models.tasks.base import Objective, Reduction, Task
from proponent.models.tasks.causal_lm import CausalLM
from proponent.models.tasks.judged import BETA, SMALLEST, JudgedAnswers
from proponent.models.tasks.pairs import number_of, refuse_settings
from proponent.types import Example, Preference

NO_ESTIMATE = "apo_zero_unpaired"
_PLAIN: Mapping[str, tuple[object, ...]] = {
    "loss_type": ("kto", NO_ESTIMATE),
    "processes": (1,),
    "sync_ref_model": (False,),
    "dataloader_drop_last": (False,),  # rows of the last batch would never be trained on
}
"""Settings of TRL that change the loss, with the values that are explained."""


@dataclass(frozen=True)
class JudgedLoss(JudgedAnswers):
    """The KTO loss of judged answers."""

    side: Float[Tensor, " n"]  # 1 for a wanted answer, -1 for an unwanted one
    reference: Float[Tensor, " n"]  # log-probability of the answer under the reference model
    estimate: Float[Tensor, " n"]  # z of the row's batch
    beta: float
    weights: tuple[float, float]  # of wanted and of unwanted answers

    kind: ClassVar[str] = "KTO"

    @property
    def count(self) -> float:
        return float(len(self.side))

    def weighed(self, losses: Float[np.ndarray, " n"]) -> tuple[Int[Tensor, "n u"], Float[Tensor, "n u"]]:
        """What a token's loss adds to that of its row: sigmoid(...) is 1 - loss / w."""
        missed = torch.as_tensor(losses, device=self.side.device) / self._weight.double()
        slope = self.side.double() * self.beta * (self._weight.double() * missed * (1 - missed)).clamp(min=SMALLEST)
        target, counted = self.predictions
        return target, counted * slope[:, None]

    @property
    def _weight(self) -> Float[Tensor, " n"]:
        wanted, unwanted = (self.side.new_tensor(one) for one in self.weights)
        return torch.where(self.side > 0, wanted, unwanted)

    def combined(self, token: Float[Tensor, "n u"]) -> Float[Tensor, " n"]:
        ratio = -(token * self.tokens.counted).sum(1) - self.reference.to(token.dtype)
        margin = self.side.to(token.dtype) * self.beta * (ratio - self.estimate.to(token.dtype))
        trained = self.tokens.counted.any(1)  # the prompt of others fills what the model reads
        return (self._weight.to(token.dtype) * torch.sigmoid(-margin)).masked_fill(~trained, torch.nan)


@dataclass(frozen=True)
class KTO(CausalLM):
    """Judged answers; a question with an answer has the loss of its tokens, as in an index of single answers."""

    beta: float = BETA
    weights: tuple[float, float] = (1.0, 1.0)
    batch: int = 2  # rows of a batch, which share an estimate
    loss_type: str = "kto"

    kind: ClassVar[str] = "KTO"
    trainer: ClassVar[str] = "kto"
    adapter_type, replays, refers, judged = None, False, True, True

    @property
    def settings(self) -> str:
        return f"KTO: {self.loss_type}, beta {self.beta!r}, weights {self.weights!r}, batches of {self.batch}"

    @property
    def sharing(self) -> int:
        return 0 if self.loss_type == NO_ESTIMATE else self.batch

    @classmethod
    def recognises(cls, architecture: str, config: Any) -> bool:
        return False  # only the record of the training tells

    @classmethod
    def trained(cls, task: Task, homes: Sequence[Path], base: str | None) -> Task | None:
        said = training_of(homes, cls.trainer) if type(task) is CausalLM else None
        return None if said is None or "batch_size" not in said.settings else cls.settled(said, base)

    @classmethod
    def settled(cls, said: Training, base: str | None) -> Task:
        """The task with the settings that the Recorder noted; those that change the loss are refused by name."""
        refuse_settings(said, _PLAIN)
        known: object = said.settings.get("reference")
        size: object = said.settings["batch_size"]
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise RunError(f"{said.source}: batch_size is {size!r}, not a number of rows: the record is damaged")
        return cls(
            reference=base or (StoredName(known) if isinstance(known, str) and known else None),
            beta=number_of(said, "beta", BETA),
            weights=(number_of(said, "desirable_weight", 1.0), number_of(said, "undesirable_weight", 1.0)),
            batch=size,
            loss_type=cast("str", said.settings.get("loss_type") or "kto"),
        )

    def refuse_training(self, folder: Path, checkpoints: Sequence[Path]) -> None:
        """Its settings have been read; TRL's trainers of judged answers smooth no labels of tokens."""

    def label_numbers(self, examples: Any, source: str) -> list[int]:
        numbers: list[int] = []
        for example in examples:
            content = example.content
            if not isinstance(content, Preference) or (content.chosen is None) == (content.rejected is None):
                raise DataError(
                    f"{source}, row {example.row} is no judged answer, and this run was trained on such (KTO): give "
                    "rows with prompt, completion and label (true or false), as its trainer read them"
                )
            numbers.append(-1)
        return numbers

    def figures(self, example: Example) -> Float[np.ndarray, " 4"]:
        """The side, the number of the row, and what models must give: the reference's log-probability, and z."""
        assert isinstance(example.content, Preference)
        return np.asarray([1.0 if example.content.rejected is None else -1.0, example.row, np.nan, np.nan])

    def objective(self, batch: Batch, reduction: Reduction = "mean", against: Sequence[int] | None = None) -> Objective:
        if batch.answers is None:
            return self.token_loss(batch, reduction)
        side, _, reference, estimate = batch.answers.unbind(1)
        return JudgedLoss(self.token_loss(batch, "sum"), side, reference, estimate, self.beta, self.weights)
