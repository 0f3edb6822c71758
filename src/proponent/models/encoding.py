"""Texts to token ids, with the word of every token and the tokens that count.

The tokenizer is the run's own; words come from `proponent.words` and are matched by character offsets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from proponent.errors import InputError
from proponent.models.batch import Aligned, Batch, Decoder, Encoded, encoded_bytes, stretches_of
from proponent.models.chat_rows import IN_TEMPLATE, ChatRows
from proponent.models.masking import ONE_DRAW, Masks
from proponent.models.tasks import Task
from proponent.models.tokenizer_files import tokenizing
from proponent.types import Counting, Example, Pair, Prompted, Span, Text
from proponent.words import assign_together, read, sides_of


class Encoder:
    """Encodes examples with a run's tokenizer."""

    def __init__(
        self,
        tokenizer: Any,
        task: Task,
        max_length: int,
        pad_id: int,
        masks: Masks = ONE_DRAW,
        counting: Counting | None = None,
        device: str = "cpu",
        multiple: int = 1,
    ) -> None:
        self.tokenizer, self.task, self.max_length, self.pad_id, self.masks = tokenizer, task, max_length, pad_id, masks
        self.device, self._multiple = device, multiple
        self._chat = ChatRows(tokenizer, counting or Counting(), max_length, task.pairing, task.judged)

    @property
    def counting(self) -> Counting:
        """Which tokens count in the rows of chat fine-tuning."""
        return self._chat.counting

    def lengths(self, examples: Sequence[Example], chunk: int = 1024) -> Int[np.ndarray, " n"]:
        """Count the tokens that the model would read of each example."""
        return self.lengths_and_idle(examples, chunk)[0]

    def lengths_and_idle(
        self, examples: Sequence[Example], chunk: int = 1024
    ) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Count the tokens of each example, and find the rows of chat fine-tuning of which none counts."""
        found: list[tuple[int, bool]] = []
        for start in range(0, len(examples), chunk):
            some = list(examples[start : start + chunk])
            plain = [one for one in some if not self._reads_chat(one)]
            own = iter([sum(len(side.ids) for side in sides) for sides in zip(*self._sides(plain), strict=True)])
            for one in some:
                read = self._chat.aligned(self.decoded(one)) if self._reads_chat(one) else None
                trains = read is None or read.n_counted > 0
                found.append((next(own) if read is None else read.length, not trains))
        counts, idle = zip(*found, strict=True) if found else ((), ())
        return np.asarray(counts, dtype=np.int64), np.asarray(idle, dtype=np.bool_)

    def at_limit(self, examples: Sequence[Example], lengths: Int[np.ndarray, " n"], chunk: int = 1024) -> int:
        """Count the examples with a text that reaches the limit."""
        if self.task.pairing is not None:
            pairs = (self._chat.aligned(self.decoded(one)) for one in examples)
            return sum(max(len(one.ids), one.length - len(one.ids)) >= self.max_length for one in pairs)
        if not self.task.decodes:
            return int((lengths >= self.max_length).sum())
        found = 0
        for start in range(0, len(examples), chunk):
            sides = self._sides(list(examples[start : start + chunk]))
            found += sum(any(len(one.ids) >= self.max_length for one in both) for both in zip(*sides, strict=True))
        return found

    def lengths_and_encoded(
        self, examples: Sequence[Example], most: int, chunk: int = 256
    ) -> tuple[Int[np.ndarray, " n"], list[Encoded] | None]:
        """Count the tokens of each example, and return the encoded examples unless they take too much memory."""
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

    def decoded(self, example: Example) -> Example:
        """Fill in the text of a row of tokens; any other example stays."""
        return self._chat.decoded(example)

    def judged_parts(self, example: Example) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]:
        """The whole tokens of a judged answer: those of its prompt, and those from where it counts."""
        return self._chat.judged_parts(self.decoded(example))

    def prompt_ids(self, example: Example) -> list[int]:
        """The tokens after which an answer begins."""
        return self._chat.prompt_ids(example)

    def encode(self, examples: Sequence[Example], *, asked: bool = False) -> list[Encoded]:
        """Encode examples; of queries (`asked`), only the answer counts, or the span that they name."""
        if not examples:
            return []
        examples = [self.decoded(one) for one in examples]
        aligned = self._aligned_all(examples, asked=asked)
        first = np.cumsum([0, *(len(example.parts) for example in examples)])  # parts are numbered consecutively
        sides = [(at, side) for at, one in enumerate(aligned) for side in (one, one.rejected) if side is not None]
        parts = [np.where(one.parts < 0, -1, one.parts + first[at]) for at, one in sides]
        splittings = [read(example.parts, sides_of(example)) for example in examples]
        words = assign_together(
            splittings,
            np.concatenate([one.offsets for _, one in sides]),
            np.concatenate(parts),
        )
        edges = np.cumsum([len(one.ids) for _, one in sides])[:-1]
        split = [own.copy() for own in np.split(words, edges)]
        for (at, one), own in zip(sides, split, strict=True):
            own[one.parts == IN_TEMPLATE] = len(splittings[at].numbers)  # the word after all words: [template]
        made = iter(split)
        found = [self._encoded(one, made, example) for one, example in zip(aligned, examples, strict=True)]
        if self.task.judged and not asked:  # a question has the loss of its tokens
            pairs = zip(found, examples, strict=True)
            return [replace(one, answer=self.task.figures(example)) for one, example in pairs]
        return found

    def counted_spans(self, example: Example, *, asked: bool = False) -> tuple[tuple[Span, ...], ...]:
        """The places in each text whose tokens count, joined where they touch."""
        example = self.decoded(example)
        (whole,) = self._aligned_all([example], asked=asked)
        found: list[list[Span]] = [[] for _ in example.parts]
        places: list[tuple[int, list[int]]] = [
            place
            for one in (whole, whole.rejected)
            if one is not None
            for place in zip(one.parts[one.counted].tolist(), one.offsets[one.counted].tolist(), strict=True)
        ]
        for part, (start, stop) in places:
            if part >= 0 and start < stop:
                before: Span = found[part][-1] if found[part] else (-1, -1)
                if before[1] >= start:
                    found[part][-1] = (min(before[0], start), max(before[1], stop))
                else:
                    found[part].append((start, stop))
        return tuple(map(tuple, found))

    def token_places(self, example: Example) -> list[tuple[int, int, int, int]]:
        """Part, character offsets and id of every token of an example's texts, without special tokens and markup."""
        (whole,) = self._aligned_all([self.decoded(example)], asked=False)
        return [
            (part, start, end, number)
            for one in whole.sides
            for part, (start, end), number in zip(
                one.parts.tolist(), one.offsets.tolist(), one.ids[: len(one.parts)].tolist(), strict=True
            )
            if part >= 0 and start < end
        ]

    def stretches(self, example: Example) -> tuple[Span, ...] | None:
        """What the model reads of each text of an example that is longer than the limit; None if it reads all."""
        example = self.decoded(example)
        (whole,) = self._aligned_all([example], asked=False)
        if all(side.cuts == (None, None) for side in whole.sides):
            return None
        before = self.tokenizer.truncation_side == "left" and not self._reads_chat(example)  # TRL keeps the beginning
        return stretches_of(whole, example, before=before)

    def _reads_chat(self, example: Example) -> bool:
        """Whether a row is tokenized as chat fine-tuning does."""
        if isinstance(example.content, Text | Pair | Prompted):
            return self.counting.trl
        if not self.task.chats:
            raise InputError(
                f"the example with id {example.id} holds messages or tokens, and a {self.task.kind} model reads texts: "
                "name the column of the texts (--text-column)"
            )
        return True

    def _aligned_all(self, examples: Sequence[Example], *, asked: bool) -> list[Aligned]:
        plain = [one for one in examples if not self._reads_chat(one)]
        sides = zip(*self._sides(plain), strict=True) if plain else ()
        own = iter([self._whole(both, example) for both, example in zip(sides, plain, strict=True)])
        found = [self._chat.aligned(one, asked=asked) if self._reads_chat(one) else next(own) for one in examples]
        for example, one in zip(examples, found, strict=True):
            if example.span is not None and not self.task.predicts_tokens:
                raise InputError(
                    f"a span is a piece of an answer whose tokens are predicted, and this is a {self.task.kind} model, "
                    "whose loss reads the whole text: leave the span out"
                )
            if example.span is not None and one.rejected is not None:
                raise InputError(
                    "a span is about one answer, and a pair has two: ask with the answer as a target alone"
                )
            if example.span is not None:
                _keep_span(example, example.span, one)
        return found

    def collate(self, encoded: Sequence[Encoded], labels: Sequence[int], width: int = 0) -> Batch:
        """Pad encoded examples on the right to the longest one, on the model's device; all are pairs, or none is."""
        paired = encoded[0].rejected is not None
        width = max(width, 3 if paired else 1)  # hooks tell two rows from the positions by their number
        if self._multiple > 1:  # the model would pad its input itself
            width = max(width, *(len(side.ids) for one in encoded for side in one.sides))
            width += -width % self._multiple
        held = [one.answer for one in encoded if one.answer is not None]
        encoded = [side for one in encoded for side in one.sides]
        ids, mask = _padded([one.ids for one in encoded], self.pad_id, width)
        words, _ = _padded([one.words for one in encoded], -1, width)
        counted, _ = _padded([one.counted for one in encoded], False, width if encoded[0].start is None else 0)
        inputs = {"input_ids": _tensor(ids), "attention_mask": _tensor(mask.astype(np.int64))}
        if encoded[0].type_ids is not None:
            types = [np.zeros_like(one.ids) if one.type_ids is None else one.type_ids for one in encoded]
            inputs["token_type_ids"] = _tensor(_padded(types, 0, width)[0])
        numbers = torch.tensor(list(labels), dtype=torch.int64)
        answers = _tensor(_padded(held, np.nan)[0]) if held else None
        batch = Batch(inputs, words, _tensor(counted), numbers, answers=answers, paired=paired)
        whole = batch if encoded[0].targets is None else self._with_targets(batch, encoded, width)
        return whole.to(self.device)

    def _with_targets(self, batch: Batch, encoded: Sequence[Encoded], width: int) -> Batch:
        """Add the predicted tokens and the decoder's input: the target shifted right, after its start token."""
        targets = [one.ids if one.targets is None else one.targets for one in encoded]
        words_of_targets = [one.words if one.target_words is None else one.target_words for one in encoded]
        if encoded[0].start is None:
            ids, words = _padded(targets, self.pad_id, width)[0], _padded(words_of_targets, -1, width)[0]
            return replace(batch, targets=_tensor(ids), target_words=words)
        starts = [0 if one.start is None else one.start for one in encoded]
        read = [np.concatenate([[start], own[:-1]]) for start, own in zip(starts, targets, strict=True)]
        shifted = [np.concatenate([[-1], own[:-1]]) for own in words_of_targets]
        (ids, mask), (before, _) = _padded(read, self.pad_id), _padded(shifted, -1)
        inputs = batch.inputs | {"decoder_input_ids": _tensor(ids)}
        return replace(
            batch,
            inputs=inputs,
            targets=_tensor(_padded(targets, self.pad_id)[0]),
            target_words=_padded(words_of_targets, -1)[0],
            decoder=Decoder(_tensor(mask), before),
        )

    def _sides(self, examples: Sequence[Example]) -> list[list[Any]]:
        """One encoding of the tokenizers library per example; for an encoder-decoder, one more for its target."""
        if not examples:
            return [[]]
        inputs = [self.task.text(example, self.tokenizer) for example in examples]
        limits = {"truncation": True, "max_length": self.max_length}
        limits |= {"return_attention_mask": False, "return_token_type_ids": False}  # only the encodings are used
        with tokenizing():
            sides = [self.tokenizer(inputs, **limits).encodings]
            if self.task.decodes:
                sides.append(self.tokenizer(text_target=[example.target for example in examples], **limits).encodings)
        return sides

    def _whole(self, sides: tuple[Any, ...], example: Example) -> Aligned:
        """The tokens of one example; for an encoder-decoder, the text's tokens and then the target's."""
        if len(sides) == 1:
            return self._aligned(sides[0], example, example.parts)
        first, second = (self._aligned(side, example, (part,)) for side, part in zip(sides, example.parts, strict=True))
        return Aligned(
            np.concatenate([first.ids, second.ids]),
            first.types,
            np.concatenate([first.offsets, second.offsets]),
            np.concatenate([first.parts, np.where(second.parts < 0, -1, 1)]),
            second.counted,
            (first.cuts[0], second.cuts[0]),
        )

    def _encoded(self, one: Aligned, words: Iterator[Int[np.ndarray, " t"]], example: Example) -> Encoded:
        """Take the words of one example: of a pair, those of the chosen answer, then those of the rejected one."""
        before = self.tokenizer.truncation_side == "left"
        read = Encoded(one.ids, one.types, next(words), one.counted, *one.cuts, cut_before=before, remarks=one.remarks)
        read = read if one.answer is None else replace(read, answer=one.answer, aligned=one)
        if one.rejected is not None:
            second = Encoded(one.rejected.ids, one.rejected.types, next(words), one.rejected.counted)
            read = replace(read, rejected=second, answer=self.task.figures(example))
        return self.task.predict(read, self.tokenizer, self.pad_id)

    def _aligned(self, encoding: Any, example: Example, texts: tuple[str, ...]) -> Aligned:
        ids = np.asarray(encoding.ids, dtype=np.int64)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        parts = np.asarray([-1 if part is None else part for part in encoding.sequence_ids], dtype=np.int64)
        typed = "token_type_ids" in self.tokenizer.model_input_names
        types = np.asarray(encoding.type_ids, dtype=np.int64) if typed else None
        side = Aligned(ids, types, offsets, parts, np.ones(len(ids), dtype=np.bool_))
        made = self.task.count(side, example, self.tokenizer, self.masks)
        if self.task.answers:
            made = replace(made, answer=self.task.answer(example, made, self.tokenizer))
        if not encoding.overflowing:
            return made
        return replace(made, cuts=_cuts(made, texts, before=self.tokenizer.truncation_side == "left"))


