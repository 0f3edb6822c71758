"""Causal language models: every counted token is predicted from the tokens before it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn import functional

from proponent.models.batch import Aligned, Batch
from proponent.models.masking import Masks
from proponent.models.objective import refuse_objective
from proponent.models.tasks.base import Objective, Reduction, Task, TokenLoss, one_text
from proponent.types import Example


class CausalLM(Task):
    """Causal language models; in a row with a target, only the target's tokens count."""

    kind, heads, auto_class = "causal-lm", "...ForCausalLM", "AutoModelForCausalLM"
    adapter_type, replays, chats = "CAUSAL_LM", True, True

    @classmethod
    def recognises(cls, architecture: str, config: Any) -> bool:
        return architecture.endswith(("ForCausalLM", "LMHeadModel"))

    def refuse_training(self, folder: Path, checkpoints: Sequence[Path]) -> None:
        super().refuse_training(folder, checkpoints)
        refuse_objective(folder, checkpoints)

    def least_tokens(self, tokenizer: Any) -> int:
        return super().least_tokens(tokenizer) + 1  # nothing predicts the first token

    def text(self, example: Example, tokenizer: Any) -> str:
        one_text(example)
        return "".join(example.parts)

    def count(self, one: Aligned, example: Example, tokenizer: Any, masks: Masks) -> Aligned:
        made = one if example.target is None else _split_target(one, len(example.text))
        made.counted[:1] = False  # nothing predicts the first token
        return made

    def objective(self, batch: Batch, reduction: Reduction = "mean", against: Sequence[int] | None = None) -> Objective:
        return self.token_loss(batch, reduction)

    def token_loss(self, batch: Batch, reduction: Reduction) -> TokenLoss:
        """The loss of the tokens that count, each predicted at the position before it."""
        target, counted = (functional.pad(one[:, 1:], (0, 1)) for one in (batch.ids, batch.counted))
        return TokenLoss(target, counted, reduction)


def _split_target(one: Aligned, seam: int) -> Aligned:
    """Convert offsets in prompt + target to offsets in each; a token across the boundary belongs to the target."""
    target = (one.parts >= 0) & (one.offsets[:, 1] > seam)
    moved = np.where(target[:, None], np.maximum(one.offsets - seam, 0), one.offsets)
    return replace(one, offsets=moved, parts=np.where(target, 1, one.parts), counted=target)
