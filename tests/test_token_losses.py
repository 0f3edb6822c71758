"""Losses of tokens in blocks against autograd through all logits, in float64: heads, tails, padding, prompts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from cases import MASKED, PAD, SEQ2SEQ, VOCABULARY, collate, encoded, make, make_of, shake
from proponent.gradients import token_losses
from proponent.gradients.capture import Capture, Captured, head_outer
from proponent.gradients.head_rows import own_tokens, shares_of
from proponent.gradients.output_layer import OutputLayer
from proponent.models import CausalLM, Encoded, Encoder, MaskedLM, SampledLabels, Seq2Seq
from proponent.models.batch import Batch
from proponent.models.tasks.base import TokenLoss

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
SIZES |= {"intermediate_size": 40, "max_position_embeddings": 64, "tie_word_embeddings": True}


def capped() -> Any:
    model = make_of("Gemma2ForCausalLM", {**SIZES, "head_dim": 12, "final_logit_softcapping": 2.0})
    model.get_input_embeddings().weight.mul_(20)
    return model


def biased(name: str) -> Any:
    """A BART with a bias beside its head, as translation models have."""
    model = make_of(*SEQ2SEQ[name])
    model.final_logits_bias.normal_()
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "gpt2 tied": lambda: make("gpt2", "LMHeadModel", tied=True),
    "gpt2 untied": lambda: make("gpt2", "LMHeadModel"),
    "llama tied": lambda: make("llama", "ForCausalLM", tied=True),
    "llama untied": lambda: make("llama", "ForCausalLM"),
    "gemma tied": lambda: make("gemma", "ForCausalLM", tied=True),
    "gemma 2, capped": capped,
    "cohere, scaled": lambda: make_of("CohereForCausalLM", {**SIZES, "logit_scale": 0.3}),
    "granite, scaled": lambda: make_of("GraniteForCausalLM", {**SIZES, "logits_scaling": 8.0}),
    "phi, bias in the head": lambda: make("phi", "ForCausalLM"),
    "bert masked": lambda: make_of(*MASKED["bert"]),
    "t5": lambda: make_of(*SEQ2SEQ["t5"]),
    "bart, bias beside the head": lambda: biased("bart"),
}
CAUSAL = [name for name in MODELS if name not in {"bert masked", "t5", "bart, bias beside the head"}]


def batch_of(name: str, seed: int = 1) -> tuple[Batch, TokenLoss]:
    """Texts of several lengths, padded, whose prompts do not count."""
    examples = [replace(one, counted=counted(one)) for one in encoded(seed, (7, 4, 10, 2), lm=True)]
    if name in CAUSAL:
        batch = collate(examples)
        return batch, CausalLM().objective(batch)
    ids = [np.random.default_rng(len(one.ids)).permutation(one.ids) for one in examples]
    if name == "bert masked":
        read = [replace(one, targets=own, target_words=one.words) for one, own in zip(examples, ids, strict=True)]
        batch = Encoder(None, MaskedLM(), 64, PAD).collate(read, [-1] * len(read))
        return batch, MaskedLM().objective(batch)
    read = [
        replace(one, targets=own[:-1], target_words=one.words[:-1], counted=one.counted[1:], start=PAD)
        for one, own in zip(examples, ids, strict=True)
    ]
    batch = Encoder(None, Seq2Seq(), 64, PAD).collate(read, [-1] * len(read))
    return batch, Seq2Seq().objective(batch)


def counted(one: Encoded) -> np.ndarray:
    """All but the first third: a prompt."""
    return np.arange(len(one.ids)) > len(one.ids) // 3


def capture(model: Any, batch: Batch, loss: TokenLoss, output: OutputLayer | None, **more: Any) -> Captured:
    decoder = None if batch.decoder is None else (batch.decoder.mask, batch.decoder.words)
    terms, wanted = more.pop("terms", loss.terms()), more.pop("wanted", None)
    found = Capture(model, output=output, **more)
    return found(batch.inputs, more.pop("losses", loss.losses), batch.words, decoder, terms, wanted)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of three positions."""
    monkeypatch.setattr(token_losses, "BLOCK_BYTES", 3 * VOCABULARY * 8)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", MODELS)