def _keep_span(example: Example, span: Span, one: Aligned) -> None:
    """Count only the tokens of a place in the last text."""
    if len(one.counted) != len(one.ids):
        raise InputError("a span is about a causal language model: ask with a target alone")
    last = int(one.parts.max(initial=-1))
    inside = (one.parts == last) & (one.offsets[:, 0] < span[1]) & (one.offsets[:, 1] > span[0])
    one.counted[:] = one.counted & inside
    if not one.counted.any():
        raise InputError(
            f"no token of the span {example.parts[-1][slice(*span)]!r} counts: name a piece of the answer, within the "
            "tokens that the model reads"
        )


def _cuts(one: Aligned, texts: tuple[str, ...], *, before: bool) -> tuple[int | None, int | None]:
    """Where the model's limit truncated each text: the edge of the remaining tokens, or None for a complete text."""
    cuts: list[int | None] = [None, None]
    for part, text in enumerate(texts):
        kept = one.offsets[one.parts == part]
        if before:
            begin = int(kept[:, 0].min()) if len(kept) else len(text)
            cuts[part] = begin if begin > len(text) - len(text.lstrip()) else None
        else:
            end = int(kept[:, 1].max()) if len(kept) else 0
            cuts[part] = end if end < len(text.rstrip()) else None
    return cuts[0], cuts[1]


def _padded(
    parts: Sequence[Shaped[np.ndarray, " _"]], fill: float | int, width: int = 0
) -> tuple[Shaped[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
    """Pad arrays to rows of equal width; also return a mask of their own entries."""
    made = np.full((len(parts), max(width, *(len(one) for one in parts))), fill, dtype=parts[0].dtype)
    own = np.zeros(made.shape, dtype=np.bool_)
    for row, one in enumerate(parts):
        made[row, : len(one)], own[row, : len(one)] = one, True
    return made, own


def _tensor(array: Shaped[np.ndarray, "*shape"]) -> Tensor:
    return cast("Any", torch).from_numpy(array)
