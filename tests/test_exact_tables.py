"""Tables over the vocabulary among chosen layers: stored as factors, so that no projection touches their products."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import transformers

import proponent
from proponent.cost import forecast
from proponent.data import read
from proponent.errors import InputError, MismatchError
from proponent.gradients import layer_vectors
from proponent.gradients.layer_selection import ORDINARY, StorageRule, choose
from proponent.gradients.model_parts import input_embedding, vocabulary_head
from proponent.index.grouping import Aggregate
from proponent.method_table import method_of
from proponent.models import Run
from proponent.search import aggregate
from proponent.store import verify
from proponent.types import Example
from test_search import ask, assert_equal, assert_shares_sum, build
from truth import RATES, Truth, lm_run

Folder = Callable[[str], Path]
Places = tuple[Literal["input", "output"], ...]

ROWS: Places = ("input",)
HEAD: Places = ("output",)
SHARED: Places = ("input", "output")
CASES: list[tuple[str, tuple[str, ...], list[Places]]] = [
    ("gpt2", ("transformer.wte",), [SHARED]),
    ("gpt2", ("lm_head",), [SHARED]),
    ("gpt2", ("head",), [HEAD]),
    ("llama", ("head",), [HEAD]),
    ("llama", ("embeddings", "head"), [ROWS, HEAD]),
]
"""Run, layers, and what one table holds each: the places where the model uses it."""

TABLES = {"gpt2": "transformer.wte", "llama": "lm_head"}
"""The table of each run that would be a layer among others."""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return lambda name: tmp_path_factory.mktemp(name) / name


@pytest.fixture(scope="module")
def runs_of(fresh: Folder) -> dict[str, Truth]:
    return {
        name: lm_run(fresh(name), name, tied=tied, steps=(5, 20), n=12, q=2)
        for name, tied in (("gpt2", True), ("llama", False))
    }


def products(truth: Truth, tables: list[Places], *, cosine: bool = False) -> np.ndarray:
    total = np.zeros((len(truth.queries), len(truth.training)))
    for step in truth.steps:
        mine, theirs = (
            np.stack([np.stack(truth.gradients(step, rows, one)).reshape(len(rows), -1) for one in tables], 1)
            for rows in (truth.training, truth.queries)
        )
        mine, theirs = (one.reshape(len(one), -1) for one in (mine, theirs))
        if cosine:
            mine, theirs = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (mine, theirs))
        total += RATES[step] * theirs @ mine.T
    return total


@pytest.mark.parametrize("method", ["tracin-layers", "grad-cos"])
@pytest.mark.parametrize(("name", "layers", "tables"), CASES)
def test_a_table_alone_is_exact_whatever_the_projection(
    runs_of: dict[str, Truth], fresh: Folder, name: str, layers: tuple[str, ...], tables: list[Places], method: str
) -> None:
    truth = runs_of[name]
    index = build(truth, fresh("index"), method, layers=layers, project=4)
    found = ask(index, truth.queries)
    assert_equal(found, products(truth, tables, cosine=method == "grad-cos"))
    if method == "tracin-layers":
        assert_equal(found, ask(build(truth, fresh("full"), method, layers=layers, project=None), truth.queries))
        assert_shares_sum(index, truth.queries)
    assert any("stored as factors, so dot products are exact" in note for note in index.store.manifest.notes)


@pytest.mark.parametrize("method", ["tracin-all", "grad-cos", "tracin-sec"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_projection_keeps_the_order_of_the_whole_method(
    runs_of: dict[str, Truth], fresh: Folder, name: str, method: str
) -> None:
    truth = runs_of[name]
    made, exact = (build(truth, fresh("index"), method, project=project, steps=(20,)) for project in (32, None))
    assert_shares_sum(made, truth.queries)
    pairs = zip(ask(made, truth.queries), ask(exact, truth.queries), strict=True)
    assert np.mean([np.corrcoef(*(np.argsort(np.argsort(one)) for one in pair))[0, 1] for pair in pairs]) > 0.9
    assert {block.name for block in made.store.plan.blocks}.isdisjoint({"lm_head", "transformer.wte"})


def test_groups_and_votes_take_an_untied_head_as_a_layer_of_its_own(runs_of: dict[str, Truth], fresh: Folder) -> None:
    truth = runs_of["llama"]
    index = build(truth, fresh("index"), "tracin-layers", layers=("embeddings", "head"), project=4)
    queries = [Example(**{"id": "q", "row": 0} | row) for row in truth.queries]
    np.testing.assert_allclose(index.group_scores(queries), ask(index, truth.queries).mean(0), rtol=1e-4, atol=1e-7)
    parts = np.stack([products(truth, [one]) for one in (ROWS, HEAD)])
    wanted = aggregate(parts, "rank", k=0.2)
    found = index.group_scores(queries, aggregate=Aggregate("rank", ("layers",)))
    np.testing.assert_allclose(found, wanted, atol=0.5)
    answer = index.explain_group(queries, k=3)
    for hit in answer.proponents:
        assert sum(pair.share for pair in hit.words) == pytest.approx(hit.score, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_an_index_that_keeps_the_table_with_other_layers_is_asked_and_appended_to(
    runs_of: dict[str, Truth], fresh: Folder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, folder, changes = runs_of[name], fresh("index"), {"project": 8, "steps": (20,)}
    with monkeypatch.context() as before:
        plain = layer_vectors.choose
        earlier = {"closed": False, "tables": ORDINARY}
        before.setattr(layer_vectors, "choose", lambda *given, **how: plain(*given, **how | earlier))
        wanted = ask(build(truth, folder, "grad-cos", **changes), truth.queries)
    index = proponent.open(folder)
    assert TABLES[name] in {block.name for block in index.store.plan.blocks}
    assert_equal(ask(index, truth.queries), wanted, 1e-6)
    assert_shares_sum(index, truth.queries)
    added = [row | {"id": f"more {row['id']}"} for row in truth.training[:5]]
    proponent.build(truth.folder, added, folder, "grad-cos", quiet=True, batch_size=16, append=True, **changes)
    again = ask(proponent.open(folder), truth.queries)
    assert_equal(again[:, : len(truth.training)], wanted, 1e-6)
    assert_equal(again[:, len(truth.training) :], wanted[:, :5], 1e-5)
    assert not verify(folder).damage
    with pytest.raises(MismatchError):
        build(truth, folder, "tracin-all", **changes)


def test_a_head_whose_output_is_scaled_stays_a_layer_and_it_is_said(fresh: Folder) -> None:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = transformers.GraniteConfig(vocab_size=60, logits_scaling=4.0, tie_word_embeddings=True, **sizes)
    model = transformers.GraniteForCausalLM(settings).eval().requires_grad_(False)
    found = choose(model, ("all",), head=vocabulary_head(model), word=input_embedding(model), closed=True)
    assert not found.rows
    assert not found.head
    assert found.tables == ("model.embed_tokens",)
    settings.logits_scaling = 1.0
    model = transformers.GraniteForCausalLM(settings).eval().requires_grad_(False)
    found = choose(model, ("all",), head=vocabulary_head(model), word=input_embedding(model), closed=True)
    assert found.rows
    assert found.head
    assert found.exact == ("model.embed_tokens", "lm_head")


CURVED = ("ekfac", "datainf", "trackstar")


@pytest.mark.parametrize("method", CURVED)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_no_table_is_projected_under_a_preconditioner(
    runs_of: dict[str, Truth], fresh: Folder, name: str, method: str
) -> None:
    """A random projection of it would reorder the scores."""
    changes = {"steps": (20,), "preconditioner": "none"} if method == "trackstar" else {"steps": (20,)}
    layered = changes | {"project": 4}
    for layers in ("linear", "all"):
        index = build(runs_of[name], fresh("index"), method, layers=layers, **layered)
        assert {"transformer.wte", "lm_head"}.isdisjoint(block.name for block in index.store.plan.blocks)
        said = next(note for note in index.store.manifest.notes if "a table over the vocabulary, left out" in note)
        assert said.startswith(("transformer.wte: ", "lm_head: ", "model.embed_tokens, lm_head: "))
        assert "a preconditioner needs vectors, and a random projection of it would reorder the scores" in said
    for layers in (TABLES[name], "head"):
        with pytest.raises(InputError, match=r"layer \S+ is a table over the vocabulary .*would reorder"):
            build(runs_of[name], fresh("index"), method, layers=layers, **layered)


@pytest.mark.parametrize("method", ["ekfac", "datainf"])
def test_a_width_changes_no_layers_of_a_preconditioned_method(
    runs_of: dict[str, Truth], fresh: Folder, method: str
) -> None:
    truth, wide = runs_of["gpt2"], 200
    made, whole = (build(truth, fresh("index"), method, project=width, steps=(20,)) for width in (wide, None))
    assert [one.name for one in made.store.plan.blocks] == [one.name for one in whole.store.plan.blocks]
    assert_equal(ask(made, truth.queries), ask(whole, truth.queries), 1e-4)
    named = build(truth, fresh("index"), method, layers=TABLES["gpt2"], project=None, steps=(20,))
    assert [block.name for block in named.store.plan.blocks] == ["transformer.wte"]


def test_an_index_that_keeps_a_projected_table_is_asked_and_appended_to(
    runs_of: dict[str, Truth], fresh: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As earlier versions built them."""
    truth, changes, plain = runs_of["gpt2"], {"project": 8, "steps": (20,)}, layer_vectors.choose
    for layers, name in (("linear", "lm_head"), ("transformer.wte", "transformer.wte")):
        folder = fresh("index")
        with monkeypatch.context() as before:
            before.setattr(layer_vectors, "choose", lambda *given, **how: plain(*given, **how | {"tables": ORDINARY}))
            wanted = ask(build(truth, folder, "datainf", layers=layers, **changes), truth.queries)
        index = proponent.open(folder)
        assert name in {block.name for block in index.store.plan.blocks}
        assert_equal(ask(index, truth.queries), wanted, 1e-6)
        added = [row | {"id": f"more {row['id']}"} for row in truth.training[:5]]
        how = changes | {"layers": layers, "append": True, "batch_size": 16}
        proponent.build(truth.folder, added, folder, "datainf", quiet=True, **how)
        assert ask(proponent.open(folder), truth.queries).shape[1] == len(truth.training) + 5