def test_gradients_in_blocks_equal_autograd_through_all_logits(name: str) -> None:
    model = MODELS[name]().double()
    batch, loss = batch_of(name)
    output = OutputLayer(model)
    found = capture(model, batch, loss, output)
    assert output.cuts
    assert found.logits.shape[1] == 1
    truth = capture(model, batch, loss, None)
    assert truth.logits.shape[1] > 1
    np.testing.assert_allclose(found.losses, truth.losses, rtol=1e-12)
    assert found.rows is not None
    assert truth.rows is not None
    np.testing.assert_array_equal(found.rows.ids, truth.rows.ids)
    np.testing.assert_allclose(found.rows.rows, truth.rows.rows, rtol=1e-6, atol=1e-6 * np.abs(truth.rows.rows).max())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["gpt2 tied", "llama tied", "bert masked", "t5", "bart, bias beside the head"])
def test_the_head_of_a_shared_table_needs_no_logits_either(name: str) -> None:
    model = MODELS[name]().double()
    batch, loss = batch_of(name)
    wanted = own_tokens(batch, loss)
    found = capture(model, batch, loss, OutputLayer(model), head=True, wanted=wanted)
    truth = capture(model, batch, loss, None, head=True)
    assert found.inputs is not None
    assert truth.inputs is not None
    assert found.shares is not None
    heads = [head_outer(one.inputs, loss.target, loss.weight, batch.predicted_words) for one in (found, truth)]
    np.testing.assert_allclose(heads[0].a, heads[1].a, rtol=1e-6)
    for mine, theirs in zip(found.shares, shares_of(truth.logits, loss.weight != 0, wanted), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-9)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["llama untied", "gemma 2, capped", "t5"])
def test_sampled_labels_are_those_of_all_logits(name: str) -> None:
    model, draws = MODELS[name]().double(), SampledLabels(7)
    batch, loss = batch_of(name)
    found = capture(model, batch, loss, OutputLayer(model), terms=draws.terms(batch, loss))
    truth = Capture(model)(
        batch.inputs,
        draws.losses(batch, loss),
        batch.words,
        None if batch.decoder is None else (batch.decoder.mask, batch.decoder.words),
    )
    np.testing.assert_allclose(found.losses, truth.losses, rtol=1e-12)
    assert found.rows is not None
    assert truth.rows is not None
    np.testing.assert_allclose(found.rows.rows, truth.rows.rows, rtol=1e-6, atol=1e-6 * np.abs(truth.rows.rows).max())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # a matter between peft and transformers
def test_a_sum_over_tokens_and_an_adapter_in_the_head() -> None:
    import peft

    settings = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head", "q_proj"], r=2)
    model = shake(peft.get_peft_model(make("llama", "ForCausalLM"), settings)).double()
    batch, _ = batch_of("llama untied")
    loss = CausalLM().objective(batch, "sum")
    found, truth = (capture(model, batch, loss, output) for output in (OutputLayer(model), None))
    assert found.logits.shape[1] == 1
    np.testing.assert_allclose(found.losses, truth.losses, rtol=1e-12)
    assert found.rows is not None
    assert truth.rows is not None
    np.testing.assert_allclose(found.rows.rows, truth.rows.rows, rtol=1e-6, atol=1e-6 * np.abs(truth.rows.rows).max())


class Neighbours(transformers.LlamaForCausalLM):
    """Mixes the logits of neighbouring tokens of the vocabulary."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        made = super().forward(*args, **kwargs)
        made.logits = made.logits + made.logits.roll(1, -1)
        return made


class Flat(transformers.LlamaForCausalLM):
    """Expects the logits of every position."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        made = super().forward(input_ids, attention_mask, **kwargs)
        made.logits = made.logits * attention_mask[:, :, None].reshape(made.logits.shape[:2])[:, :, None]
        return made


@pytest.mark.parametrize("kind", [Neighbours, Flat])
def test_a_model_that_does_more_is_not_cut(kind: type[Any]) -> None:
    torch.manual_seed(0)
    model = shake(kind(make("llama", "ForCausalLM").config)).double()
    batch, loss = batch_of("llama untied")
    output = OutputLayer(model)
    found, truth = capture(model, batch, loss, output), capture(model, batch, loss, None)
    assert not output.cuts
    np.testing.assert_array_equal(found.losses, truth.losses)
    assert found.rows is not None
    assert truth.rows is not None
    np.testing.assert_array_equal(found.rows.rows, truth.rows.rows)


def test_a_text_without_finite_logits_leaves_the_others_alone() -> None:
    model = make("llama", "ForCausalLM")
    batch, loss = batch_of("llama untied")
    model.get_input_embeddings().weight[batch.ids[0, 0]] = torch.nan
    output = OutputLayer(model)
    found, truth = capture(model, batch, loss, output), capture(model, batch, loss, None)
    assert output.cuts
    np.testing.assert_allclose(found.losses, truth.losses, rtol=1e-5)
    assert np.isnan(found.losses).any()
