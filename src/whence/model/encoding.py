"""Texts to token ids, with the word of every token and the tokens that count.

The tokenizer is the run's own; words come from `whence.words`, by character offsets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from whence.types import Example
from whence.words import read


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as the model meets it.

    Attributes:
        ids: token ids.
        type_ids: segment of each token, for models that want it; else None.
        words: position of each token's word in `whence.words.words(parts)`; -1 for special tokens.
        counted: tokens whose prediction counts in the loss of a language model.
        truncated_at: character offset into the first text where the model's limit cut it; None when whole.
        pair_truncated_at: the same for the second text.
    """

    ids: Int[np.ndarray, "t"]
    type_ids: Int[np.ndarray, "t"] | None
    words: Int[np.ndarray, "t"]
    counted: Bool[np.ndarray, "t"]
    truncated_at: int | None = None
    pair_truncated_at: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded examples on their way through the model.

    Attributes:
        inputs: what the model's forward takes.
        words: word of each token, -1 for special tokens and padding.
        counted: tokens whose prediction counts; False on padding.
        labels: class numbers; -1 where the example has none.
    """

    inputs: dict[str, Tensor]
    words: Int[np.ndarray, "n t"]
    counted: Bool[Tensor, "n t"]
    labels: Int[Tensor, "n"]

    @property
    def ids(self) -> Int[Tensor, "n t"]:
        """Token ids, padding included."""
        return self.inputs["input_ids"]

    @property
    def mask(self) -> Int[Tensor, "n t"]:
        """1 for tokens, 0 for padding."""
        return self.inputs["attention_mask"]


class Encoder:
    """Encode examples with a run's tokenizer.

    Args:
        tokenizer: a fast tokenizer.
        kind: the task; a language model reads text and target as one string, a classifier reads a pair as two.
        max_length: most tokens that the model may see.
        pad_id: token id for padding.
    """

    def __init__(
        self, tokenizer: Any, kind: Literal["classification", "causal-lm"], max_length: int, pad_id: int
    ) -> None:
        self.tokenizer = tokenizer
        self.kind = kind
        self.max_length = max_length
        self.pad_id = pad_id

    def lengths(self, examples: Sequence[Example], chunk: int = 1024) -> Int[np.ndarray, "n"]:
        """Count the tokens that the model would see of each example.

        Args:
            examples: the examples.
            chunk: how many are tokenized at once.

        Returns:
            Lengths in tokens, special tokens included.
        """
        counts: list[int] = []
        for start in range(0, len(examples), chunk):
            counts += [len(ids) for ids in self._tokenize(list(examples[start : start + chunk]))["input_ids"]]
        return np.asarray(counts, dtype=np.int64)

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Encode examples.

        Args:
            examples: the examples.

        Returns:
            One Encoded each, in order.
        """
        tokens = self._tokenize(examples)
        return [self._encoded(tokens, position, example) for position, example in enumerate(examples)]

    def collate(self, encoded: Sequence[Encoded], labels: Sequence[int]) -> Batch:
        """Pad encoded examples on the right to the longest of them.

        Args:
            encoded: the examples.
            labels: class number of each, -1 for none.

        Returns:
            One batch.
        """
        longest = max(len(one.ids) for one in encoded)
        shape = (len(encoded), longest)
        ids, mask = np.full(shape, self.pad_id, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        words, counted = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
        types = None if encoded[0].type_ids is None else np.zeros(shape, dtype=np.int64)
        for row, one in enumerate(encoded):
            stop = len(one.ids)
            ids[row, :stop], mask[row, :stop], words[row, :stop], counted[row, :stop] = (
                one.ids,
                1,
                one.words,
                one.counted,
            )
            if types is not None and one.type_ids is not None:
                types[row, :stop] = one.type_ids
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if types is not None:
            inputs["token_type_ids"] = torch.from_numpy(types)
        return Batch(inputs, words, torch.from_numpy(counted), torch.tensor(list(labels), dtype=torch.int64))

    def _tokenize(self, examples: Sequence[Example]) -> Any:
        joined = self.kind == "causal-lm"
        texts = ["".join(one.parts) if joined else one.text for one in examples]
        pairs = None if joined or examples[0].text_pair is None else [one.text_pair or "" for one in examples]
        return self.tokenizer(texts, pairs, truncation=True, max_length=self.max_length, return_offsets_mapping=True)

    def _encoded(self, tokens: Any, position: int, example: Example) -> Encoded:
        ids = np.asarray(tokens["input_ids"][position], dtype=np.int64)
        offsets = np.asarray(tokens["offset_mapping"][position], dtype=np.int64).reshape(-1, 2)
        parts = np.asarray([-1 if part is None else part for part in tokens.sequence_ids(position)], dtype=np.int64)
        type_ids = tokens["token_type_ids"][position] if "token_type_ids" in tokens else None
        counted = np.ones(len(ids), dtype=np.bool_)
        if self.kind == "causal-lm":
            offsets, parts, counted = _split_target(offsets, parts, example)
            counted[:1] = False  # nothing predicts the first token
        cuts = _cuts(tokens.encodings[position], offsets, parts, example)
        words = read(example.parts).assign(offsets, parts)
        types = None if type_ids is None else np.asarray(type_ids, dtype=np.int64)
        return Encoded(ids, types, words, counted, *cuts)


def _split_target(
    offsets: Int[np.ndarray, "t 2"], parts: Int[np.ndarray, "t"], example: Example
) -> tuple[Int[np.ndarray, "t 2"], Int[np.ndarray, "t"], Bool[np.ndarray, "t"]]:
    """Offsets into prompt + target become offsets into each; a token across the seam belongs to the target."""
    if example.target is None:
        return offsets, parts, np.ones(len(parts), dtype=np.bool_)
    seam = len(example.text)
    target = (parts >= 0) & (offsets[:, 1] > seam)
    moved = np.where(target[:, None], np.maximum(offsets - seam, 0), offsets)
    return moved, np.where(target, 1, parts), target


def _cuts(
    encoding: Any, offsets: Int[np.ndarray, "t 2"], parts: Int[np.ndarray, "t"], example: Example
) -> tuple[int | None, int | None]:
    """Where the model's limit cut each text: the end of the last kept token, or None for a whole text."""
    if not encoding.overflowing:
        return None, None
    cuts: list[int | None] = [None, None]
    for part, text in enumerate(example.parts):
        kept = offsets[parts == part]
        end = int(kept[:, 1].max()) if len(kept) else 0
        cuts[part] = end if end < len(text.rstrip()) else None
    return cuts[0], cuts[1]