@pytest.mark.parametrize("width", [4, None])
def test_the_last_layers_mean_their_place(runs_of: dict[str, Truth], fresh: Folder, width: int | None) -> None:
    """Of a shared table `tracin-sec` counts what `tracin-last` counts: the head."""
    truth = runs_of["gpt2"]
    last = ask(build(truth, fresh("last"), "tracin-last"), truth.queries)
    index = build(truth, fresh("head"), "tracin-layers", layers="head", project=width)
    assert_equal(ask(index, truth.queries), last)
    assert any("only its use as the head counts, as in tracin-last" in note for note in index.store.manifest.notes)
    pair = build(truth, fresh("pair"), "tracin-sec", project=None)
    other = build(truth, fresh("other"), "tracin-layers", layers="transformer.h.1.mlp.c_proj", project=None)
    assert_equal(ask(pair, truth.queries), last + ask(other, truth.queries), 1e-5)
    assert_shares_sum(pair, truth.queries)


def test_an_index_of_both_uses_is_asked_as_it_was_built(
    runs_of: dict[str, Truth], fresh: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As earlier versions built `tracin-sec`."""
    truth, folder, plain = runs_of["gpt2"], fresh("index"), layer_vectors.choose
    with monkeypatch.context() as before:
        before.setattr(layer_vectors, "choose", lambda *given, **how: plain(*given, **how | {"tables": ORDINARY}))
        wanted = ask(build(truth, folder, "tracin-sec", project=8, steps=(20,)), truth.queries)
    assert_equal(ask(proponent.open(folder), truth.queries), wanted, 1e-6)
    added = [row | {"id": f"more {row['id']}"} for row in truth.training[:3]]
    how = {"project": 8, "steps": (20,), "append": True, "batch_size": 16}
    proponent.build(truth.folder, added, folder, "tracin-sec", quiet=True, **how)
    assert_equal(ask(proponent.open(folder), truth.queries)[:, -3:], wanted[:, :3], 1e-5)


def test_a_table_without_exact_form_is_left_out(fresh: Folder) -> None:
    """A model that scales what its head gives."""
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = transformers.GraniteConfig(vocab_size=60, logits_scaling=4.0, tie_word_embeddings=True, **sizes)
    model = transformers.GraniteForCausalLM(settings).eval().requires_grad_(False)
    given = {"head": vocabulary_head(model), "word": input_embedding(model), "closed": True}
    found = choose(model, ("all",), tables=StorageRule(widest=16), **given)
    assert found.spared == ("model.embed_tokens",)
    assert found.spared_size == 60 * 24
    assert "model.embed_tokens (1,440)" in found.description()
    assert not found.tables
    with pytest.raises(InputError, match="would reorder the scores"):
        choose(model, ("embed_tokens",), tables=StorageRule(widest=16), **given)
    assert choose(model, ("all",), tables=StorageRule(widest=60), **given).tables == ("model.embed_tokens",)


def test_a_forecast_of_cosines_counts_the_head(runs_of: dict[str, Truth]) -> None:
    truth = runs_of["gpt2"]
    told = forecast(Run.from_pretrained(truth.folder), read(truth.training), method_of("grad-cos", project=8))
    assert told.disk["tables"] > 0
    assert any("stored as factors" in note for note in told.notes)
