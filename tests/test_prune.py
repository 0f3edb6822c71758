"""Pruning: gate derivatives, forms of influence, smaller models, rounds beside controls, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import answered
import runs
import tiny
from proponent.actions.channel_influence import channel_influence, kept, losses_without
from proponent.actions.channel_pruning import FULL, INFLUENCE, MASK_FILE, NORM, ONE_BATCH, RANDOM, Pruner, PruneSettings
from proponent.actions.prune import prune
from proponent.data import read
from proponent.errors import InputError
from proponent.gradients.channel_gates import Gates
from proponent.models import Run
from proponent.models.prunable import FEED_FORWARD, HEADS, norms, shrunk, sites_of
from proponent.training.rerun import RunProblem

SMALL = PruneSettings(batches=4, batch_size=8, rounds=2, steps=3, learning_rate=1e-3, seeds=2, draws=2)
SIZES = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {**SIZES, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS = {
    "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**WIDE)),
    "roberta": lambda: transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**WIDE)),
    "distilbert": lambda: transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(vocab_size=60, dim=16, hidden_dim=12, n_layers=2, n_heads=4)
    ),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**SIZES, n_embd=16, n_inner=12, n_layer=2, n_head=4)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**WIDE, num_key_value_heads=2, head_dim=4)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**WIDE, num_key_value_heads=2)),
    "t5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            **SIZES, d_model=16, d_kv=4, d_ff=12, num_layers=2, num_heads=4, decoder_start_token_id=0,
            feed_forward_proj="gated-gelu",
        )
    ),
}  # fmt: skip


def made(name: str) -> torch.nn.Module:
    """A model whose channels matter: fresh weights are nearly 0."""
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for one in model.parameters():
            if one.dim() > 1:
                one.normal_(0, 0.3)
            else:
                one.add_(torch.randn_like(one) * 0.1)
    return model


def given(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    return inputs | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})


def problem_of(tiny_run: tiny.Tiny) -> tuple[Run, RunProblem]:
    run = Run.from_pretrained(tiny_run.run)
    rows = list(read(tiny_run.data))
    return run, RunProblem(run, rows[:-10], rows[-10:], str(run.checkpoints[-1].path), run.length(None))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", [FEED_FORWARD, HEADS])
def test_a_smaller_model_computes_what_the_masked_one_does(name: str, kind: str) -> None:
    model = made(name)
    if (name, kind) == ("t5", HEADS):
        with pytest.raises(InputError, match="the heads layers of a t5 model are not known"):
            sites_of(model, kind)
        return
    sites = sites_of(model, kind)
    assert len(sites) == (4 if name == "t5" else 2)
    counts = {FEED_FORWARD: 12, HEADS: 2 if name in ("llama", "qwen2") else 4}
    assert {one.count for one in sites} == {counts[kind]}
    generator = np.random.default_rng(0)
    chosen = [np.sort(generator.permutation(one.count)[: one.count // 2]) for one in sites]
    gates = Gates.open(sites)
    for at, own in enumerate(chosen):
        gates.values[at] = torch.zeros(sites[at].count).index_fill_(0, torch.as_tensor(own), 1.0)
    with torch.inference_mode():
        plain = model(**given(model)).logits
        with gates.on(model):
            masked = model(**given(model)).logits
    assert float((plain - masked).abs().max()) > 1e-4
    if kind == HEADS and name != "llama":
        with pytest.raises(InputError, match=f"the configuration of a {name} model cannot say"):
            shrunk(model, sites, chosen)
        return
    small = shrunk(model, sites, chosen).eval()
    with torch.inference_mode():
        torch.testing.assert_close(small(**given(model)).logits, masked, rtol=1e-4, atol=1e-5)
    assert sum(one.numel() for one in small.parameters()) < sum(one.numel() for one in model.parameters())


def keep(state: torch.Tensor, kept: list[torch.Tensor]) -> None:
    state.retain_grad()
    kept.append(state)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_a_gates_derivative_is_value_times_gradient_summed_over_tokens(name: str) -> None:
    model = made(name).double()
    for kind in (FEED_FORWARD, HEADS):
        sites = sites_of(model, kind)
        gates = Gates.open(sites, per_example=True)
        gates.values = [one.double() for one in gates.values]
        states: list[torch.Tensor] = []
        hooks = [
            model.get_submodule(one.name).register_forward_pre_hook(
                lambda _, inputs, kept=states: keep(inputs[0], kept)
            )
            for one in sites
        ]
        model(**given(model)).logits.square().sum().backward()
        for one in hooks:
            one.remove()
        with gates.on(model):
            found = gates.gradients(model(**given(model)).logits.square().sum())
        for own, state, site in zip(found, states, sites, strict=True):
            wanted = (state * state.grad).sum(1).reshape(2, site.count, site.width).sum(2)
            torch.testing.assert_close(own, wanted, rtol=1e-6, atol=1e-9)


class Linear(torch.nn.Module):
    """A linear model of channels, with squared loss: half the second derivative is exact."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = transformers.PretrainedConfig()
        self.first, self.second = torch.nn.Linear(6, 5, bias=False), torch.nn.Linear(5, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


class Squared:
    """Losses of a linear model; labels are sampled from a normal distribution about its output."""

    def __init__(self, count: int = 4000) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(count, 6, generator=generator)
        self.y = torch.randn(count, 1, generator=generator)

    def losses(self, model: torch.nn.Module, rows: np.ndarray) -> torch.Tensor:
        return ((model(self.x[rows]) - self.y[rows]) ** 2)[:, 0] / 2

    def sampled(self, model: torch.nn.Module, rows: np.ndarray, seed: int) -> torch.Tensor:
        out = model(self.x[rows])
        noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
        return ((out - (out.detach() + noise)) ** 2)[:, 0] / 2


def test_the_second_order_is_the_exact_change_of_a_linear_model() -> None:
    from proponent.models.prunable import Site

    model, problem = Linear(), Squared()
    sites = [Site("second", FEED_FORWARD, ("first",), 5, 1)]
    rows = np.arange(4000)
    found = channel_influence(model, sites, problem, [rows] * 60, "second").values[0]
    with torch.inference_mode():
        before = float(problem.losses(model, rows).mean())
    changes = list(
        losses_without(
            model, sites, [(0, at) for at in range(5)], lambda made: float(problem.losses(made, rows).mean())
        )
    )
    np.testing.assert_allclose(found, np.asarray(changes) - before, rtol=0.01, atol=0.01 * np.abs(found).max())


def test_the_mixed_form_is_the_double_derivative() -> None:
    from proponent.models.prunable import Site

    model, problem = Linear().double(), Squared(50)
    problem.x, problem.y = problem.x.double(), problem.y.double()
    sites, rows = [Site("second", FEED_FORWARD, ("first",), 5, 1)], np.arange(50)
    found = channel_influence(model, sites, problem, [rows], "mixed", weight_decay=0.1).values[0]
    gate = torch.ones(5, dtype=torch.float64, requires_grad=True)
    weights = list(model.parameters())
    hidden = problem.x @ weights[0].T
    loss = (((hidden * gate) @ weights[1].T - problem.y) ** 2).mean() / 2
    gradient = torch.autograd.grad(loss, gate, create_graph=True)[0]
    v = torch.autograd.grad(gradient.sum(), weights, create_graph=True)
    u = [one.detach() / 0.1 for one in v]
    along = torch.autograd.grad(loss, weights, create_graph=True)
    exact = torch.autograd.grad(sum((one * other).sum() for one, other in zip(along, u, strict=True)), gate)[0]
    np.testing.assert_allclose(found, np.abs(exact.numpy()), rtol=0.01)


def test_influence_is_a_mean_over_batches_and_leaves_the_model_as_it_was(news) -> None:
    run, problem = problem_of(news)
    model = run.load(run.checkpoints[-1])
    before = {name: one.clone() for name, one in model.state_dict().items()}
    sites = sites_of(model)
    batches = [np.arange(8), np.arange(8, 16), np.arange(16, 24)]
    each = [channel_influence(model, sites, problem, [one]).values[0] for one in batches]
    whole = channel_influence(model, sites, problem, batches)
    np.testing.assert_allclose(whole.values[0], np.mean(each, axis=0), rtol=1e-6)
    squares = channel_influence(model, sites, problem, batches, "square").values[0]
    np.testing.assert_allclose(squares, np.mean(np.square(each), axis=0), rtol=1e-6)
    assert whole.halves is not None
    np.testing.assert_allclose(whole.halves[0][0], (each[0] + each[2]) / 2, rtol=1e-6)
    assert 0 <= whole.overlap(0.5) <= 1
    assert channel_influence(model, sites, problem, batches[:1]).overlap(0.5) is None
    for order in ("second", "mixed"):
        channel_influence(model, sites, problem, batches[:2], order)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert not any(one.requires_grad for one in model.parameters())


def test_the_least_go_as_many_in_every_layer() -> None:
    found = kept([np.asarray([3.0, 1.0, 2.0, 0.0]), np.asarray([0.0, 5.0, 6.0, 7.0])], 0.5)
    assert [one.tolist() for one in found] == [[0, 2], [2, 3]]


def test_the_norm_is_that_of_all_weights_of_a_channel() -> None:
    model = made("llama")
    sites = sites_of(model)
    layer = model.model.layers[0].mlp
    wanted = [
        torch.cat([layer.gate_proj.weight[at], layer.up_proj.weight[at], layer.down_proj.weight[:, at]]).norm().item()
        for at in range(12)
    ]
    np.testing.assert_allclose(norms(model, sites)[0], wanted, rtol=1e-5)
    heads, attention = sites_of(model, HEADS), model.model.layers[0].self_attn
    parts = [
        attention.q_proj.weight[8:],
        attention.k_proj.weight[4:],
        attention.v_proj.weight[4:],
        attention.o_proj.weight[:, 8:],
    ]
    own = torch.cat([one.flatten() for one in parts]).norm().item()
    assert norms(model, heads)[0][1] == pytest.approx(own, rel=1e-5)


def test_a_page_has_every_way_at_the_same_effort(news, tmp_path) -> None:
    run = Run.from_pretrained(news.run)
    rows = list(read(news.data))
    before = {path: path.read_bytes() for path in news.run.rglob("*") if path.is_file()}
    page = prune(run, rows[:-15], rows[-15:], SMALL, save=tmp_path / "half", between=(rows[-1], rows[3].id), quiet=True)
    assert [one.method for one in page.rows] == [INFLUENCE, NORM, ONE_BATCH, FULL, RANDOM]
    assert [one.control for one in page.rows] == [False, True, True, True, True]
    assert page.plots[0].curves[0].x == (1.0, 2.0)
    assert {path: path.read_bytes() for path in news.run.rglob("*") if path.is_file()} == before
    small = AutoModelForSequenceClassification.from_pretrained(tmp_path / "half")
    whole = AutoModelForSequenceClassification.from_pretrained(run.checkpoints[-1].path)
    assert small.config.intermediate_size == round(whole.config.intermediate_size / 2)
    plan = json.loads((tmp_path / "half" / MASK_FILE).read_text())
    assert not plan["masked"]
    assert all(len(one) == small.config.intermediate_size for one in plan["kept"].values())
    shared, layers = page.others
    assert shared.rows[0].method.endswith(tuple(f"channel {at}" for at in range(whole.config.intermediate_size)))
    assert [row.figures[0].value for row in layers.rows] == [float(small.config.intermediate_size)]
    pruner = Pruner.of(run, rows[:-15], rows[-15:], SMALL, None)
    again = pruner.prune(INFLUENCE, 0)
    for (name, one), other in zip(again.model.state_dict().items(), small.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)


def test_heads_that_no_configuration_can_lack_are_masked_and_said(news, tmp_path) -> None:
    run = Run.from_pretrained(news.run)
    rows = list(read(news.data))
    settings = replace(SMALL, kind=HEADS, seeds=1, draws=1)
    page = prune(run, rows[:-15], rows[-15:], settings, save=tmp_path / "masked", quiet=True)
    assert any("the model is NOT smaller" in note for note in page.notes)
    assert json.loads((tmp_path / "masked" / MASK_FILE).read_text())["masked"]
    parameters = dict(page.facts)["parameters"].split(", pruned ")
    assert parameters[0] == parameters[1]


def test_a_language_model_is_pruned_by_its_loss(lines, tmp_path) -> None:
    run = Run.from_pretrained(lines.run)
    rows = list(read(lines.data))
    page = prune(
        run, rows[:14], rows[14:], replace(SMALL, order="second", seeds=1, draws=1), save=tmp_path / "lm", quiet=True
    )
    assert page.columns[0] == "minus the loss"
    assert page.rows[0].figures[0].value < 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "lm").config.n_inner < 64


