"""Captured forms against autograd on the whole matrix, for every architecture of the table."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cases import CASES, LABELS, PAD, VOCABULARY, collate, encoded, make, model_of
from oracle import Place, Text, layer_gradient, table_gradient, weight_names
from proponent.errors import RunError
from proponent.gradients.capture import Capture, Captured, head_outer, head_table
from proponent.gradients.forms import Rows
from proponent.gradients.model_parts import embedding_scale, is_tied
from proponent.models import Batch, CausalLM, Classification, Encoded

TOLERANCE = 1e-5
CLASSIFIERS = [name for name, case in CASES.items() if case.kind == "classification"]
BLIND = [name for name, case in CASES.items() if not case.sees_padding]
LMS = [name for name, case in CASES.items() if case.kind == "causal-lm"]


def relative(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def dense(rows: Rows, position: int, vocabulary: int = VOCABULARY) -> np.ndarray:
    """One example's rows laid into the whole table, padding's row left zero as autograd leaves it."""
    one = rows.example(position)
    table = np.zeros((vocabulary, one.rows.shape[1]))
    np.add.at(table, one.ids, one.rows.astype(np.float64))
    return table


def texts(batch: list[Encoded], *, lm: bool) -> list[Text]:
    if lm:
        return [Text(one.ids.tolist(), counted=one.counted.tolist()) for one in batch]
    return [Text(one.ids.tolist(), label=row % LABELS) for row, one in enumerate(batch)]


def run(model: Any, batch: Batch, *, lm: bool, reduction: Any = "mean", **wanted: bool) -> Captured:
    task = (CausalLM() if lm else Classification()).objective(batch, reduction)
    return Capture(model, **wanted)(batch.inputs, task.losses, batch.words)


def heads(model: Any, batch: Batch, captured: Captured, reduction: Any = "mean") -> Any:
    assert captured.inputs is not None
    lm = CausalLM().objective(batch, reduction)
    return head_outer(captured.inputs, lm.target, lm.weight, batch.predicted_words)


def test_the_table_is_wide_enough() -> None:
    assert len({name.split("-lm-")[0].removesuffix("-classifier") for name in CASES}) >= 20


@pytest.mark.parametrize("name", CASES)
def test_rows_equal_autograd_on_the_embedding_matrix(name: str) -> None:
    model, lm = model_of(name), name in LMS
    examples = encoded(1, lm=lm) if not CASES[name].sees_padding else encoded(1, (6, 6, 6))
    captured = run(model, collate(examples), lm=lm)
    assert captured.rows is not None
    assert is_tied(model) == CASES[name].tied
    merged = captured.rows.merged(by_word=True)
    for position, text in enumerate(texts(examples, lm=lm)):
        truth = table_gradient(model, text, ("input",))
        assert relative(dense(captured.rows, position), truth) <= TOLERANCE
        assert relative(dense(merged, position), truth) <= TOLERANCE


@pytest.mark.parametrize("name", BLIND)
def test_batched_equals_one_by_one_in_any_order_with_any_padding(name: str) -> None:
    model, lm = model_of(name), name in LMS
    examples = encoded(2, lm=lm)
    labels = [row % LABELS for row in range(len(examples))]
    together = run(model, collate(examples, labels), lm=lm)
    order = np.random.default_rng(0).permutation(len(examples)).tolist()
    shuffled = run(model, collate([examples[at] for at in order], [labels[at] for at in order]), lm=lm)
    longer = run(model, wider(collate(examples, labels), 6), lm=lm)
    for position, one in enumerate(examples):
        alone = run(model, collate([one], [labels[position]]), lm=lm)
        truth = dense(alone.rows, 0)
        for other, at in ((together, position), (shuffled, order.index(position)), (longer, position)):
            assert relative(dense(other.rows, at), truth) <= TOLERANCE
            assert other.losses[at] == pytest.approx(alone.losses[0], rel=1e-5)


def wider(batch: Batch, more: int) -> Batch:
    """The same batch with more padding on the right."""
    pad = torch.nn.functional.pad
    inputs = {"input_ids": pad(batch.ids, (0, more), value=PAD), "attention_mask": pad(batch.mask, (0, more))}
    words = np.pad(batch.words, ((0, 0), (0, more)), constant_values=-1)
    return Batch(inputs, words, pad(batch.counted, (0, more)), batch.labels)


@pytest.mark.parametrize("name", [name for name in LMS if CASES[name].tied])
def test_tied_paths_each_equal_autograd(name: str) -> None:
    model = model_of(name)
    examples = encoded(3, lm=True)
    batch = collate(examples)
    captured = run(model, batch, lm=True, head=True)
    head = heads(model, batch, captured).outer
    outer = head(head_table(model))
    for position, text in enumerate(texts(examples, lm=True)):
        found = {"input": dense(captured.rows, position), "output": outer.example(position).dense()}
        for place in ("input", "output"):
            assert relative(found[place], table_gradient(model, text, (place,))) <= TOLERANCE
        exact = table_gradient(model, text, ("input", "output"))
        assert relative(found["input"] + found["output"], exact) <= TOLERANCE


def test_the_naive_hook_fails_on_a_tied_model() -> None:
    """The control: rows alone are far from the gradient of a shared table, and everything above could have failed."""
    model = model_of("gpt2-lm-tied")
    examples = encoded(3, lm=True)
    captured = run(model, collate(examples), lm=True)
    for position, text in enumerate(texts(examples, lm=True)):
        assert relative(dense(captured.rows, position), table_gradient(model, text, ("input", "output"))) > 0.1


@pytest.mark.parametrize("name", [name for name in LMS if not CASES[name].tied])
def test_untied_vocabulary_head_equals_autograd(name: str) -> None:
    model = model_of(name)
    examples = encoded(4, lm=True)
    batch = collate(examples)
    captured = run(model, batch, lm=True, embedding=False, head=True)
    assert captured.rows is None
    outer = heads(model, batch, captured).outer(head_table(model))
    for position, text in enumerate(texts(examples, lm=True)):
        assert relative(outer.example(position).dense(), table_gradient(model, text, ("output",))) <= TOLERANCE


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_head_equals_autograd_and_leaves_the_rows_alone(name: str) -> None:
    model = model_of(name)
    examples = encoded(5) if not CASES[name].sees_padding else encoded(5, (6, 6, 6))
    batch = collate(examples)
    alone = run(model, batch, lm=False, embedding=False, head=True)
    both = run(model, batch, lm=False, head=True)
    rows = run(model, batch, lm=False).rows
    assert alone.outer is not None
    assert both.outer is not None
    assert both.rows is not None
    assert rows is not None
    np.testing.assert_allclose(both.rows.rows, rows.rows, rtol=1e-5, atol=1e-7)
    weight = [one for one, found in model.named_parameters() if found.ndim == 2 and found.shape[0] == LABELS][-1]
    for position, text in enumerate(texts(examples, lm=False)):
        truth = layer_gradient(model, text, weight)
        assert relative(alone.outer.example(position).dense(), truth) <= TOLERANCE
        assert relative(both.outer.example(position).dense(), truth) <= TOLERANCE


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ["gpt2-lm-tied", "llama-lm-untied", "gemma-lm-tied"])
def test_only_the_targets_tokens_count(name: str, reduction: str) -> None:
    model = model_of(name)
    examples = [
        Encoded(one.ids, None, one.words, np.arange(len(one.ids)) >= max(1, len(one.ids) - 2))
        for one in encoded(6, lm=True)
    ]
    batch = collate(examples)
    captured = run(model, batch, lm=True, head=True, reduction=reduction)
    head = heads(model, batch, captured, reduction)
    outer = head.outer(head_table(model))
    assert np.diff(head.indptr).tolist() == [int(one.counted.sum()) for one in examples]
    for position, text in enumerate(texts(examples, lm=True)):
        assert relative(dense(captured.rows, position), table_gradient(model, text, ("input",), reduction)) <= TOLERANCE
        truth = table_gradient(model, text, ("output",), reduction)
        assert relative(outer.example(position).dense(), truth) <= TOLERANCE
        start, stop = int(head.indptr[position]), int(head.indptr[position + 1])
        assert head.target[start:stop].tolist() == np.asarray(text.ids)[np.asarray(text.counted)].tolist()
        assert head.words[start:stop].tolist() == examples[position].words[examples[position].counted].tolist()


def test_pairs_pass_their_segments() -> None:
    model = model_of("bert-classifier")
    examples = [
        Encoded(one.ids, (np.arange(len(one.ids)) > 2).astype(np.int64), one.words, one.counted) for one in encoded(7)
    ]
    captured = run(model, collate(examples), lm=False)
    for position, (text, one) in enumerate(zip(texts(examples, lm=False), examples, strict=True)):
        whole = Text(text.ids, label=text.label, types=one.type_ids.tolist())
        assert relative(dense(captured.rows, position), table_gradient(model, whole)) <= TOLERANCE


def test_contrast_of_two_labels() -> None:
    model = model_of("distilbert-classifier")
    examples = encoded(8)
    batch = collate(examples)
    captured = Capture(model)(
        batch.inputs,
        Classification().objective(batch, against=((batch.labels + 1) % LABELS).tolist()).losses,
        batch.words,
    )
    for position, text in enumerate(texts(examples, lm=False)):
        contrast = Text(text.ids, label=text.label, against=(text.label + 1) % LABELS)
        assert relative(dense(captured.rows, position), table_gradient(model, contrast)) <= TOLERANCE


def test_a_padding_token_inside_a_text_keeps_its_row() -> None:
    """Autograd zeroes the row of padding_idx; the hook does not. Everything else agrees."""
    model = model_of("bert-classifier")
    (one,) = encoded(9, (6,))
    one.ids[2] = PAD
    captured = run(model, collate([one]), lm=False)
    found = dense(captured.rows, 0)
    truth = table_gradient(model, Text(one.ids.tolist(), label=0))
    assert np.linalg.norm(found[PAD]) > 0
    found[PAD] = truth[PAD] = 0.0
    assert relative(found, truth) <= TOLERANCE


@pytest.mark.parametrize(
    "name", ["bert-classifier", "gpt2-classifier", "gpt2-lm-tied", "albert-classifier", "gpt-neox-lm-untied"]
)
def test_pooled_is_the_mean_over_real_tokens(name: str) -> None:
    model, lm = model_of(name), name in LMS
    examples = encoded(10, lm=lm)
    captured = run(model, collate(examples), lm=lm, embedding=False, pooled=True)
    assert captured.pooled is not None
    for position, one in enumerate(examples):
        hidden = model.base_model(input_ids=torch.tensor([one.ids.tolist()])).last_hidden_state
        np.testing.assert_allclose(captured.pooled[position], hidden[0].mean(0).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["bert-classifier", "gpt2-lm-tied", "modernbert-classifier", "mixtral-lm-untied"])
def test_a_loss_that_is_not_finite_harms_nobody_else(name: str) -> None:
    lm = name in LMS
    broken = CASES[name].make()
    examples = encoded(11, lm=lm)
    others = {int(token) for one in examples[1:] for token in one.ids}
    own = next(int(token) for token in examples[0].ids[1:] if int(token) not in others)
    if CASES[name].tied:  # a broken row of a shared table breaks every prediction
        examples[0].counted[:] = False
    else:
        broken.get_input_embeddings().weight[own] = torch.nan
    labels = [row % LABELS for row in range(len(examples))]
    batch = collate(examples, labels)
    found = run(broken, batch, lm=lm, head=lm)
    clean = run(model_of(name), collate(examples[1:], labels[1:]), lm=lm)
    assert np.isfinite(found.losses).tolist() == [False] + [True] * (len(examples) - 1)
    assert not found.rows.finite()[0]
    assert found.rows.finite()[1:].all()
    for position in range(1, len(examples)):
        assert relative(dense(found.rows, position), dense(clean.rows, position - 1)) <= TOLERANCE


class Offset(nn.Embedding):
    """An embedding that adds something to what it looks up."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 # torch's own name
        return super().forward(input) + 0.1


