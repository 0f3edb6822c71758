"""Curvature over layers: each recipe against a plain solve over autograd's gradients; unit facts of the matrices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proponent
from proponent.errors import InputError, MismatchError
from proponent.gradients.layer_hooks import Call
from proponent.gradients.layer_rules import Block
from proponent.gradients.projection import Projection
from proponent.index import loading
from proponent.preconditioners.damped import Damping, damped_inverse
from proponent.preconditioners.gauss_newton import ggn
from proponent.preconditioners.refit_head import fitted_head
from proponent.types import CheckpointId
from test_layer_vectors import Held, Pick, every_gradient, gradients, weight
from test_search import ask, assert_equal, assert_shares_sum, build
from truth import NAMES, Truth, classifier_run, lm_run

STEP = 20


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    whole = classifier_run(tmp_path_factory.mktemp("bert") / "bert", 30, 4)
    return Truth(whole.folder, (STEP,), whole.training, whole.queries)


def linear(name: str, value: Any) -> bool:
    return weight(name, value) and "embeddings." not in name


def blocks_of(truth: Truth, pick: Pick) -> list[str]:
    return [name for name, value in truth.models[STEP].named_parameters() if pick(name, value)]


def turned(truth: Truth, pick: Pick, inverse: Any, *, cosine: bool = False) -> np.ndarray:
    """Scores with one matrix per layer, given by the layer's training gradients."""
    total, norms, asked = 0.0, 0.0, 0.0
    for name in blocks_of(truth, pick):
        mine, theirs = (gradients(truth, STEP, lambda one, _, n=name: one == n, training=on) for on in (True, False))
        matrix = inverse(mine, name)
        total = total + theirs @ matrix @ mine.T
        norms = norms + np.einsum("np,pq,nq->n", mine, matrix, mine)
        asked = asked + np.einsum("np,pq,nq->n", theirs, matrix, theirs)
    return np.asarray(total / np.sqrt(np.outer(asked, norms)) if cosine else total)


def autocorrelation(damping: float) -> Any:
    def inverse(mine: np.ndarray, _: str) -> np.ndarray:
        matrix = mine.T @ mine / len(mine)
        return np.linalg.inv(matrix + damping * np.linalg.eigvalsh(matrix)[-1] * np.eye(len(matrix)))

    return inverse


def datainf(mine: np.ndarray, _: str) -> np.ndarray:
    m, size = mine.shape
    ridge = 0.1 * (mine**2).sum() / (m * size)
    return np.mean([np.linalg.inv(ridge * np.eye(size) + np.outer(g, g)) for g in mine], axis=0)


def test_trackstar_is_brute_force(bert: Truth, tmp_path: Path) -> None:
    changes = {"project": None, "preconditioner": "none", "damping": 1e-3}
    index = build(bert, tmp_path / "index", "trackstar", layers="attention", **changes)

    def pick(name: str, value: Any) -> bool:
        return weight(name, value) and ".attention." in name

    assert_equal(ask(index, bert.queries), turned(bert, pick, autocorrelation(1e-3), cosine=True), 2e-3)
    assert np.abs(ask(index, bert.queries)).max() <= 1.0 + 1e-6
    assert any("damping 0.001 of the top eigenvalue" in note for note in index.store.manifest.notes)


def test_second_moments_divide_both_sides(bert: Truth, tmp_path: Path) -> None:
    changes = {"project": None, "curvature": "none", "second_moment": "estimate", "similarity": "dot"}
    index = build(bert, tmp_path / "index", "trackstar", **changes)
    mine, theirs = (gradients(bert, STEP, linear, training=one) for one in (True, False))
    root = np.sqrt((mine**2).mean(0) + 1e-8)
    assert_equal(ask(index, bert.queries), (theirs / root) @ (mine / root).T, 1e-4)
    softer = build(bert, tmp_path / "softer", "trackstar", layers="attention", second_moment="estimate", damping=0.1)
    assert_shares_sum(softer, bert.queries)
    assert_shares_sum(index, bert.queries)


def test_moments_that_are_missing_are_asked_for(bert: Truth, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'recorded none.*Recorder\(moments="all"\), or choose --second-moment estim'):
        build(bert, tmp_path / "index", "trackstar")


def test_datainf_is_brute_force(bert: Truth, tmp_path: Path) -> None:
    def pick(name: str, value: Any) -> bool:
        return name in {"classifier.weight", "bert.pooler.dense.weight"}

    index = build(bert, tmp_path / "index", "datainf", layers="last-two")
    assert_equal(ask(index, bert.queries), turned(bert, pick, datainf), 1e-4)
    assert_shares_sum(index, bert.queries)


