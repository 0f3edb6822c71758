"""Indexes over many layers against plain loops over autograd's gradients: scores, words, norms, what is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proponent
from oracle import loss
from proponent.cost import forecast
from proponent.data import read
from proponent.errors import InputError
from proponent.method_table import method_of
from test_search import answers, ask, assert_equal, assert_shares_sum, build
from truth import RATES, Truth, classifier_run, lm_run

Folder = Callable[[str], Path]
Pick = Callable[[str, Any], bool]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return lambda name: tmp_path_factory.mktemp(name) / name


@pytest.fixture(scope="module")
def bert(fresh: Folder) -> Truth:
    whole = classifier_run(fresh("bert"), 24, 4)
    return Truth(whole.folder, whole.steps[:2], whole.training, whole.queries)


@pytest.fixture(scope="module")
def gpt2(fresh: Folder) -> Truth:
    return lm_run(fresh("gpt2"), "gpt2", tied=True, steps=(20,), n=12, q=3)


def weight(name: str, value: Any) -> bool:
    """Every weight but gains of normalisations."""
    return name.endswith("weight") and value.ndim == 2


@cache
def every_gradient(truth: "Held", step: int, training: bool, row: int) -> dict[str, np.ndarray]:
    """Autograd's gradient of every parameter; a parameter of several names stands under the first."""
    model, text = truth.it.models[step], truth.it.text((truth.it.training if training else truth.it.queries)[row])
    held = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    first = {value.data_ptr(): name for name, value in reversed(list(model.named_parameters()))}
    named = model.named_parameters(remove_duplicate=False)
    swapped = {name: held[first[value.data_ptr()]] for name, value in named}
    types = {} if text.types is None else {"token_type_ids": torch.tensor([list(text.types)])}
    inputs = {"input_ids": torch.tensor([list(text.ids)]), "attention_mask": torch.ones(1, len(text.ids)).long()}
    with torch.enable_grad():
        output = torch.func.functional_call(model, swapped, (), inputs | types, tie_weights=False)
        found = torch.autograd.grad(loss(output.logits, text), list(held.values()), allow_unused=True)
    zeros = {name: torch.zeros_like(value) for name, value in held.items()}
    taken = zip(held, found, strict=True)
    return {name: (zeros[name] if one is None else one).double().numpy() for name, one in taken}


@dataclass(frozen=True, eq=False)
class Held:
    """A truth that can be a key."""

    it: Truth


HELD: dict[int, Held] = {}


def gradients(truth: Truth, step: int, pick: Pick, *, training: bool) -> np.ndarray:
    """All picked parameters' gradients of each row, one after another."""
    held = HELD.setdefault(id(truth), Held(truth))
    rows = truth.training if training else truth.queries
    made = [every_gradient(held, step, training, row) for row in range(len(rows))]
    return np.stack([np.concatenate([one.ravel() for name, one in row.items() if pick(name, one)]) for row in made])


def products(truth: Truth, pick: Pick, *, cosine: bool = False) -> np.ndarray:
    total = 0.0
    for step in truth.steps:
        mine, theirs = (gradients(truth, step, pick, training=one) for one in (True, False))
        if cosine:
            mine, theirs = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (mine, theirs))
        total = total + RATES[step] * theirs @ mine.T
    return np.asarray(total)


GROUPS: dict[str, Pick] = {
    "embeddings": lambda name, one: "embeddings." in name and one.ndim == 2,
    "blocks": lambda name, one: weight(name, one) and "encoder.layer." in name,
    "attention": lambda name, one: weight(name, one) and ".attention." in name,
    "mlp": lambda name, one: weight(name, one) and "encoder.layer." in name and ".attention." not in name,
    "quarter-1": lambda name, one: weight(name, one) and "encoder.layer.0." in name,
    "last-block": lambda name, one: weight(name, one) and "encoder.layer.1." in name,
    "head": lambda name, _: name == "classifier.weight",
    "linear": lambda name, one: weight(name, one) and "embeddings." not in name,
    "*.self.query": lambda name, _: name.endswith("self.query.weight"),
    "attention,head": lambda name, one: weight(name, one) and (".attention." in name or "classifier" in name),
}


@pytest.mark.parametrize("layers", GROUPS)
def test_groups_and_patterns_are_brute_force(bert: Truth, fresh: Folder, layers: str) -> None:
    index = build(bert, fresh("index"), "tracin-layers", layers=layers, steps=bert.steps)
    assert_equal(ask(index, bert.queries), products(bert, GROUPS[layers]))


@pytest.mark.parametrize(
    ("method", "changes", "pick", "cosine"),
    [
        ("tracin-all", {}, weight, False),
        ("tracin-all", {"biases": True}, lambda *_: True, False),
        ("grad-cos", {}, weight, True),
        ("tracin-sec", {}, lambda name, one: weight(name, one) and ("pooler" in name or "classifier" in name), False),
    ],
)
def test_methods_are_brute_force(
    bert: Truth, fresh: Folder, method: str, changes: dict[str, Any], pick: Pick, cosine: bool
) -> None:
    index = build(bert, fresh("index"), method, steps=bert.steps, **changes)
    assert_equal(ask(index, bert.queries), products(bert, pick, cosine=cosine))
    assert_shares_sum(index, bert.queries)


