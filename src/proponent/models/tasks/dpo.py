"""Language models trained on pairs of answers by DPO (Rafailov et al. 2023, arXiv 2305.18290), as by TRL's DPOTrainer.

loss = -log sigmoid(beta * m), m = (log pi - log ref)(chosen) - (log pi - log ref)(rejected), where pi is the model, ref
the one that training began with, and log-probabilities are sums over the tokens of an answer. So the gradient of a row
is -beta * sigmoid(-beta * m) * (grad log pi(chosen) - grad log pi(rejected)): the reference is only in the weight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from proponent.models.batch import Batch
from proponent.models.objective import Training
from proponent.models.preference_rows import Pairing
from proponent.models.run_files import StoredName
from proponent.models.tasks.base import Objective, Reduction, Task
from proponent.models.tasks.causal_lm import CausalLM
from proponent.models.tasks.judged import BETA, SMALLEST, JudgedAnswers
from proponent.models.tasks.pairs import OnPairs, lost, number_of, refuse_settings
from proponent.types import Example, Preference

_PLAIN: Mapping[str, tuple[object, ...]] = {
    "loss_type": (["sigmoid"], "sigmoid"),
    "loss_weights": ([1.0], [1]),
    "label_smoothing": (0.0,),
    "f_divergence_type": ("reverse_kl",),
    "ld_alpha": (1.0,),
    "use_weighting": (False,),
    "sync_ref_model": (False,),
    "truncation_mode": ("keep_start",),
    "reference_free": (False,),
}
"""Settings of TRL that change the loss, with the values that leave it as it is."""


@dataclass(frozen=True)
class PairLoss(JudgedAnswers):
    """The DPO loss of pairs of answers, whose rows lie next to each other."""

    reference: Float[Tensor, "n 2"]  # log-probabilities of the chosen and the rejected answer under the reference model
    beta: float

    kind: ClassVar[str] = "DPO"

    @property
    def count(self) -> float:
        return float(len(self.reference))

    def weighed(self, losses: Float[np.ndarray, " n"]) -> tuple[Int[Tensor, "m u"], Float[Tensor, "m u"]]:
        """What a token's loss adds to that of its pair: sigmoid(-beta * m) is 1 - exp(-loss)."""
        target, counted = self.predictions
        slope = self.beta * torch.as_tensor(-np.expm1(-losses), device=target.device).clamp(min=SMALLEST)
        return target, counted * torch.stack([slope, -slope], 1).reshape(-1, 1)

    def combined(self, token: Float[Tensor, "m u"]) -> Float[Tensor, " n"]:
        answers = -(token * self.tokens.counted).sum(1).reshape(-1, 2)
        ratios = answers - self.reference.to(answers.dtype)
        trained = self.tokens.counted.any(1).reshape(-1, 2).any(1)  # the prompt of others fills what the model reads
        return lost(self.beta * (ratios[:, 0] - ratios[:, 1])).masked_fill(~trained, torch.nan)


@dataclass(frozen=True)
class DPO(OnPairs, CausalLM):
    """Pairs of answers; a question with one answer has the loss of its tokens, as in an index of single answers."""

    beta: float = BETA
    assumed: str = ""  # what was taken for granted, for people

    kind: ClassVar[str] = "DPO"
    trainer: ClassVar[str] = "dpo"
    pairing: ClassVar[Pairing | None] = "answers"
    adapter_type, replays, refers = None, False, True

    @property
    def settings(self) -> str:
        return f"DPO: beta {self.beta!r}"

    @classmethod
    def replaces(cls, task: Task) -> bool:
        return type(task) is CausalLM

    @classmethod
    def settled(cls, task: Task, said: Training, base: str | None) -> Task:
        refuse_settings(said, _PLAIN)
        known: object = said.settings.get("reference")
        reference = base or (StoredName(known) if isinstance(known, str) and known else None)
        assumed = f"{said.source} says that TRL's DPOTrainer trained this run: as by its defaults, beta is {BETA:g}"
        return cls(
            beta=number_of(said, "beta", BETA),
            reference=reference,
            assumed=""
            if "beta" in said.settings
            else f"{assumed}, and the loss sigmoid; train with proponent.Recorder()",
        )

    def refuse_training(self, folder: Path, checkpoints: Sequence[Path]) -> None:
        """Its settings have been read; TRL's trainers of pairs smooth no labels of tokens."""

    def notes(self, masks: object) -> list[str]:
        return [self.assumed] if self.assumed else []

    def figures(self, example: Example) -> Float[np.ndarray, " 2"]:
        """Log-probabilities under the reference model, where the data gives both."""
        assert isinstance(example.content, Preference)
        given = example.content.figures
        return np.asarray([given.get(name, np.nan) for name in ("ref_chosen_logps", "ref_rejected_logps")])

    def objective(self, batch: Batch, reduction: Reduction = "mean", against: Sequence[int] | None = None) -> Objective:
        if not batch.paired:
            return self.token_loss(batch, reduction)
        assert batch.answers is not None
        return PairLoss(self.token_loss(batch, "sum"), batch.answers, self.beta)