def hessian_scores(truth: Truth, damping: float) -> np.ndarray:
    """The head's Hessian by autograd of the mean loss, on its own inputs."""
    model, head = truth.models[STEP], "classifier"
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(head).register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].detach()))
    for row in truth.training:
        text = truth.text(row)
        types = {} if text.types is None else {"token_type_ids": torch.tensor([list(text.types)])}
        model(input_ids=torch.tensor([list(text.ids)]), **types)
    handle.remove()
    a, bias = torch.cat(seen).double(), model.classifier.bias.detach().double()
    labels = torch.tensor([NAMES.index(row["label"]) for row in truth.training])
    shape = model.classifier.weight.shape

    def loss(flat: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(a @ flat.view(shape).T + bias, labels)

    with torch.enable_grad():
        flat = model.classifier.weight.detach().double().flatten()
        hessian = torch.autograd.functional.hessian(loss, flat).numpy()
    ridge = damping * np.trace(hessian) / len(hessian)
    mine, theirs = (
        gradients(truth, STEP, lambda name, _: name == "classifier.weight", training=one) for one in (True, False)
    )
    return theirs @ np.linalg.inv(hessian + ridge * np.eye(len(hessian))) @ mine.T


def test_influence_of_the_last_layer_is_the_exact_solve(bert: Truth, tmp_path: Path) -> None:
    index = build(bert, tmp_path / "index", "influence-last")
    assert_equal(ask(index, bert.queries), hessian_scores(bert, 0.1), 1e-3)
    assert_shares_sum(index, bert.queries)
    own = ask(build(bert, tmp_path / "own", "influence-last"), bert.training[:6])
    assert all(own[row, row] > 0 for row in range(6))


def test_a_hessian_that_cannot_be_inverted_names_the_layer(bert: Truth, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"layer classifier cannot be inverted.*damping=0.01"):
        build(bert, tmp_path / "index", "influence-last", damping=0.0)


def test_the_exact_hessian_is_for_a_classifiers_head(tmp_path: Path, bert: Truth) -> None:
    with pytest.raises(InputError, match="needs the exact Hessian of a classifier's head"):
        build(bert, tmp_path / "index", "influence-last", layers="*.self.query")
    lm = lm_run(tmp_path / "lm", "llama", tied=False, steps=(20,), n=6, q=1)
    with pytest.raises(InputError, match="language model"):
        build(lm, tmp_path / "lm-index", "representer")


def test_representer_values_sum_to_the_logit(bert: Truth, tmp_path: Path) -> None:
    """The representer theorem: at rest, the refitted logit of a query is the sum of its values."""
    index = build(bert, tmp_path / "index", "representer")
    rows = bert.queries[:3]
    scores = ask(index, rows)
    table = index.store.table(CheckpointId(0, STEP))["refit"].astype(np.float64)
    for row, found in zip(rows, scores.sum(1), strict=True):
        ids = bert.text(row)
        types = {} if ids.types is None else {"token_type_ids": torch.tensor([list(ids.types)])}
        with torch.no_grad():
            pooled = bert.models[STEP].bert(input_ids=torch.tensor([list(ids.ids)]), **types).pooler_output
        logit = table[NAMES.index(row["label"])] @ pooled[0].double().numpy()
        assert found == pytest.approx(logit, rel=1e-3, abs=1e-4)
    own = ask(index, bert.training[:6])
    assert all(own[row, row] > 0 for row in range(6))
    assert_shares_sum(index, bert.queries)


def test_ekfac_is_the_kronecker_solve(bert: Truth, tmp_path: Path) -> None:
    """For the head, with one position per example, the factors follow from the gradients themselves."""
    index = build(bert, tmp_path / "index", "ekfac", layers="head")
    mine, theirs = (
        gradients(bert, STEP, lambda name, _: name == "classifier.weight", training=one) for one in (True, False)
    )
    held = Held(bert)
    bias = np.stack([every_gradient(held, STEP, True, row)["classifier.bias"] for row in range(len(mine))])
    shaped = mine.reshape(len(mine), len(NAMES), -1)
    a = np.einsum("no,noi->ni", bias, shaped) / (bias**2).sum(1, keepdims=True)
    left, right = np.linalg.eigh(bias.T @ bias)[1], np.linalg.eigh(a.T @ a)[1]
    values = ((left.T @ shaped @ right) ** 2).mean(0)
    inside = left.T @ theirs.reshape(len(theirs), len(NAMES), -1) @ right / (values + 0.1 * values.mean())
    truth = (left @ inside @ right.T).reshape(theirs.shape) @ mine.T
    assert_equal(ask(index, bert.queries), truth, 2e-3)
    assert_shares_sum(index, bert.queries)


def test_ekfac_over_all_linear_layers_keeps_signs(bert: Truth, tmp_path: Path) -> None:
    index = build(bert, tmp_path / "index", "ekfac")
    own = ask(index, bert.training[:6])
    assert all(own[row, row] > 0 for row in range(6))
    assert own[0, 0] == pytest.approx(own[0].max())


@pytest.mark.parametrize("method", ["ekfac", "trackstar"])
def test_the_word_embedding_is_a_layer_like_any_other(bert: Truth, tmp_path: Path, method: str) -> None:
    """And padding, which differs with the size of a batch, is none of its positions."""
    rows, plain = (
        bert.training,
        {"layers": "word_embeddings", "project": None, "preconditioner": "none", "damping": 0.1},
    )
    found = [
        proponent.build(bert.folder, rows, tmp_path / str(size), method, quiet=True, batch_size=size, **plain)
        for size in (1, 16)
    ]
    assert "bert.embeddings.word_embeddings" in {block.name for block in found[0].store.plan.blocks}
    assert_equal(ask(found[0], bert.queries), ask(found[1], bert.queries), 1e-3)
    assert_shares_sum(found[1], bert.queries)


def test_an_index_of_other_layers_is_built_again(bert: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = build(bert, tmp_path / "index", "ekfac", layers="embeddings", project=None)
    kept = index.store.plan.blocks[1:]
    monkeypatch.setattr(loading, "planned_blocks", lambda _: kept)
    with pytest.raises(MismatchError, match=r"stores 3 layers, but ekfac now uses 2.* build the index again"):
        ask(index, bert.queries)


def test_damped_inverse_inverts() -> None:
    g = np.random.default_rng(0).normal(size=(50, 6)) * np.asarray([1, 2, 3, 4, 5, 6])
    matrix = g.T @ g / 50
    inverse, ridge = damped_inverse(matrix, Damping(0.5, "mean"), "x")
    assert ridge == pytest.approx(0.5 * np.trace(matrix) / 6)
    np.testing.assert_allclose(inverse @ (matrix + ridge * np.eye(6)), np.eye(6), atol=1e-9)


def test_the_refit_is_at_rest() -> None:
    random = np.random.default_rng(0)
    a, labels = random.normal(size=(40, 5)), random.integers(0, 3, 40)
    found = fitted_head(a, labels, 3, 0.01)
    p = np.exp(a @ found.T)
    p /= p.sum(1, keepdims=True)
    alpha = -(p - np.eye(3)[labels]) / (2 * 0.01 * 40)
    np.testing.assert_allclose(alpha.T @ a, found, atol=1e-7)
    assert np.linalg.eigvalsh(ggn(a, p)).min() > -1e-12


def test_projected_products_are_unbiased_and_factor_wise() -> None:
    random = np.random.default_rng(0)
    block = Block("layer", ("layer",), "weight", 12, 10)
    left, right = (torch.as_tensor(random.normal(size=(2, 4, size)), dtype=torch.float32) for size in (12, 10))
    calls = {"layer": [Call(left, right, 1)]}
    full = Projection((block,), None, 0).vectors(calls, 2)
    exact = float(full[0] @ full[1])
    found: list[float] = []
    for seed in range(200):
        one = Projection((block,), 4, seed)
        v = one.vectors(calls, 2)
        p, q = one.left["layer"], one.right["layer"]
        assert p is not None
        assert q is not None
        dense = p.numpy() @ full.reshape(2, 12, 10) @ q.numpy().T
        np.testing.assert_allclose(v, dense.reshape(2, -1), rtol=1e-4, atol=1e-5)
        found.append(float(v[0] @ v[1]))
    assert abs(np.mean(found) - exact) <= 3 * np.std(found) / len(found) ** 0.5


def test_an_open_index_turns_queries_without_fitting_again(bert: Truth, tmp_path: Path) -> None:
    index = build(bert, tmp_path / "index", "datainf", layers="head")
    np.testing.assert_array_equal(ask(proponent.open(tmp_path / "index"), bert.queries), ask(index, bert.queries))
