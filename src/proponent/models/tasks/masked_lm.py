"""Masked language models: tokens hidden from the model, drawn or marked by a gap, are predicted."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from proponent.errors import InputError, RunError
from proponent.models.batch import Aligned, Batch, Encoded
from proponent.models.masking import Masks
from proponent.models.tasks.base import Reduction, Task, TokenLoss, one_text
from proponent.types import Example


class MaskedLM(Task):
    """Masked language models; in a row with a target, its gap is masked."""

    kind, heads, auto_class = "masked-lm", "...ForMaskedLM", "AutoModelForMaskedLM"
    masks = True

    @classmethod
    def recognises(cls, architecture: str, config: Any) -> bool:
        return architecture.endswith("ForMaskedLM")

    def refuse_tokenizer(self, folder: Path, tokenizer: Any) -> None:
        if tokenizer.mask_token is None:
            raise RunError(f"the tokenizer in {folder} has no mask token: a masked language model needs one")

    def text(self, example: Example, tokenizer: Any) -> str:
        text, mask = one_text(example), tokenizer.mask_token
        gaps = text.count(mask)
        if example.target is None:
            if gaps:
                raise InputError(
                    f"the example with id {example.id} has a gap {mask} without the text that belongs there: give "
                    "this text as its target (--target, --target-column)"
                )
            return text
        if gaps != 1:
            raise InputError(
                f"the example with id {example.id} has a target and {gaps} gaps: write {mask} exactly once, in place "
                "of the target"
            )
        return text.replace(mask, example.target)

    def count(self, one: Aligned, example: Example, tokenizer: Any, masks: Masks) -> Aligned:
        if example.target is None:
            return replace(one, counted=masks.draw(one.ids, one.parts))
        mask = tokenizer.mask_token
        return _split_gap(one, example.text.index(mask), len(example.target), len(mask))

    def predict(self, one: Encoded, tokenizer: Any, pad: int) -> Encoded:
        hidden = np.where(one.counted, tokenizer.mask_token_id, one.ids)
        return replace(one, ids=hidden, targets=one.ids, target_words=one.words)

    def objective(self, batch: Batch, reduction: Reduction = "mean", against: Sequence[int] | None = None) -> TokenLoss:
        assert batch.targets is not None
        return TokenLoss(batch.targets, batch.counted, reduction)

    def notes(self, masks: Masks) -> list[str]:
        return [
            f"{masks.share:.0%} of the tokens of each text are masked and predicted; seed {masks.seed} and the tokens "
            "of the text determine the choice; in a row with a target, its gap is masked"
        ]


def _split_gap(one: Aligned, begin: int, target: int, mask: int) -> Aligned:
    """Convert offsets in the filled text to offsets in text and target."""
    end, offsets, text = begin + target, one.offsets, one.parts >= 0
    inside = text & (offsets[:, 1] > begin) & (offsets[:, 0] < end)
    after = text & (offsets[:, 0] >= end) & ~inside
    moved = np.where(after[:, None], offsets + mask - target, offsets)
    moved = np.where(inside[:, None], np.clip(offsets - begin, 0, target), moved)
    return replace(one, offsets=moved, parts=np.where(inside, 1, one.parts), counted=inside)
