"""Texts to tokens: where the limit cut, which tokens count, which word each belongs to."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import runs
from proponent.errors import InputError
from proponent.models import CausalLM, Classification, Encoded, Encoder
from proponent.types import Example
from proponent.words import words

BERT = runs.bert_tokenizer()
GPT2 = runs.gpt2_tokenizer()
TEXT = "Sales of the bank. The coach said after the match: a treaty on the border, a flood in the capital."


def example(text: str, *, pair: str | None = None, target: str | None = None, number: int = 0) -> Example:
    return Example(str(number), number, text, None, pair, target)


def classifier(most: int = runs.MAX_LENGTH) -> Encoder:
    return Encoder(BERT, Classification(), most, BERT.pad_token_id)


def lm(most: int = 64) -> Encoder:
    return Encoder(GPT2, CausalLM(), most, GPT2.pad_token_id)


def one(encoder: Encoder, asked: Example) -> Encoded:
    (found,) = encoder.encode([asked])
    return found


def spelled(encoded: Encoded, asked: Example) -> list[str]:
    """The word of every token as it stands in the text; "" for special tokens."""
    known = words(asked.parts)
    return [known[place].text if place >= 0 else "" for place in encoded.words.tolist()]


# ---- truncation ----


def test_a_whole_text_is_not_cut() -> None:
    found = one(classifier(), example("Sales of the bank.  "))
    assert (found.truncated_at, found.pair_truncated_at, found.cut_before) == (None, None, False)


@pytest.mark.parametrize("most", [4, 7, 12])
def test_the_cut_stands_after_the_last_token_that_is_read(most: int) -> None:
    found = one(classifier(most), example(TEXT))
    assert len(found.ids) == most
    assert found.truncated_at is not None
    read, rest = TEXT[: found.truncated_at], TEXT[found.truncated_at :]
    assert found.ids.tolist() == BERT(read)["input_ids"]
    assert rest.strip()


def test_both_texts_of_a_pair_may_be_cut() -> None:
    whole = example("Sales.", pair=TEXT)
    found = one(classifier(12), whole)
    assert found.truncated_at is None
    assert found.pair_truncated_at is not None
    assert found.ids.tolist() == BERT(whole.text, TEXT[: found.pair_truncated_at])["input_ids"]
    both = one(classifier(8), example(TEXT, pair=TEXT))
    assert both.truncated_at is not None
    assert both.pair_truncated_at is not None
    assert both.ids.tolist() == BERT(TEXT[: both.truncated_at], TEXT[: both.pair_truncated_at])["input_ids"]


def test_a_target_may_be_cut_and_the_place_counts_from_its_own_start() -> None:
    asked = example("Sales of the", target=" bank. The coach said after the match")
    found = one(lm(8), asked)
    assert found.truncated_at is None
    assert found.pair_truncated_at is not None
    assert GPT2.decode(found.ids[found.counted]) == (asked.target or "")[: found.pair_truncated_at]
    prompt = one(lm(2), asked)
    assert prompt.truncated_at is not None
    assert GPT2.decode(prompt.ids) == asked.text[: prompt.truncated_at]
    assert prompt.pair_truncated_at == 0
    assert not prompt.counted.any()


def test_a_tokenizer_that_cuts_on_the_left() -> None:
    tokenizer = runs.bert_tokenizer()
    tokenizer.truncation_side = "left"
    found = one(Encoder(tokenizer, Classification(), 8, 0), example(TEXT))
    assert found.cut_before
    assert found.truncated_at is not None
    assert found.ids.tolist() == BERT(TEXT[found.truncated_at :])["input_ids"]


# ---- targets ----


def test_the_tokens_of_the_target_count_and_know_their_words() -> None:
    asked = example("Sales of the bank", target=" said the coach")
    found = one(lm(), asked)
    assert GPT2.decode(found.ids) == "Sales of the bank said the coach"
    assert GPT2.decode(found.ids[found.counted]) == " said the coach"
    assert spelled(found, asked)[-3:] == ["said", "the", "coach"]
    spans = [word.spans for word in words(asked.parts) if word.text == "the"]
    assert spans == [(((9, 12),), ((6, 9),))]  # one word, in the prompt and, counted from its own start, in the target


def test_a_token_across_the_seam_counts() -> None:
    whole = one(lm(), example("Sales"))
    assert len(whole.ids) == 1
    asked = example("Sal", target="es of")
    found = one(lm(), asked)
    assert found.ids[0] == whole.ids[0], "the one token lies across the seam"
    assert found.counted.tolist() == [False, *[True] * (len(found.ids) - 1)], "nothing predicts the first token"
    across = one(lm(), example("the Sal", target="es"))
    assert GPT2.decode(across.ids[across.counted]) == "Sales"


def test_without_a_target_all_but_the_first_token_count() -> None:
    found = one(lm(), example(TEXT))
    assert found.counted.tolist() == [False, *[True] * (len(found.ids) - 1)]


def test_a_text_of_one_token_has_no_loss() -> None:
    encoded = lm().encode([example("Sales"), example("Sales of")])
    batch = lm().collate(encoded, [-1, -1])
    logits = torch.randn(2, 2, len(GPT2), generator=torch.Generator().manual_seed(0))
    losses = CausalLM().objective(batch).losses(logits)
    expected = -logits[1, 0].log_softmax(-1)[encoded[1].ids[1]]
    assert torch.isnan(losses[0])
    assert losses[1] == pytest.approx(float(expected))


# ---- parts that a task does not read ----


def test_a_part_that_the_task_does_not_read_is_refused() -> None:
    with pytest.raises(InputError, match=r"id 0 has a second text, .*--target-column.*--pair-column ''"):
        lm().encode([example("a", pair="b")])
    with pytest.raises(InputError, match=r"id 0 has a target, .*--pair-column.*--target-column ''"):
        classifier().lengths([example("a", target="b")])


# ---- batches ----


def test_some_examples_with_a_pair_and_some_without() -> None:
    """Neither is the pair of the second lost, nor does the first get an empty one."""
    asked = [example("Sales of the bank."), example("The coach", pair="said"), example("A vote.")]
    for order in ([0, 1, 2], [1, 0, 2]):
        found = classifier().encode([asked[place] for place in order])
        expected = [BERT(asked[place].text, asked[place].text_pair)["input_ids"] for place in order]
        assert [encoded.ids.tolist() for encoded in found] == expected
        assert classifier().lengths([asked[place] for place in order]).tolist() == [len(ids) for ids in expected]


def test_segments_for_a_model_that_wants_them() -> None:
    tokenizer = runs.bert_tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    encoder = Encoder(tokenizer, Classification(), 24, 0)
    found = encoder.encode([example("bank", pair="coach"), example("a vote")])
    assert [encoded.type_ids.tolist() for encoded in found if encoded.type_ids is not None] == [
        tokenizer("bank", "coach")["token_type_ids"],
        tokenizer("a vote")["token_type_ids"],
    ]
    batch = encoder.collate(found, [0, 1])
    assert batch.inputs["token_type_ids"].shape == batch.ids.shape
    assert one(classifier(), example("bank")).type_ids is None


def test_a_batch_is_padded_on_the_right() -> None:
    asked = [example("Sales"), example("Sales of the bank")]
    batch = lm().collate(lm().encode(asked), [-1, -1])
    assert batch.mask.sum(1).tolist() == lm().lengths(asked).tolist()
    assert batch.words[0, 1:].tolist() == [-1] * (batch.words.shape[1] - 1)
    assert not batch.counted[0, 1:].any()


TEXTS = st.text(st.sampled_from("Sales of bank. naïve 日本 É\t,éx🙂"), min_size=1, max_size=60)


@given(st.lists(st.tuples(TEXTS, st.one_of(st.none(), TEXTS)), min_size=1, max_size=6))
def test_lengths_are_those_of_what_is_encoded(texts: list[tuple[str, str | None]]) -> None:
    pairs = [example(text, pair=second, number=row) for row, (text, second) in enumerate(texts)]
    targets = [example(text, target=second, number=row) for row, (text, second) in enumerate(texts)]
    asked: list[tuple[Encoder, list[Example]]] = [(classifier(9), pairs), (lm(9), targets)]
    for encoder, examples in asked:
        encoded = encoder.encode(examples)
        assert encoder.lengths(examples, chunk=2).tolist() == [len(found.ids) for found in encoded]
        alone: list[Any] = [one(encoder, asked_for) for asked_for in examples]
        for found, again in zip(encoded, alone, strict=True):
            np.testing.assert_array_equal(found.ids, again.ids)
            np.testing.assert_array_equal(found.words, again.words)
            assert (found.truncated_at, found.pair_truncated_at) == (again.truncated_at, again.pair_truncated_at)


@given(TEXTS, TEXTS)
def test_every_token_of_a_text_stands_in_a_word_of_its_part(text: str, second: str) -> None:
    for encoder, asked in (
        (classifier(64), example(text, pair=second)),
        (lm(400), example(text, target=second)),
    ):
        found = one(encoder, asked)
        known = words(asked.parts)
        assert set(found.words.tolist()) <= {-1, *range(len(known))}
        if encoder.task == CausalLM():
            assert GPT2.decode(found.ids) == text + second
