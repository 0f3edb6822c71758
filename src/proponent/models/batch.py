"""Padded examples on their way through a model, and the losses that a task takes of its output."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from proponent.models.task import CausalLM, Classification, Tokens

Kind = Literal["classification", "causal-lm", "masked-lm", "seq2seq"]
"""Task heads."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """What the decoder of an encoder-decoder reads: the target, shifted right by one.

    Attributes:
        mask: which positions are tokens and no padding.
        words: word of each token; -1 for special tokens, the start among them, and padding.
    """

    mask: Bool[Tensor, "n u"]
    words: Int[np.ndarray, "n u"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded examples on their way through the model.

    Attributes:
        inputs: what the model's forward takes.
        words: word of each token, -1 for special tokens and padding.
        counted: tokens whose prediction counts; False on padding. Of the targets, where there are some.
        labels: class numbers; -1 where the example has none.
        targets: what is predicted at each position of the output; None for a classifier, and for a causal language
            model, which predicts the next token.
        target_words: word of each of them.
        decoder: what the decoder reads; None for a model without one.
    """

    inputs: dict[str, Tensor]
    words: Int[np.ndarray, "n t"]
    counted: Bool[Tensor, "n u"]
    labels: Int[Tensor, " n"]
    targets: Int[Tensor, "n u"] | None = None
    target_words: Int[np.ndarray, "n u"] | None = None
    decoder: Decoder | None = None

    @property
    def ids(self) -> Int[Tensor, "n t"]:
        """Token ids, padding included."""
        return self.inputs["input_ids"]

    @property
    def mask(self) -> Int[Tensor, "n t"]:
        """1 for tokens, 0 for padding."""
        return self.inputs["attention_mask"]

    @property
    def predicted_words(self) -> Int[np.ndarray, "n u"]:
        """Word of the token that each position of the output predicts."""
        if self.target_words is not None:
            return self.target_words
        return np.concatenate([self.words[:, 1:], np.full_like(self.words[:, :1], -1)], axis=1)

    def classes(self, against: Sequence[int] | None = None) -> Classification:
        """The losses of a classifier."""
        return Classification(self.labels, None if against is None else torch.tensor(list(against)))

    def tokens(self, reduction: Literal["mean", "sum"] = "mean") -> CausalLM | Tokens:
        """The losses of a language model."""
        if self.targets is None:
            return CausalLM(self.ids, self.counted, reduction)
        return Tokens(self.targets, self.counted, reduction)

    def task(self, kind: Kind) -> Classification | CausalLM | Tokens:
        """The losses that training takes."""
        return self.classes() if kind == "classification" else self.tokens()
