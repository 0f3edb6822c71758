"""Examples on their way through a model: token ids with their words, alone and padded into batches."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Aligned:
    """What the tokenizer says of one example: its tokens, where in which of its parts they stand, and what counts.

    Attributes:
        ids: token ids.
        types: segment of each token, for models that want it; else None.
        offsets: characters of each token in its part.
        parts: part of each token; -1 for special tokens.
        counted: tokens whose prediction counts in the loss.
        cuts: where the model's limit cut each part; None when whole.
    """

    ids: Int[np.ndarray, " t"]
    types: Int[np.ndarray, " t"] | None
    offsets: Int[np.ndarray, "t 2"]
    parts: Int[np.ndarray, " t"]
    counted: Bool[np.ndarray, " u"]
    cuts: tuple[int | None, int | None] = (None, None)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as the model meets it.

    Attributes:
        ids: token ids.
        type_ids: segment of each token, for models that want it; else None.
        words: position of each token's word in `proponent.words.words(parts)`; -1 for special tokens.
        counted: tokens whose prediction counts in the loss of a language model.
        truncated_at: character offset into the first text where the model's limit cut it; None when whole.
        pair_truncated_at: the same for the second text.
        cut_before: the tokenizer cuts on the left: what stands before the cut was not read, instead of what follows.
        targets: what is predicted at each position of the output, `counted` then being of these: the text before it
            was masked, or the decoder's target; None for a classifier or a causal language model.
        target_words: word of each of them.
        start: first token that a decoder reads; None for a model without a decoder.
    """

    ids: Int[np.ndarray, " t"]
    type_ids: Int[np.ndarray, " t"] | None
    words: Int[np.ndarray, " t"]
    counted: Bool[np.ndarray, " u"]
    truncated_at: int | None = None
    pair_truncated_at: int | None = None
    cut_before: bool = False
    targets: Int[np.ndarray, " u"] | None = None
    target_words: Int[np.ndarray, " u"] | None = None
    start: int | None = None

    @property
    def length(self) -> int:
        """Tokens that the model reads, those of the decoder among them."""
        return len(self.ids) + (0 if self.start is None or self.targets is None else len(self.targets))


def encoded_bytes(tokens: int, examples: int) -> int:
    """Say how much memory encoded examples take, about."""
    return 25 * tokens + 600 * examples


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
