"""Model inputs of examples: token ids with their words, singly and padded into batches."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from proponent.types import Example, Pair, Prompted, Span, Text


@dataclass(frozen=True, slots=True)
class Aligned:
    """One tokenized example: its tokens, their part and position, and which of them count."""

    ids: Int[np.ndarray, " t"]  # token ids
    types: Int[np.ndarray, " t"] | None  # segment of each token, for models that need it; else None
    offsets: Int[np.ndarray, "t 2"]  # character offsets of each token in its part
    parts: Int[np.ndarray, " t"]  # part of each token; -1 for special tokens, -2 for the markup of a chat template
    counted: Bool[np.ndarray, " u"]  # tokens whose prediction counts in the loss
    cuts: tuple[int | None, int | None] = (None, None)  # where each part was truncated; None for a complete part
    remarks: tuple[str, ...] = ()  # what a reader must know of how it was tokenized
    answer: Float[np.ndarray, " m"] | None = None  # what the loss reads that is neither a class nor a token
    rejected: "Aligned | None" = None  # of a pair of answers: the second one, after the same prompt

    @property
    def sides(self) -> tuple["Aligned", ...]:
        """The sequences that the model reads: one, or two of a pair."""
        return (self,) if self.rejected is None else (self, self.rejected)

    @property
    def n_counted(self) -> int:
        """Number of tokens that count in the loss."""
        return sum(int(side.counted.sum()) for side in self.sides)

    @property
    def length(self) -> int:
        """Number of tokens that the model reads."""
        return len(self.ids) + (0 if self.rejected is None else len(self.rejected.ids))


def stretches_of(whole: Aligned, example: Example, *, before: bool) -> tuple[Span, ...]:
    """What the model reads of each part of a truncated example, by character; `before`: the beginning is unread."""
    plain = isinstance(example.content, Text | Pair | Prompted)
    found: list[Span] = []
    for part, text in enumerate(example.parts):
        read = [_stretch(side, part, len(text), plain=plain, before=before) for side in whole.sides]
        some = [one for one in read if one[0] < one[1]] or [(0, 0)]
        found.append((min(start for start, _ in some), max(stop for _, stop in some)))
    return tuple(found)


def _stretch(side: Aligned, part: int, length: int, *, plain: bool, before: bool) -> Span:
    own = side.offsets[side.parts == part]
    if not len(own):
        return (0, 0)
    if not plain:  # conversations and rows of tokens: the last part with a token is the truncated one
        complete = side.cuts == (None, None) or part < int(side.parts.max())
        return (0, length if complete else int(own[:, 1].max()))
    cut = side.cuts[part]
    if cut is None:
        return (0, length)
    return (cut, length) if before else (0, cut)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One encoded example."""

    ids: Int[np.ndarray, " t"]  # token ids
    type_ids: Int[np.ndarray, " t"] | None  # segment of each token, for models that need it; else None
    # position of each token's word in `proponent.words.words_of(example)`; -1 for special tokens
    words: Int[np.ndarray, " t"]
    counted: Bool[np.ndarray, " u"]  # tokens whose prediction counts in the loss of a language model
    # character offset in the first text where the model's limit truncated it; None for a complete text
    truncated_at: int | None = None
    pair_truncated_at: int | None = None  # the same for the second text
    # the tokenizer truncates on the left: the model does not read what precedes the offset, rather than what follows it
    cut_before: bool = False
    # the token predicted at each position of the output, to which `counted` then refers: the unmasked text, or the
    # decoder's target; None for a classifier or a causal language model
    targets: Int[np.ndarray, " u"] | None = None
    target_words: Int[np.ndarray, " u"] | None = None  # word of each predicted token
    start: int | None = None  # first token that a decoder reads; None for a model without a decoder
    remarks: tuple[str, ...] = ()  # what a reader must know of how it was tokenized
    answer: Float[np.ndarray, " m"] | None = None  # what the loss reads that is neither a class nor a token
    aligned: Aligned | None = None  # with an answer: the places of the tokens
    rejected: "Encoded | None" = None  # of a pair of answers: the second one, after the same prompt

    @property
    def sides(self) -> tuple["Encoded", ...]:
        """The sequences that the model reads: one, or two of a pair."""
        return (self,) if self.rejected is None else (self, self.rejected)

    @property
    def n_counted(self) -> int:
        """Number of tokens that count in the loss."""
        return sum(int(side.counted.sum()) for side in self.sides)

    @property
    def truncated(self) -> bool:
        """Whether a text is longer than the model reads."""
        return any(side.truncated_at is not None or side.pair_truncated_at is not None for side in self.sides)

    @property
    def length(self) -> int:
        """Number of tokens that the model reads, including the decoder's."""
        more = 0 if self.start is None or self.targets is None else len(self.targets)
        return len(self.ids) + (more if self.rejected is None else len(self.rejected.ids))


def encoded_bytes(tokens: int, examples: int) -> int:
    """Estimate the memory of encoded examples."""
    return 25 * tokens + 600 * examples


@dataclass(frozen=True, slots=True)
class Decoder:
    """The input of an encoder-decoder's decoder: the target, shifted right by one."""

    mask: Bool[Tensor, "n u"]  # True for tokens, False for padding
    words: Int[np.ndarray, "n u"]  # word of each token; -1 for padding and special tokens, including the start token


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded batch of examples."""

    inputs: dict[str, Tensor]  # what the model's forward takes
    words: Int[np.ndarray, "n t"]  # word of each token, -1 for special tokens and padding
    # tokens whose prediction counts; False for padding. Refers to the targets, if there are any
    counted: Bool[Tensor, "n u"]
    labels: Int[Tensor, " m"]  # class numbers; -1 where the example has none
    # the token predicted at each position of the output; None for a classifier, and for a causal language model, which
    # predicts the next token
    targets: Int[Tensor, "n u"] | None = None
    target_words: Int[np.ndarray, "n u"] | None = None  # word of each predicted token
    decoder: Decoder | None = None  # the decoder's input; None for a model without a decoder
    # what the loss reads that is neither a class nor a token, padded with NaN; None for other tasks
    answers: Float[Tensor, "m _"] | None = None
    # whether each example is two rows of the batch, next to each other: the chosen and the rejected answer
    paired: bool = False

    def to(self, device: str) -> "Batch":
        """The batch with its tensors on a device; positions of words stay on the host."""
        if device == "cpu":
            return self
        decoder, answers, targets = self.decoder, self.answers, self.targets
        return replace(
            self,
            inputs={name: one.to(device) for name, one in self.inputs.items()},
            counted=self.counted.to(device),
            labels=self.labels.to(device),
            targets=None if targets is None else targets.to(device),
            decoder=None if decoder is None else replace(decoder, mask=decoder.mask.to(device)),
            answers=None if answers is None else answers.to(device, torch.float32 if device == "mps" else None),
        )

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
        """Word of the token that each output position predicts."""
        if self.target_words is not None:
            return self.target_words
        return np.concatenate([self.words[:, 1:], np.full_like(self.words[:, :1], -1)], axis=1)