def test_the_command_prunes(news, said, tmp_path) -> None:
    test = tiny.write_csv(tmp_path / "test.csv", news.rows[:12])
    words = ("--rounds", 1, "--steps", 2, "--seeds", 1, "--draws", 1, "--batches", 2, "--save", tmp_path / "half")
    code, out, err = said(
        "prune", news.run, news.data, "--test", test, *words, "--json", "--out", tmp_path / "page.html"
    )
    assert code == 0, err
    assert json.loads(out)["metric"] == "prune"
    assert "channel influence" in (tmp_path / "page.html").read_text()
    code, _, err = said("prune", news.run, news.data, "--test", test, *words)
    assert code == 2
    assert "exists already and is not replaced" in err


def test_bad_input_is_refused(news, tmp_path) -> None:
    run, rows = Run.from_pretrained(news.run), list(read(news.data))

    def refused(match: str, **changes: object) -> None:
        with pytest.raises(InputError, match=match):
            prune(run, rows, rows[:5], replace(SMALL, **changes), quiet=True)

    refused("the share to prune is 1.5", share=1.5)
    refused("would keep none: prune a smaller share", share=0.999)
    refused("unknown kind of channels 'neurons'", kind="neurons")
    refused("batches is 0", batches=0)
    refused("the learning rate is nan", learning_rate=float("nan"))
    with pytest.raises(InputError, match="pruning needs training rows and test rows"):
        prune(run, rows, [], SMALL, quiet=True)
    with pytest.raises(InputError, match="no training row has the id 'nobody'"):
        prune(run, rows, rows[:5], SMALL, between=(rows[0], "nobody"), quiet=True)
    tokenizer = runs.bert_tokenizer()
    config = transformers.AlbertConfig(
        vocab_size=len(tokenizer),
        embedding_size=8,
        hidden_size=8,
        num_attention_heads=2,
        intermediate_size=8,
        num_hidden_layers=1,
    )
    other = answered.saved(tmp_path / "albert", transformers.AlbertForSequenceClassification(config), tokenizer)
    labelled = [row for row in rows if row.label][:0] or rows
    with pytest.raises(InputError, match="the feed-forward layers of a albert model are not known: known are bert"):
        prune(Run.from_pretrained(Path(other)), labelled, rows[:5], SMALL, quiet=True)
