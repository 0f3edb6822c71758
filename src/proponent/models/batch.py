"""Examples on their way through a model: token ids with their words, alone and padded into batches."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Aligned:
    """What the tokenizer says of one example: its tokens, where in which of its parts they stand, and what counts."""

    ids: Int[np.ndarray, " t"]  # token ids
    types: Int[np.ndarray, " t"] | None  # segment of each token, for models that want it; else None
    offsets: Int[np.ndarray, "t 2"]  # characters of each token in its part
    parts: Int[np.ndarray, " t"]  # part of each token; -1 for special tokens
    counted: Bool[np.ndarray, " u"]  # tokens whose prediction counts in the loss
    cuts: tuple[int | None, int | None] = (None, None)  # where the model's limit cut each part; None when whole


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as the model meets it."""

    ids: Int[np.ndarray, " t"]  # token ids
    type_ids: Int[np.ndarray, " t"] | None  # segment of each token, for models that want it; else None
    # position of each token's word in `proponent.words.words(parts)`; -1 for special tokens
    words: Int[np.ndarray, " t"]
    counted: Bool[np.ndarray, " u"]  # tokens whose prediction counts in the loss of a language model
    # character offset into the first text where the model's limit cut it; None when whole
    truncated_at: int | None = None
    pair_truncated_at: int | None = None  # the same for the second text
    # the tokenizer cuts on the left: what stands before the cut was not read, instead of what follows
    cut_before: bool = False
    # what is predicted at each position of the output, `counted` then being of these: the text before it was masked, or
    # the decoder's target; None for a classifier or a causal language model
    targets: Int[np.ndarray, " u"] | None = None
    target_words: Int[np.ndarray, " u"] | None = None  # word of each of them
    start: int | None = None  # first token that a decoder reads; None for a model without a decoder

    @property
    def length(self) -> int:
        """Tokens that the model reads, those of the decoder among them."""
        return len(self.ids) + (0 if self.start is None or self.targets is None else len(self.targets))


def encoded_bytes(tokens: int, examples: int) -> int:
    """Say how much memory encoded examples take, about."""
    return 25 * tokens + 600 * examples


@dataclass(frozen=True, slots=True)
class Decoder:
    """What the decoder of an encoder-decoder reads: the target, shifted right by one."""

    mask: Bool[Tensor, "n u"]  # which positions are tokens and no padding
    words: Int[np.ndarray, "n u"]  # word of each token; -1 for special tokens, the start among them, and padding


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded examples on their way through the model."""

    inputs: dict[str, Tensor]  # what the model's forward takes
    words: Int[np.ndarray, "n t"]  # word of each token, -1 for special tokens and padding
    # tokens whose prediction counts; False on padding. Of the targets, where there are some
    counted: Bool[Tensor, "n u"]
    labels: Int[Tensor, " n"]  # class numbers; -1 where the example has none
    # what is predicted at each position of the output; None for a classifier, and for a causal language model, which
    # predicts the next token
    targets: Int[Tensor, "n u"] | None = None
    target_words: Int[np.ndarray, "n u"] | None = None  # word of each of them
    decoder: Decoder | None = None  # what the decoder reads; None for a model without one

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
