"""Texts to token ids, with the word of every token and the tokens that count.

The tokenizer is the run's own; words come from `proponent.words`, by character offsets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from proponent.errors import InputError
from proponent.models.batch import Batch, Decoder, Kind
from proponent.models.masking import ONE_DRAW, Masks, filled, split_gap
from proponent.types import Example
from proponent.words import assign_together, read


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


class Encoder:
    """Encode examples with a run's tokenizer.

    Args:
        tokenizer: a fast tokenizer.
        kind: the task; a causal language model reads text and target as one string, a classifier reads a pair as two,
            an encoder-decoder reads the text and predicts the target.
        max_length: most tokens that the model may see; of an encoder-decoder, on either side.
        pad_id: token id for padding.
        masks: which tokens a masked language model has to guess.
        start: first token that a decoder reads; None for its target's own last token (mBART's language).
    """

    def __init__(
        self,
        tokenizer: Any,
        kind: Kind,
        max_length: int,
        pad_id: int,
        *,
        masks: Masks = ONE_DRAW,
        start: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.kind: Kind = kind
        self.max_length = max_length
        self.pad_id = pad_id
        self.masks, self.start = masks, start

    def lengths(self, examples: Sequence[Example], chunk: int = 1024) -> Int[np.ndarray, " n"]:
        """Count the tokens that the model would see of each example."""
        counts: list[int] = []
        for start in range(0, len(examples), chunk):
            some = list(examples[start : start + chunk])
            counts += [sum(len(side.ids) for side in sides) for sides in zip(*self._sides(some), strict=True)]
        return np.asarray(counts, dtype=np.int64)

    def at_limit(self, examples: Sequence[Example], lengths: Int[np.ndarray, " n"], chunk: int = 1024) -> int:
        """Count the examples of which some text reaches the limit."""
        if self.kind != "seq2seq":
            return int((lengths >= self.max_length).sum())
        found = 0
        for start in range(0, len(examples), chunk):
            sides = self._sides(list(examples[start : start + chunk]))
            found += sum(any(len(one.ids) >= self.max_length for one in both) for both in zip(*sides, strict=True))
        return found

    def lengths_and_encoded(
        self, examples: Sequence[Example], most: int, chunk: int = 256
    ) -> tuple[Int[np.ndarray, " n"], list[Encoded] | None]:
        """Count the tokens of each example, and keep the encoded examples unless they take too much memory."""
        kept: list[Encoded] = []
        taken = 0
        for start in range(0, len(examples), chunk):
            some = self.encode(list(examples[start : start + chunk]))
            kept += some
            taken += encoded_bytes(sum(one.length for one in some), len(some))
            if taken > most:
                rest = self.lengths(examples[start + chunk :])
                return np.concatenate([np.asarray([one.length for one in kept], dtype=np.int64), rest]), None
        return np.asarray([one.length for one in kept], dtype=np.int64), kept

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Encode examples."""
        if not examples:
            return []
        sides = list(zip(*self._sides(examples), strict=True))
        aligned = [self._whole(both, example) for both, example in zip(sides, examples, strict=True)]
        first = np.cumsum([0, *(len(example.parts) for example in examples)])  # parts are numbered through
        parts = [np.where(one.parts < 0, -1, one.parts + base) for one, base in zip(aligned, first[:-1], strict=True)]
        words = assign_together(
            [read(example.parts) for example in examples],
            np.concatenate([one.offsets for one in aligned]),
            np.concatenate(parts),
        )
        edges = np.cumsum([len(one.ids) for one in aligned])[:-1]
        return [self._encoded(one, own.copy()) for one, own in zip(aligned, np.split(words, edges), strict=True)]

    def collate(self, encoded: Sequence[Encoded], labels: Sequence[int], width: int = 0) -> Batch:
        """Pad encoded examples on the right to the longest of them."""
        ids, mask = _padded([one.ids for one in encoded], self.pad_id, width)
        words, _ = _padded([one.words for one in encoded], -1, width)
        counted, _ = _padded([one.counted for one in encoded], False, width if encoded[0].start is None else 0)
        inputs = {"input_ids": _tensor(ids), "attention_mask": _tensor(mask.astype(np.int64))}
        if encoded[0].type_ids is not None:
            types = [np.zeros_like(one.ids) if one.type_ids is None else one.type_ids for one in encoded]
            inputs["token_type_ids"] = _tensor(_padded(types, 0, width)[0])
        numbers = torch.tensor(list(labels), dtype=torch.int64)
        batch = Batch(inputs, words, _tensor(counted), numbers)
        return batch if encoded[0].targets is None else self._with_targets(batch, encoded, width)

    def _with_targets(self, batch: Batch, encoded: Sequence[Encoded], width: int) -> Batch:
        """Add what is predicted, and what a decoder reads: the target shifted right, after its start."""
        targets = [one.ids if one.targets is None else one.targets for one in encoded]
        spoken = [one.words if one.target_words is None else one.target_words for one in encoded]
        if encoded[0].start is None:
            ids, words = _padded(targets, self.pad_id, width)[0], _padded(spoken, -1, width)[0]
            return replace(batch, targets=_tensor(ids), target_words=words)
        starts = [0 if one.start is None else one.start for one in encoded]
        read = [np.concatenate([[start], own[:-1]]) for start, own in zip(starts, targets, strict=True)]
        shifted = [np.concatenate([[-1], own[:-1]]) for own in spoken]
        (ids, mask), (before, _) = _padded(read, self.pad_id), _padded(shifted, -1)
        inputs = batch.inputs | {"decoder_input_ids": _tensor(ids)}
        return replace(
            batch,
            inputs=inputs,
            targets=_tensor(_padded(targets, self.pad_id)[0]),
            target_words=_padded(spoken, -1)[0],
            decoder=Decoder(_tensor(mask), before),
        )

    def _sides(self, examples: Sequence[Example]) -> list[list[Any]]:
        """One encoding of the tokenizers library per example, of an encoder-decoder one more for its targets."""
        if not examples:
            return [[]]
        inputs = [self._input(example) for example in examples]
        limits = {"truncation": True, "max_length": self.max_length}
        limits |= {"return_attention_mask": False, "return_token_type_ids": False}  # what is read are the encodings
        sides = [self.tokenizer(inputs, **limits).encodings]
        if self.kind == "seq2seq":
            sides.append(self.tokenizer(text_target=[example.target for example in examples], **limits).encodings)
        return sides

    def _input(self, example: Example) -> str | tuple[str, str]:
        if self.kind == "classification":
            if example.target is not None:
                raise InputError(
                    f"the example with id {example.id} has a target, and a classifier reads none: name it as the "
                    "second text (--pair-column), or leave it out (--target-column '')"
                )
            return example.text if example.text_pair is None else (example.text, example.text_pair)
        if example.text_pair is not None:
            raise InputError(
                f"the example with id {example.id} has a second text, and a language model reads one: give what "
                "counts as its target (--target-column), or leave the pair out (--pair-column '')"
            )
        if self.kind == "masked-lm":
            return filled(example, self.tokenizer.mask_token)
        if self.kind == "seq2seq":
            if example.target is None:
                raise InputError(
                    f"the example with id {example.id} has no target, and an encoder-decoder predicts one: name its "
                    "column (--target-column), or give one text's with --target"
                )
            return example.text
        return "".join(example.parts)

    def _whole(self, sides: tuple[Any, ...], example: Example) -> "_Aligned":
        """The tokens of one example; those of an encoder-decoder's target after those of its text."""
        first = self._aligned(sides[0], example)
        if len(sides) == 1:
            return first
        second = self._aligned(sides[1], Example(example.id, example.row, example.target or ""))
        return _Aligned(
            np.concatenate([first.ids, second.ids]),
            first.types,
            np.concatenate([first.offsets, second.offsets]),
            np.concatenate([first.parts, np.where(second.parts < 0, -1, 1)]),
            np.ones(len(second.ids), dtype=np.bool_),
            (first.cuts[0], second.cuts[0]),
        )

    def _encoded(self, one: "_Aligned", words: Int[np.ndarray, " t"]) -> Encoded:
        before = self.tokenizer.truncation_side == "left"
        cuts: dict[str, Any] = {"truncated_at": one.cuts[0], "pair_truncated_at": one.cuts[1], "cut_before": before}
        if self.kind == "masked-lm":
            hidden = np.where(one.counted, self.tokenizer.mask_token_id, one.ids)
            return Encoded(hidden, one.types, words, one.counted, **cuts, targets=one.ids, target_words=words)
        if self.kind == "seq2seq":
            seam = len(one.ids) - len(one.counted)
            targets = one.ids[seam:]
            start = self.start if self.start is not None else int(targets[-1]) if len(targets) else self.pad_id
            own: dict[str, Any] = {"targets": targets, "target_words": words[seam:], "start": start}
            return Encoded(one.ids[:seam], one.types, words[:seam], one.counted, **cuts, **own)
        return Encoded(one.ids, one.types, words, one.counted, **cuts)

    def _aligned(self, encoding: Any, example: Example) -> "_Aligned":
        ids = np.asarray(encoding.ids, dtype=np.int64)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        parts = np.asarray([-1 if part is None else part for part in encoding.sequence_ids], dtype=np.int64)
        typed = "token_type_ids" in self.tokenizer.model_input_names
        types = np.asarray(encoding.type_ids, dtype=np.int64) if typed else None
        before = self.tokenizer.truncation_side == "left"
        read = example
        counted = np.ones(len(ids), dtype=np.bool_)
        if self.kind == "causal-lm":
            offsets, parts, counted = _split_target(offsets, parts, example)
            counted[:1] = False  # nothing predicts the first token
        elif self.kind == "masked-lm":
            if example.target is None:
                counted = self.masks.draw(ids, parts)
            else:
                offsets, parts, counted = split_gap(offsets, parts, example, self.tokenizer.mask_token)
        elif self.kind == "seq2seq":
            read = Example(example.id, example.row, example.text)
        cuts = _cuts(offsets, parts, read, before=before) if encoding.overflowing else (None, None)
        return _Aligned(ids, types, offsets, parts, counted, cuts)


@dataclass(frozen=True, slots=True)
class _Aligned:
    """What the tokenizer says of one example: its tokens, where in which of its parts they stand, and what counts."""

    ids: Int[np.ndarray, " t"]
    types: Int[np.ndarray, " t"] | None
    offsets: Int[np.ndarray, "t 2"]
    parts: Int[np.ndarray, " t"]
    counted: Bool[np.ndarray, " u"]
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


def _padded(
    parts: Sequence[Shaped[np.ndarray, " _"]], fill: int, width: int = 0
) -> tuple[Shaped[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
    """Lay arrays into rows of one width; also say which places are theirs."""
    made = np.full((len(parts), max(width, *(len(one) for one in parts))), fill, dtype=parts[0].dtype)
    own = np.zeros(made.shape, dtype=np.bool_)
    for row, one in enumerate(parts):
        made[row, : len(one)], own[row, : len(one)] = one, True
    return made, own


def _tensor(array: Shaped[np.ndarray, "*shape"]) -> Tensor:
    return cast("Any", torch).from_numpy(array)