@pytest.mark.parametrize("method", ["tracin-all", "grad-cos"])
def test_a_shared_table_is_one_weight_with_two_uses(gpt2: Truth, fresh: Folder, method: str) -> None:
    index = build(gpt2, fresh("index"), method, project=None)
    assert_equal(ask(index, gpt2.queries), products(gpt2, weight, cosine=method == "grad-cos"))
    assert_shares_sum(index, gpt2.queries)
    hits = [hit for answer in answers(index, gpt2.queries) for hit in answer.proponents]
    told = [len({word.train_word for word in hit.words} - {"[special]"}) for hit in hits]
    assert max(told) > 2  # their words are really told


def test_unit_norm_is_of_the_training_side_alone(bert: Truth, fresh: Folder) -> None:
    pick = GROUPS["linear"]
    index = build(bert, fresh("index"), "tracin-layers", layers="linear", steps=(5,), unit_norm=True)
    mine, theirs = (gradients(bert, 5, pick, training=one) for one in (True, False))
    truth = RATES[5] * theirs @ (mine / np.linalg.norm(mine, axis=1, keepdims=True)).T
    assert_equal(ask(index, bert.queries), truth)


def test_projection_is_said_and_near_the_truth(bert: Truth, fresh: Folder) -> None:
    pick = GROUPS["linear"]
    index = build(bert, fresh("index"), "tracin-layers", layers="linear", project=8, steps=bert.steps)
    found, truth = ask(index, bert.queries), products(bert, pick)
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.9
    assert np.linalg.norm(found - truth) > 1e-3 * np.linalg.norm(truth)
    assert any("randomly projected to 8" in note for note in index.store.manifest.notes)
    assert_shares_sum(index, bert.queries)
    again = build(bert, fresh("again"), "tracin-layers", layers="linear", project=8, steps=bert.steps)
    np.testing.assert_allclose(ask(again, bert.queries), found, rtol=1e-6)
    other = build(bert, fresh("other"), "tracin-layers", layers="linear", project=8, seed=1, steps=bert.steps)
    assert not np.allclose(ask(other, bert.queries), found, rtol=1e-3)


def test_coverage_is_told(bert: Truth, fresh: Folder) -> None:
    index = build(bert, fresh("index"), "tracin-all", steps=(5,))
    notes = " ".join(index.store.manifest.notes)
    parameters = dict(bert.models[5].named_parameters())
    total = sum(one.numel() for one in parameters.values())
    vectors = sum(one.numel() for one in parameters.values() if one.ndim == 1)
    assert f"{1 - vectors / total:.1%} of trainable parameters" in notes
    assert f"biases and gains ({vectors:,}, not selected)" in notes
    assert "stored in full" in notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": "atention"}, r"'atention' matches no layer.*attention"),
        ({"layers": "bert.encoder.layer.0.attention.self.qury"}, r"matches no layer.*self\.query"),
        ({"layers": "quarter-2"}, "is a group that has no layers in this model"),
        ({"layers": "*LayerNorm"}, "only biases and gains"),
        ({}, "needs layers"),
        ({"layers": "all", "top": 3}, "for the word embedding"),
    ],
)
def test_what_cannot_be_is_refused(bert: Truth, fresh: Folder, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(bert, fresh("index"), "tracin-layers", **changes)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        (None, {"layers": "linear"}, "uses the word embedding, and layers is for methods over layers"),
        (
            "tracin-we",
            {"project": 8},
            "and project is for methods over layers: choose such a method, for example --method tracin-l",
        ),
        ("tracin-last", {"curvature": "ekfac"}, "uses the last layer, and curvature is for"),
        ("random", {"refit": 0.1}, "uses no gradient, and refit is for"),
    ],
)
def test_layers_of_a_method_that_has_none_are_refused(
    bert: Truth, fresh: Folder, method: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build(bert, fresh("index"), method, **changes)
    run, data = proponent.Run.from_pretrained(bert.folder), read(bert.training)
    with pytest.raises(InputError, match=message):
        forecast(run, data, method_of(method or "tracin-we", **changes))


def test_an_index_over_layers_is_appended_deleted_from_and_merged(bert: Truth, fresh: Folder) -> None:
    from proponent.store import delete, merge

    folder = fresh("index")
    half = Truth(bert.folder, bert.steps, bert.training[:15], bert.queries)
    rest = Truth(bert.folder, bert.steps, bert.training[15:], bert.queries)
    build(half, folder, "tracin-all", steps=(5,))
    index = build(rest, folder, "tracin-all", steps=(5,), append=True)
    whole = build(bert, fresh("whole"), "tracin-all", steps=(5,))
    truth = ask(whole, bert.queries)
    np.testing.assert_allclose(ask(index, bert.queries), truth, rtol=1e-4, atol=1e-7)
    delete(folder, np.asarray([3]))
    merge(folder)
    merged = ask(proponent.open(folder), bert.queries)
    np.testing.assert_allclose(merged, np.delete(truth, 3, axis=1), rtol=1e-4, atol=1e-7)
