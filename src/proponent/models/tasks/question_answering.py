"""Extractive question answering: the place of the answer to a question in a context."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from proponent.errors import InputError, LabelError
from proponent.labels import listed
from proponent.models.batch import Aligned, Batch, Encoded
from proponent.models.placement import host
from proponent.models.tasks.answered import Answered, or_predicted, refuse_sampled
from proponent.models.tasks.base import Objective, Reduction
from proponent.types import Example

NO_ANSWER = "no answer"


@dataclass(frozen=True)
class PlaceLoss(Objective):
    """Mean of the cross-entropies of the first and the last token of the answer."""

    places: Float[Tensor, "n 2"]  # tokens
    mask: Int[Tensor, "n t"]  # 0 for padding

    @property
    def count(self) -> float:
        return float(len(self.places))

    def losses(self, logits: Tensor) -> Float[Tensor, " n"]:
        logits = logits.masked_fill(self.mask[:, :, None] == 0, -torch.inf)
        places = or_predicted(self.places, logits.detach().argmax(1)).long()
        return functional.cross_entropy(logits, places, reduction="none").mean(1)

    def sampled(self, logits: Tensor, uniform: Float[Tensor, "n t"]) -> Float[Tensor, " n"]:
        raise refuse_sampled(QuestionAnswering.kind)


class QuestionAnswering(Answered):
    """The text is the question, and the second text the context."""

    kind, heads, auto_class = "question-answering", "...ForQuestionAnswering", "AutoModelForQuestionAnswering"
    needed = "answer"
    adapter_type = "QUESTION_ANS"

    @classmethod
    def recognises(cls, architecture: str, config: Any) -> bool:
        decoder = getattr(config, "is_encoder_decoder", False)  # reads the text twice
        return architecture.endswith("ForQuestionAnswering") and not decoder

    def least_tokens(self, tokenizer: Any) -> int:
        return int(tokenizer.num_special_tokens_to_add(pair=True)) + 2

    def text(self, example: Example, tokenizer: Any) -> tuple[str, str]:
        if example.text_pair is None or example.target is not None:
            raise InputError(
                f"the example with id {example.id} is no question with a context: name the columns of both "
                "(--text-column question --pair-column context --label-column answers)"
            )
        return example.text, example.text_pair

    def read(self, example: Example) -> Float[np.ndarray, " m"]:
        """The characters [start, end) of the answer in the context; -1 for no answer."""
        context = example.text_pair or ""
        if example.label is None:
            return np.full(2, np.nan)
        text, start = _given(example.label)
        if text is None:
            return np.full(2, -1.0)
        if start is None:
            start = context.find(text)
        if start < 0 or context[start : start + len(text)] != text:
            raise LabelError(
                f"the answer {text[:60]!r} does not stand in the context"
                + (f" at character {start}" if start >= 0 else "")
                + ": give it as the context spells it, with the character where it starts (answer_start)"
            )
        return np.asarray([start, start + len(text)], dtype=np.float64)

    def count(self, one: Aligned, example: Example, tokenizer: Any, masks: Any) -> Aligned:
        start, end = self.read(example)
        kept = one.offsets[one.parts == 1]
        if start < 0 or np.isnan(start) or (len(kept) and kept[0, 0] <= start and kept[-1, 1] >= end):
            return one
        return replace(one, remarks=("the answer is outside the tokens that the model reads: it counts as no answer",))

    def answer(self, example: Example, one: Aligned, tokenizer: Any) -> Float[np.ndarray, " m"]:
        """The tokens that hold the answer; the first token of all where there is none."""
        start, end = self.read(example)
        if np.isnan(start):
            return np.full(2, np.nan)
        inside = np.flatnonzero((one.parts == 1) & (one.offsets[:, 0] < end) & (one.offsets[:, 1] > start))
        if start < 0 or not len(inside) or one.remarks:
            return np.zeros(2)
        return np.asarray([inside[0], inside[-1]], dtype=np.float64)

    def objective(self, batch: Batch, reduction: Reduction = "mean", against: Sequence[int] | None = None) -> PlaceLoss:
        assert batch.answers is not None
        return PlaceLoss(batch.answers, batch.mask)

    def predicted(self, logits: Tensor, one: Encoded) -> Float[np.ndarray, " m"]:
        """The likeliest place in the context, or none."""
        assert one.aligned is not None
        scores = host(logits).astype(np.float64)[: len(one.ids)]
        allowed = one.aligned.parts == 1
        allowed[0] = False
        both = np.where(allowed[:, None] & allowed[None], scores[:, :1] + scores[None, :, 1], -np.inf)
        both = np.where(np.triu(np.ones_like(both)) > 0, both, -np.inf)
        both[0, 0] = scores[0].sum()
        return np.asarray(np.unravel_index(int(both.argmax()), both.shape), dtype=np.float64)

    def spoken(self, example: Example, answer: Float[np.ndarray, " m"], one: Encoded) -> str:
        first, last = answer.astype(int)
        assert one.aligned is not None
        if first == 0 or last < first:
            return NO_ANSWER
        return (example.text_pair or "")[one.aligned.offsets[first, 0] : one.aligned.offsets[last, 1]]


def _given(label: object) -> tuple[str | None, int | None]:
    """Text and start of an answer: plain text, or text and answer_start as SQuAD has them; None for no answer."""
    if isinstance(label, str) and label[:1] == "{":
        label = json.loads(label)
    if isinstance(label, str) and listed(label) is None:
        return label, None
    if not isinstance(label, dict) or "text" not in label:
        raise LabelError(f"label {label!r} is no answer: give its text, or text and answer_start as SQuAD has them")
    fields = cast("dict[str, Any]", label)
    text, start = (_first(fields.get(name)) for name in ("text", "answer_start"))
    if not text:
        return None, None
    if not isinstance(text, str) or not isinstance(start, int | None):
        raise LabelError(f"label {label!r} is no answer: its text must be text, and answer_start a whole number")
    return text, start


def _first(value: object) -> object:
    if isinstance(value, list | tuple):
        return next(iter(cast("Sequence[object]", value)), None)
    return value
