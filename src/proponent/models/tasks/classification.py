"""Sequence classification: one label for a text or a pair of texts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from proponent.errors import DataError, InputError, LabelError, RunError
from proponent.labels import Labels
from proponent.models.batch import Batch
from proponent.models.class_settings import class_names
from proponent.models.masking import Masks
from proponent.models.tasks.base import Objective, Reduction, Task, sample_labels
from proponent.types import Example


@dataclass(frozen=True)
class LabelLoss(Objective):
    """Cross-entropy of one label per example, or the contrast of two."""

    labels: Int[Tensor, " n"]  # class numbers
    against: Int[Tensor, " n"] | None = None  # class numbers whose loss is subtracted; None for no contrast
    empty: Bool[Tensor, " n"] | None = None  # texts without a token, whose loss is not a number

    @property
    def count(self) -> float:
        return float(len(self.labels))

    def losses(self, logits: Tensor) -> Float[Tensor, " n"]:
        loss = functional.cross_entropy(logits, self.labels, reduction="none")
        if self.empty is not None:
            loss = loss.masked_fill(self.empty, torch.nan)
        if self.against is None:
            return loss
        return loss - functional.cross_entropy(logits, self.against, reduction="none")

    def sampled(self, logits: Tensor, uniform: Float[Tensor, "n t"]) -> Float[Tensor, " n"]:
        return functional.cross_entropy(logits, sample_labels(logits, uniform[:, 0]), reduction="none")

    def logits(self, logits: Tensor) -> Float[Tensor, " n"]:
        own = logits.gather(1, self.labels[:, None])[:, 0]
        return -own if self.against is None else logits.gather(1, self.against[:, None])[:, 0] - own


def refuse_end_token(example: Example, tokenizer: Any) -> None:
    """Refuse the end token in a text: an encoder-decoder with a classifier reads its output at the last one."""
    end = tokenizer.eos_token
    if end is not None and any(str(end) in part for part in example.parts):
        raise InputError(
            f"the text of row {example.row} (id {example.id}) contains {end}, the token at which this model reads its "
            "output: take it out of the text"
        )


@dataclass(frozen=True)
class Classification(Task):
    """Sequence classification."""

    reads_at_end: bool = False  # whether the model reads its output at the end token of the text

    kind, heads, auto_class = "classification", "...ForSequenceClassification", "AutoModelForSequenceClassification"
    adapter_type, replays, needs_pad = "SEQ_CLS", True, True
    predicts_tokens = False

    @classmethod
    def recognises(cls, architecture: str, config: Any) -> bool:
        return architecture.endswith("ForSequenceClassification") and cls.fits(config)

    @classmethod
    def of(cls, architecture: str, config: Any) -> Task:
        labels, problem = class_names(config), getattr(config, "problem_type", None)
        if len(labels) < 2 or problem not in {None, "single_label_classification"}:
            raise RunError(
                f"{architecture} with {len(labels)} output(s) and problem type {problem}: a classifier needs at least "
                "two labels, and the problem type regression, single_label_classification or multi_label_classification"
            )
        return cls(Labels(labels), reads_at_end=bool(getattr(config, "is_encoder_decoder", False)))

    @classmethod
    def fit_adapter(cls, config: Any, outputs: Callable[[], int]) -> None:
        config.num_labels = outputs()

    def least_tokens(self, tokenizer: Any) -> int:
        return int(tokenizer.num_special_tokens_to_add(pair=True)) + 1

    def text(self, example: Example, tokenizer: Any) -> str | tuple[str, str]:
        if example.target is not None:
            raise InputError(
                f"the example with id {example.id} has a target, and a classifier reads no target: give it as the "
                "second text (--pair-column), or leave it out (--target-column '')"
            )
        if self.reads_at_end:
            refuse_end_token(example, tokenizer)
        return example.text if example.text_pair is None else (example.text, example.text_pair)

    def objective(self, batch: Batch, reduction: Reduction = "mean", against: Sequence[int] | None = None) -> Objective:
        other = None if against is None else torch.tensor(list(against), device=batch.labels.device)
        return LabelLoss(batch.labels, other, batch.mask.sum(1) == 0)

    def probabilities(self, logits: Tensor) -> Float[Tensor, "n l"] | None:
        return torch.softmax(logits.detach().float(), -1)

    def notes(self, masks: Masks) -> list[str]:
        if not self.reads_at_end:
            return []
        return ["the decoder of this model reads the text one token later: in its layers, words are one token off"]

    def label_numbers(self, examples: Iterable[Example], source: str) -> list[int]:
        task = self.named(getattr(examples, "label_names", None) or ())
        if task is not self:
            return task.label_numbers(examples, source)
        known: dict[object, int] = {}
        numbers: list[int] = []
        missing: list[str] = []
        for example in examples:
            if example.label is None:
                missing.append(str(example.row))
                continue
            if example.label not in known:
                try:
                    known[example.label] = self.labels.number(example.label)
                except LabelError as error:
                    raise LabelError(f"{source}, row {example.row}: {error}") from error
            numbers.append(known[example.label])
        if missing:
            raise DataError(
                f"{len(missing)} rows of {source} have no label (rows {', '.join(missing[:5])}): "
                "name the column with --label-column, or fill it in"
            )
        return numbers
