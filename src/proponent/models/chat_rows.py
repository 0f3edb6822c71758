"""Tokens of the rows of chat fine-tuning: exactly those that TRL's SFTTrainer (1.16) feeds, with those that count.

A conversation is rendered by the chat template and tokenized without further special tokens. Of prompt and completion,
the completion begins where the tokens of both together differ from those of the prompt. Plain texts get an end token
if they lack one. The first `max_length` tokens are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Int

from proponent.errors import InputError
from proponent.models.batch import Aligned
from proponent.models.chat_template import ChatTemplate, Placed
from proponent.models.preference_rows import Pairing, Tokenize, aligned_pair, both_answers, judged_answer
from proponent.models.tokenizer_files import tokenizing
from proponent.types import Content, Conversation, Counting, Example, Preference, Prompted, Text, Tokens

IN_TEMPLATE = -2
"""Part of a token of a chat template's markup."""

BORDER = (
    "the end of the prompt is tokenized in another way before the answer: as in training, the answer counts from where "
    "they differ"
)
SEARCHED = "the texts were searched in what the chat template wrote: one that it writes twice may be the wrong one"


@dataclass(frozen=True)
class ChatRows:
    """Tokenizes rows as a training did."""

    tokenizer: Any
    counting: Counting
    max_length: int
    pairing: Pairing | None = None  # what counts of pairs of answers; None where they are not read
    judged: bool = False  # whether single judged answers (KTO) are read

    def aligned(self, example: Example, *, asked: bool = False) -> Aligned:
        """Tokenize one row, whole if need be cut at the limit; of a query (`asked`), only the answer counts."""
        content, name = example.content, f"the row with id {example.id}"
        if isinstance(content, Conversation):
            made = self._conversation(content, name, asked=asked)
        elif isinstance(content, Tokens):
            made = self._tokens(content, name)
        elif isinstance(content, Text | Prompted):
            made = self._texts(content, asked=asked)
        elif isinstance(content, Preference) and self.pairing is not None:
            made = aligned_pair(content, name, self.pairing, self.max_length, self._counted_side(name))
        elif isinstance(content, Preference) and self.judged:
            made = self._counted_side(name)(judged_answer(content, name))
        else:
            if isinstance(content, Preference):
                both_answers(content, name)
            kind = "a preference" if isinstance(content, Preference) else "a pair of texts"
            raise InputError(
                f"{name} holds {kind}, and this run is a language model that was trained on single answers: give the "
                "run that TRL's DPOTrainer or RewardTrainer trained on pairs"
            )
        second = None if made.rejected is None else self._cut(made.rejected, example)
        first = self._cut(made, example)
        place = first.cuts[0] if second is None or first.cuts[0] is not None else second.cuts[0]
        return replace(first, rejected=second, cuts=(place, first.cuts[1]))

    def _counted_side(self, name: str) -> Tokenize:
        """Tokenizes one side of a pair: the tokens after the prompt count, or all."""
        whole = Counting(trl=True, template=self.counting.template, completion_only=False, date=self.counting.date)
        rows, asked = replace(self, counting=whole), self.judged or self.pairing == "answers"

        def tokenize(content: Content) -> Aligned:
            if isinstance(content, Conversation):
                return rows._conversation(content, name, asked=asked)
            return rows._texts(cast("Prompted", content), asked=asked)

        return tokenize

    def judged_parts(self, example: Example) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]:
        """The tokens of a judged answer, whole: those of its prompt, and those from where it counts."""
        name = f"the row with id {example.id}"
        one = self._counted_side(name)(judged_answer(cast("Preference", example.content), name))
        begin = int(one.counted.argmax()) if one.counted.any() else len(one.ids)
        return one.ids[:begin], one.ids[begin:]

    def prompt_ids(self, example: Example) -> list[int]:
        """The tokens after which an answer begins."""
        content, name = example.content, f"the row with id {example.id}"
        if isinstance(content, Conversation):
            template = ChatTemplate(self.tokenizer, self.counting)
            return list(self._encoding(template.render(content, name, prompt=True), special=False).ids)
        return list(self._encoding(example.text, special=True).ids)

    def decoded(self, example: Example) -> Example:
        """Fill in the text of a row of tokens."""
        content = example.content
        if not isinstance(content, Tokens) or content.text:
            return example
        self._refuse_unknown(content, f"the row with id {example.id}")
        text = self.tokenizer.decode(
            list(content.input_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return Example(
            example.id, example.row, label=example.label, content=replace(content, text=text), span=example.span
        )

    def _conversation(self, one: Conversation, name: str, *, asked: bool) -> Aligned:
        template = ChatTemplate(self.tokenizer, self.counting)
        rendered = template.render(one, name)
        encoding = self._encoding(rendered, special=False)
        ids = np.asarray(encoding.ids, dtype=np.int64)
        counted, remarks = np.ones(len(ids), dtype=np.bool_), list[str]()
        if one.prompt is not None and (asked or self.counting.completion_only):
            before = self._encoding(template.render(one, name, prompt=True), special=False).ids
            remarks += _from_border(before, encoding.ids, counted)
        if self.counting.assistant_only:
            counted &= np.asarray(template.assistant_mask(one, name), dtype=np.bool_)
        placed, exact = template.places(one, rendered, name)
        remarks += [] if exact else [SEARCHED]
        offsets, parts = _owned(np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2), placed, len(rendered))
        return Aligned(ids, None, offsets, parts, counted, remarks=tuple(remarks))

    def _texts(self, one: Text | Prompted, *, asked: bool) -> Aligned:
        answer = one.parts[-1]
        token = cast("str | None", self.tokenizer.eos_token)
        end = "" if token is None or answer.endswith(token) else token
        whole = "".join(one.parts) + end
        encoding = self._encoding(whole, special=True)
        ids = np.asarray(encoding.ids, dtype=np.int64)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        parts = np.asarray([-1 if part is None else part for part in encoding.sequence_ids], dtype=np.int64)
        parts = np.where(offsets[:, 0] >= len(whole) - len(end), -1, parts)
        counted, remarks = np.ones(len(ids), dtype=np.bool_), list[str]()
        if isinstance(one, Prompted):
            seam = len(one.prompt)
            second = (parts >= 0) & (offsets[:, 1] > seam)
            offsets = np.where(second[:, None], np.maximum(offsets - seam, 0), offsets)
            parts = np.where(second, 1, parts)
            if asked or self.counting.completion_only:
                remarks += _from_border(self._encoding(one.prompt, special=True).ids, encoding.ids, counted)
        return Aligned(ids, None, offsets, parts, counted, remarks=tuple(remarks))

    def _tokens(self, one: Tokens, name: str) -> Aligned:
        self._refuse_unknown(one, name)
        ids = np.asarray(one.input_ids, dtype=np.int64)
        counted = np.ones(len(ids), dtype=np.bool_)
        if one.labels is not None:
            counted = np.asarray(one.labels, dtype=np.int64) >= 0
        offsets = self._offsets(one)
        special = np.isin(ids, sorted(set(cast("Sequence[int]", self.tokenizer.all_special_ids))))
        return Aligned(ids, None, offsets, np.where(special, -1, 0), counted)

    def _offsets(self, one: Tokens) -> Int[np.ndarray, "t 2"]:
        """The characters of each token: of the same tokens made anew, else by decoding longer and longer prefixes."""
        encoding = self._encoding(one.text, special=False)
        if tuple(encoding.ids) == one.input_ids:
            return np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        how: dict[str, Any] = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        ids = list(one.input_ids)
        ends = [min(len(self.tokenizer.decode(ids[: at + 1], **how)), len(one.text)) for at in range(len(ids))]
        edges = np.maximum.accumulate(np.asarray([0, *ends], dtype=np.int64))
        return np.stack([edges[:-1], edges[1:]], axis=1)

    def _refuse_unknown(self, one: Tokens, name: str) -> None:
        size = max(len(self.tokenizer), 1 + max(self.tokenizer.get_vocab().values(), default=0))
        wrong = next((token for token in one.input_ids if not 0 <= token < size), None)
        if wrong is not None:
            raise InputError(
                f"{name} holds the token {wrong}, and the vocabulary of this run has {size}: the rows were tokenized "
                "with another tokenizer"
            )

    def _encoding(self, text: str, *, special: bool) -> Any:
        quiet = {"return_attention_mask": False, "return_token_type_ids": False, "truncation": False}
        with tokenizing():
            made = self.tokenizer(text, add_special_tokens=special, **quiet)
        return made.encodings[0]

    def _cut(self, one: Aligned, example: Example) -> Aligned:
        """Read the first tokens, as trainers do; nothing predicts the first of all."""
        one.counted[:1] = False
        most = self.max_length
        if len(one.ids) <= most:
            return one
        kept, left = one.parts[:most], one.parts[most:]
        cuts: list[int | None] = [None, None]
        if isinstance(example.content, Prompted):
            for part, text in enumerate(example.parts):
                ends = one.offsets[:most][kept == part, 1]
                cuts[part] = int(ends.max(initial=0)) if (left == part).any() and text else None
        elif (left >= 0).any():  # the place in the texts of all turns, one per line
            cuts[0] = _joined_place(example.parts, kept, one.offsets[:most])
        return replace(
            one,
            ids=one.ids[:most],
            offsets=one.offsets[:most],
            parts=kept,
            counted=one.counted[:most],
            cuts=(cuts[0], cuts[1]),
        )


def _joined_place(parts: Sequence[str], kept: Int[np.ndarray, " t"], offsets: Int[np.ndarray, "t 2"]) -> int:
    inside = np.flatnonzero(kept >= 0)
    if not len(inside):
        return 0
    last = int(inside[-1])
    return sum(len(part) + 1 for part in parts[: int(kept[last])]) + int(offsets[last, 1])


def _from_border(before: Sequence[int], whole: Sequence[int], counted: Bool[np.ndarray, " t"]) -> list[str]:
    """Count from where the tokens differ from those of the prompt; a line if some of the prompt's differ, too."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False)))
    counted[:shared] = False
    return [] if shared == len(before) else [BORDER]


def _owned(
    spans: Int[np.ndarray, "t 2"], placed: Sequence[Placed], length: int
) -> tuple[Int[np.ndarray, "t 2"], Int[np.ndarray, " t"]]:
    """The raw text that each token stands in, and where; tokens of the template are in none."""
    part = np.full(length + 1, IN_TEMPLATE, dtype=np.int64)
    raw = np.zeros(length + 1, dtype=np.int64)
    for one in placed:
        cut = slice(one.start, one.start + len(one.offsets))
        part[cut], raw[cut] = one.part, one.offsets
    at = np.arange(length + 1)
    inside = part != IN_TEMPLATE
    following = np.minimum.accumulate(np.where(inside, at, length)[::-1])[::-1]
    preceding = np.maximum.accumulate(np.where(inside, at, -1))
    first, last = following[spans[:, 0]], preceding[np.maximum(spans[:, 1] - 1, 0)]
    held = (spans[:, 1] > spans[:, 0]) & (first < spans[:, 1])
    last = np.where(held & (part[np.maximum(last, 0)] == part[first]), last, first)
    offsets = np.where(held[:, None], np.stack([raw[first], raw[np.maximum(last, 0)] + 1], axis=1), 0)
    return offsets, np.where(held, part[first], IN_TEMPLATE)
