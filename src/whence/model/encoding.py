"""Texts to token ids, with the word of every token and the tokens that count.

The tokenizer is the run's own; words come from `whence.words`, by character offsets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from whence.errors import InputError
from whence.types import Example
from whence.words import assign_together, read


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
        cut_before: the tokenizer cuts on the left: what stands before the cut was not read, instead of what follows.
    """

    ids: Int[np.ndarray, " t"]
    type_ids: Int[np.ndarray, " t"] | None
    words: Int[np.ndarray, " t"]
    counted: Bool[np.ndarray, " t"]
    truncated_at: int | None = None
    pair_truncated_at: int | None = None
    cut_before: bool = False


def encoded_bytes(tokens: int, examples: int) -> int:
    """Say how much memory encoded examples take, about.

    Args:
        tokens: of all of them.
        examples: how many they are.

    Returns:
        Bytes.
    """
    return 25 * tokens + 600 * examples


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
    labels: Int[Tensor, " n"]

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

    def lengths(self, examples: Sequence[Example], chunk: int = 1024) -> Int[np.ndarray, " n"]:
        """Count the tokens that the model would see of each example.

        Args:
            examples: the examples.
            chunk: how many are tokenized at once.

        Returns:
            Lengths in tokens, special tokens included.

        Raises:
            InputError: an example has a part that this task does not read.
        """
        counts: list[int] = []
        for start in range(0, len(examples), chunk):
            counts += [len(one.ids) for one in self._tokenize(list(examples[start : start + chunk]))]
        return np.asarray(counts, dtype=np.int64)

    def lengths_and_encoded(
        self, examples: Sequence[Example], most: int, chunk: int = 256
    ) -> tuple[Int[np.ndarray, " n"], list[Encoded] | None]:
        """Count the tokens of each example, and keep the encoded examples unless they take too much memory.

        Args:
            examples: the examples.
            most: bytes that they may take.
            chunk: how many are encoded at once.

        Returns:
            Lengths in tokens; and the encoded examples, None where they are too many.

        Raises:
            InputError: an example has a part that this task does not read.
        """
        kept: list[Encoded] = []
        taken = 0
        for start in range(0, len(examples), chunk):
            some = self.encode(list(examples[start : start + chunk]))
            kept += some
            taken += encoded_bytes(sum(len(one.ids) for one in some), len(some))
            if taken > most:
                rest = self.lengths(examples[start + chunk :])
                return np.concatenate([np.asarray([len(one.ids) for one in kept], dtype=np.int64), rest]), None
        return np.asarray([len(one.ids) for one in kept], dtype=np.int64), kept

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Encode examples.

        Args:
            examples: the examples.

        Returns:
            One Encoded each, in order.

        Raises:
            InputError: an example has a part that this task does not read.
        """
        if not examples:
            return []
        aligned = [self._aligned(one, example) for one, example in zip(self._tokenize(examples), examples, strict=True)]
        first = np.cumsum([0, *(len(example.parts) for example in examples)])  # parts are numbered through
        parts = [np.where(one.parts < 0, -1, one.parts + base) for one, base in zip(aligned, first[:-1], strict=True)]
        words = assign_together(
            [read(example.parts) for example in examples],
            np.concatenate([one.offsets for one in aligned]),
            np.concatenate(parts),
        )
        edges = np.cumsum([len(one.ids) for one in aligned])[:-1]
        before = self.tokenizer.truncation_side == "left"
        return [
            Encoded(one.ids, one.types, own.copy(), one.counted, *one.cuts, cut_before=before)
            for one, own in zip(aligned, np.split(words, edges), strict=True)
        ]

    def collate(self, encoded: Sequence[Encoded], labels: Sequence[int], width: int = 0) -> Batch:
        """Pad encoded examples on the right to the longest of them.

        Args:
            encoded: the examples.
            labels: class number of each, -1 for none.
            width: pad to at least so many tokens.

        Returns:
            One batch.
        """
        longest = max(width, *(len(one.ids) for one in encoded))
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
        inputs = {"input_ids": _tensor(ids), "attention_mask": _tensor(mask)}
        if types is not None:
            inputs["token_type_ids"] = _tensor(types)
        return Batch(inputs, words, _tensor(counted), torch.tensor(list(labels), dtype=torch.int64))

    def _tokenize(self, examples: Sequence[Example]) -> list[Any]:
        """One encoding of the tokenizers library per example; some of a data set may have a pair and some none."""
        if not examples:
            return []
        inputs = [self._input(example) for example in examples]
        unused = {"return_attention_mask": False, "return_token_type_ids": False}  # what is read are the encodings
        return self.tokenizer(inputs, truncation=True, max_length=self.max_length, **unused).encodings

    def _input(self, example: Example) -> str | tuple[str, str]:
        if self.kind == "causal-lm":
            if example.text_pair is not None:
                raise InputError(
                    f"the example with id {example.id} has a second text, and a language model reads one: give what "
                    "counts as its target (--target-column), or leave the pair out (--pair-column '')"
                )
            return "".join(example.parts)
        if example.target is not None:
            raise InputError(
                f"the example with id {example.id} has a target, and a classifier reads none: name it as the second "
                "text (--pair-column), or leave it out (--target-column '')"
            )
        return example.text if example.text_pair is None else (example.text, example.text_pair)

    def _aligned(self, encoding: Any, example: Example) -> "_Aligned":
        ids = np.asarray(encoding.ids, dtype=np.int64)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        parts = np.asarray([-1 if part is None else part for part in encoding.sequence_ids], dtype=np.int64)
        counted = np.ones(len(ids), dtype=np.bool_)
        if self.kind == "causal-lm":
            offsets, parts, counted = _split_target(offsets, parts, example)
            counted[:1] = False  # nothing predicts the first token
        typed = "token_type_ids" in self.tokenizer.model_input_names
        types = np.asarray(encoding.type_ids, dtype=np.int64) if typed else None
        before = self.tokenizer.truncation_side == "left"
        cuts = _cuts(offsets, parts, example, before=before) if encoding.overflowing else (None, None)
        return _Aligned(ids, types, offsets, parts, counted, cuts)


@dataclass(frozen=True, slots=True)
class _Aligned:
    """What the tokenizer says of one example: its tokens, and where in which of its parts they stand."""

    ids: Int[np.ndarray, " t"]
    types: Int[np.ndarray, " t"] | None
    offsets: Int[np.ndarray, "t 2"]
    parts: Int[np.ndarray, " t"]
    counted: Bool[np.ndarray, " t"]
    cuts: tuple[int | None, int | None]


def _split_target(
    offsets: Int[np.ndarray, "t 2"], parts: Int[np.ndarray, " t"], example: Example
) -> tuple[Int[np.ndarray, "t 2"], Int[np.ndarray, " t"], Bool[np.ndarray, " t"]]:
    """Offsets into prompt + target become offsets into each; a token across the seam belongs to the target."""
    if example.target is None:
        return offsets, parts, np.ones(len(parts), dtype=np.bool_)
    seam = len(example.text)
    target = (parts >= 0) & (offsets[:, 1] > seam)
    moved = np.where(target[:, None], np.maximum(offsets - seam, 0), offsets)
    return moved, np.where(target, 1, parts), target


def _cuts(
    offsets: Int[np.ndarray, "t 2"], parts: Int[np.ndarray, " t"], example: Example, *, before: bool
) -> tuple[int | None, int | None]:
    """Where the model's limit cut each text: the edge of the kept tokens, or None for a whole text."""
    cuts: list[int | None] = [None, None]
    for part, text in enumerate(example.parts):
        kept = offsets[parts == part]
        if before:
            begin = int(kept[:, 0].min()) if len(kept) else len(text)
            cuts[part] = begin if begin > len(text) - len(text.lstrip()) else None
        else:
            end = int(kept[:, 1].max()) if len(kept) else 0
            cuts[part] = end if end < len(text.rstrip()) else None
    return cuts[0], cuts[1]


def _tensor(array: Shaped[np.ndarray, "*shape"]) -> Tensor:
    return cast("Any", torch).from_numpy(array)