class PerToken(nn.Embedding):
    """An embedding that scales every row by a factor of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 # torch's own name
        return super().forward(input) * (1 + input[..., None] / 50)


@pytest.mark.parametrize("kind", [Offset, PerToken])
def test_an_embedding_that_does_more_than_look_up_is_refused(kind: type[nn.Embedding]) -> None:
    model = make("bert", "ForSequenceClassification")
    table = model.get_input_embeddings()
    model.set_input_embeddings(kind(*table.weight.shape, _weight=table.weight).requires_grad_(requires_grad=False))
    with pytest.raises(RunError, match=f"{kind.__name__} does more than look up"):
        run(model, collate(encoded(0)), lm=False)


def test_scales_are_measured() -> None:
    assert embedding_scale(nn.Embedding(9, 4)) == 1.0
    assert embedding_scale(model_of("gemma-lm-tied").get_input_embeddings()) == pytest.approx(24**0.5, rel=1e-6)
    clipped = nn.Embedding(9, 4, max_norm=0.5)
    before = clipped.weight.detach().clone()
    with pytest.raises(RunError, match="more than look up"):
        embedding_scale(clipped)
    assert torch.equal(before, clipped.weight)  # looking does not change it
    assert embedding_scale(nn.Embedding(9, 4, _weight=torch.zeros(9, 4))) == 1.0
    scaled = model_of("gemma-lm-tied").get_input_embeddings()
    scaled.weight.data.zero_()  # zeros times any factor are zeros: the factor is measured with other rows
    assert embedding_scale(scaled) == pytest.approx(24**0.5, rel=1e-6)
    assert not bool(scaled.weight.any())
    with pytest.raises(RunError, match="more than look up"):
        embedding_scale(Offset(9, 4, _weight=torch.zeros(9, 4)))


def test_an_embedding_that_is_never_called_is_refused() -> None:
    model = make("bert", "ForSequenceClassification")
    spare = nn.Embedding(VOCABULARY, 24)
    model.get_input_embeddings = lambda: spare
    with pytest.raises(RunError, match="never called its input embedding"):
        run(model, collate(encoded(0)), lm=False)


def test_a_model_without_a_lookup_table_is_refused() -> None:
    model = make("bert", "ForSequenceClassification")
    model.set_input_embeddings(nn.Linear(VOCABULARY, 24))
    with pytest.raises(RunError, match="is a Linear, not a lookup table"):
        run(model, collate(encoded(0)), lm=False)


def test_shifted_tokens_are_refused() -> None:
    model = make("bert", "ForSequenceClassification")
    inner = model.forward
    model.forward = lambda input_ids, **more: inner(input_ids=input_ids.roll(1, 1), **more)
    with pytest.raises(RunError, match="embeds other tokens"):
        run(model, collate(encoded(0)), lm=False)


def test_an_encoder_decoder_is_refused() -> None:
    from transformers import T5Config, T5ForSequenceClassification

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "num_labels": LABELS}
    special = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": 3, "decoder_start_token_id": PAD}
    model = T5ForSequenceClassification(T5Config(**sizes, **special)).eval().requires_grad_(requires_grad=False)
    examples = encoded(0, (5, 5))
    for one in examples:
        one.ids[-1] = 3
    with pytest.raises(RunError, match="shares its embedding's table with"):
        is_tied(model)
    with pytest.raises(RunError, match="never called its input embedding"):
        run(model, collate(examples), lm=False)


@pytest.mark.parametrize("name", [name for name in CASES if name not in BLIND])
def test_models_that_see_padding_do(name: str) -> None:
    """Their own answers change: no capture can mend that, so that their texts must not be padded."""
    model, batch = model_of(name), collate(encoded(1, (6, 5)))
    plain, padded = (run(model, one, lm=False).losses for one in (batch, wider(batch, 3)))
    assert np.abs(plain - padded).max() > 1e-4


def test_a_capped_vocabulary_head_is_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    more = {"intermediate_size": 24, "head_dim": 12, "vocab_size": VOCABULARY, "pad_token_id": PAD}
    model = Gemma2ForCausalLM(Gemma2Config(**sizes, **more, final_logit_softcapping=2.0)).eval()
    model.requires_grad_(requires_grad=False)
    model.get_input_embeddings().weight.mul_(20)
    examples = encoded(0, lm=True)
    with pytest.raises(RunError, match="scales, caps or cuts"):
        run(model, collate(examples), lm=True, head=True)
    captured = run(model, collate(examples), lm=True)  # the rows need no head
    truth = table_gradient(model, texts(examples, lm=True)[0])
    assert relative(dense(captured.rows, 0), truth) <= TOLERANCE


def test_a_table_shared_with_another_layer_is_refused() -> None:
    model = make("bert", "ForSequenceClassification")
    model.spare = nn.Linear(24, VOCABULARY)
    model.spare.weight = model.get_input_embeddings().weight
    with pytest.raises(RunError, match=r"shares its embedding's table with spare \(Linear\)"):
        is_tied(model)


def test_names_of_the_oracle_are_two_places_of_one_table() -> None:
    names: dict[Place, str] = weight_names(model_of("gpt2-lm-tied"))
    assert names == {"input": "transformer.wte.weight", "output": "lm_head.weight"}
