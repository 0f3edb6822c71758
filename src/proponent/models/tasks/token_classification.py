"""Token classification: a tag for each word of a text, such as the entity that it belongs to."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from proponent.errors import InputError, LabelError
from proponent.labels import NO_LABELS, Labels, listed
from proponent.models.batch import Aligned, Batch, Encoded
from proponent.models.class_settings import class_names
from proponent.models.placement import host
from proponent.models.tasks.answered import LEFT_OUT, Answered, or_predicted, refuse_sampled
from proponent.models.tasks.base import Objective, Reduction, Task
from proponent.types import Example

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class TagLoss(Objective):
    """Cross-entropy of the tags, at the first token of each word."""

    tags: Float[Tensor, "n t"]  # numbers of tags, -100 at other tokens
    reduction: Reduction = "mean"

    @property
    def count(self) -> float:
        return float((self.tags != LEFT_OUT).sum())

    def losses(self, logits: Tensor) -> Float[Tensor, " n"]:
        tags = or_predicted(self.tags, logits.detach().argmax(-1)).long()
        each = functional.cross_entropy(logits.transpose(1, 2), tags, reduction="none")
        total, counted = each.sum(1), (tags != int(LEFT_OUT)).sum(1)
        scale = counted if self.reduction == "mean" else counted.clamp(max=1)
        return total / torch.where(counted > 0, scale.to(total.dtype), torch.nan)

    def sampled(self, logits: Tensor, uniform: Float[Tensor, "n t"]) -> Float[Tensor, " n"]:
        raise refuse_sampled(TokenClassification.kind)


@dataclass(frozen=True)
class TokenClassification(Answered):
    """Words are what spaces separate; a list of words is read as such a text."""

    names: Labels = NO_LABELS  # of the tags

    kind, heads, auto_class = "token-classification", "...ForTokenClassification", "AutoModelForTokenClassification"
    needed = "tags"
    adapter_type, answers_by_token = "TOKEN_CLS", True

    @classmethod
    def recognises(cls, architecture: str, config: Any) -> bool:
        return architecture.endswith("ForTokenClassification")

    @classmethod
    def fit_adapter(cls, config: Any, outputs: Callable[[], int]) -> None:
        config.num_labels = outputs()

    @classmethod
    def of(cls, architecture: str, config: Any) -> Task:
        names = class_names(config)
        return cls(outputs=len(names), names=Labels(names))

    def text(self, example: Example, tokenizer: Any) -> str:
        if len(example.parts) > 1:
            raise InputError(
                f"the example with id {example.id} has a second text, and a {self.kind} model reads only one: leave "
                "it out (--pair-column '', --target-column '')"
            )
        return example.text

    def read(self, example: Example) -> Float[np.ndarray, " m"]:
        """One tag for each word; none (null, or -100) for a word that does not count."""
        words = _WORD.findall(example.text)
        if example.label is None:
            return np.full(len(words), np.nan)
        given = listed(example.label)
        if given is None:
            raise LabelError(f"label {example.label!r} is no list: give one tag for each word, such as ['O', 'B-PER']")
        if len(given) != len(words):
            raise LabelError(f"{len(given)} tags for {len(words)} words: give one tag for each word of the text")
        return np.asarray([LEFT_OUT if tag in (None, -100) else self.names.number(tag) for tag in given], np.float64)

    def answer(self, example: Example, one: Aligned, tokenizer: Any) -> Float[np.ndarray, " m"]:
        tags, found = self.read(example), np.full(len(one.ids), LEFT_OUT)
        starts, ends = one.offsets[:, 0], one.offsets[:, 1]
        for word, tag in zip(_WORD.finditer(example.text), tags, strict=True):
            inside = np.flatnonzero((one.parts == 0) & (ends > word.start()) & (starts < word.end()) & (ends > starts))
            if len(inside):
                found[inside[0]] = tag
        return found

    def objective(self, batch: Batch, reduction: Reduction = "mean", against: Sequence[int] | None = None) -> TagLoss:
        assert batch.answers is not None
        missing = batch.mask.shape[1] - batch.answers.shape[1]
        tags = functional.pad(batch.answers, (0, missing), value=LEFT_OUT)
        return TagLoss(tags.masked_fill(batch.mask == 0, LEFT_OUT), reduction)

    def predicted(self, logits: Tensor, one: Encoded) -> Float[np.ndarray, " m"]:
        assert one.answer is not None
        guess = host(logits.argmax(-1)).astype(np.float64)[: len(one.answer)]
        return np.where(one.answer == LEFT_OUT, LEFT_OUT, guess)

    def spoken(self, example: Example, answer: Float[np.ndarray, " m"], one: Encoded) -> str:
        """The tagged words, without those outside of everything."""
        assert one.aligned is not None
        said: list[str] = []
        for word in _WORD.finditer(example.text):
            starts, ends = one.aligned.offsets[:, 0], one.aligned.offsets[:, 1]
            own = answer[(starts < word.end()) & (ends > word.start()) & (answer != LEFT_OUT)]
            name = self.names.name(int(own[0])) if len(own) else None
            if name not in {None, "O"}:
                said.append(f"{word[0]} {name}")
        return ", ".join(said) or "no tagged word"
