"""EK-FAC with labels drawn from the model: the draw, and scores against a plain Kronecker solve over autograd."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from torch.nn import functional

from proponent.errors import InputError
from proponent.models.sampled_labels import sample_labels
from test_search import ask, assert_equal, assert_shares_sum, build
from truth import NAMES, Row, Truth, classifier_run, lm_run

STEP, SEED = 20, 7


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    whole = classifier_run(tmp_path_factory.mktemp("bert") / "bert", 30, 4)
    return Truth(whole.folder, (STEP,), whole.training, whole.queries)


def test_classes_are_drawn_as_often_as_the_model_says() -> None:
    logits = torch.log(torch.tensor([0.1, 0.0, 0.6, 0.3]))
    found = sample_labels(logits.expand(20_000, 4), torch.as_tensor(np.random.default_rng(0).random(20_000)))
    shares = np.bincount(found.numpy(), minlength=4) / 20_000
    np.testing.assert_allclose(shares, [0.1, 0.0, 0.6, 0.3], atol=3 * 0.5 / 20_000**0.5)
    edges = sample_labels(logits.expand(2, 4), torch.tensor([0.0, 1.0]))
    assert edges.tolist() in ([0, 3], [0, 2])
    grid = sample_labels(logits.expand(2, 3, 4), torch.tensor([[0.05, 0.5, 0.9]] * 2))
    assert grid.tolist() == [[0, 2, 3]] * 2


def own_draw(p: np.ndarray, ids: list[int], places: int) -> list[int]:
    """The rule once more: one uniform number per place, from the seed and the tokens."""
    own = xxhash.xxh3_64_intdigest(np.asarray(ids, dtype="<i8").tobytes())
    uniform = np.random.default_rng([SEED, own]).random(places)
    return [int(np.searchsorted(np.cumsum(row), one, side="right")) for row, one in zip(p, uniform, strict=False)]


def head_of(truth: Truth, row: Row) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Inputs of the head [t i], probabilities [t l], what each place weighs [t], tokens."""
    model, text = truth.models[STEP], truth.text(row)
    head = model.get_output_embeddings() if truth.lm else model.classifier
    seen: list[torch.Tensor] = []
    handle = head.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].detach()))
    types = {} if text.types is None else {"token_type_ids": torch.tensor([list(text.types)])}
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(text.ids)]), **types).logits
    handle.remove()
    size = logits.shape[-1]
    p = torch.softmax(logits.double(), -1).reshape(-1, size).numpy()
    weight = np.ones(1)
    if truth.lm:
        counted = np.asarray([True] * len(text.ids) if text.counted is None else text.counted)
        weight = np.append(counted[1:], False).astype(np.float64)
        weight /= weight.sum()
    return seen[0].double().reshape(len(p), -1).numpy(), p, weight, list(text.ids)


def targets(truth: Truth, row: Row, ids: list[int]) -> list[int]:
    return [*ids[1:], 0] if truth.lm else [NAMES.index(row["label"])]


def signals(truth: Truth, row: Row, *, sampled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Gradients at the head's output [t l] and its inputs [t i], where a place weighs."""
    a, p, weight, ids = head_of(truth, row)
    labels = own_draw(p, ids, len(ids)) if sampled else targets(truth, row, ids)
    g = weight[:, None] * (p - np.eye(p.shape[1])[labels])
    return g[weight > 0], a[weight > 0]


def expected(truth: Truth, *, sampled: bool) -> np.ndarray:
    fisher = [signals(truth, row, sampled=sampled) for row in truth.training]
    gs, inputs = (np.concatenate([one[at] for one in fisher]) for at in (0, 1))
    left, right = (np.linalg.eigh(one.T @ one / len(one))[1] for one in (gs, inputs))
    values = np.mean([(left.T @ (g.T @ a) @ right) ** 2 for g, a in fisher], axis=0)

    def whole(rows: list[Row]) -> np.ndarray:
        return np.stack([g.T @ a for g, a in (signals(truth, row, sampled=False) for row in rows)])

    inside = left.T @ whole(truth.queries) @ right / (values + 0.1 * values.mean())
    return np.einsum("qoi,noi->qn", left @ inside @ right.T, whole(truth.training))


@pytest.mark.parametrize("sampled", [True, False])
def test_a_classifiers_head_is_the_plain_solve(bert: Truth, tmp_path: Path, sampled: bool) -> None:
    fisher = "sampled" if sampled else "empirical"
    index = build(bert, tmp_path / "index", "ekfac", layers="head", fisher=fisher, fisher_seed=SEED)
    truth = expected(bert, sampled=sampled)
    assert_equal(ask(index, bert.queries), truth, 2e-3)
    other = expected(bert, sampled=not sampled)
    assert np.linalg.norm(other - truth) > 0.05 * np.linalg.norm(truth)  # the labels matter here
    notes = index.explain(bert.queries[0]["text"], baselines=False).notes
    said = "drawn from the model's own probabilities (seed 7)" if sampled else "labels of the training set"
    assert any(said in note for note in notes)
    assert_shares_sum(index, bert.queries)


def test_a_language_models_head_draws_a_token_per_place(tmp_path: Path) -> None:
    lm = lm_run(tmp_path / "lm", "llama", tied=False, steps=(STEP,), n=9, q=2)
    changes = {"layers": "head", "fisher": "sampled", "fisher_seed": SEED, "project": None}
    index = build(lm, tmp_path / "index", "ekfac", **changes)
    assert_equal(ask(index, lm.queries), expected(lm, sampled=True), 5e-3)


def test_the_draw_does_not_hang_on_the_batch(bert: Truth, tmp_path: Path) -> None:
    def made(name: str, rows: list[Row], **changes: Any) -> np.ndarray:
        index = build(replace(bert, training=rows), tmp_path / name, "ekfac", fisher="sampled", **changes)
        return ask(index, bert.queries)

    whole = made("whole", bert.training)
    backwards = made("backwards", bert.training[::-1])
    np.testing.assert_allclose(backwards[:, ::-1], whole, rtol=1e-2, atol=1e-3 * np.abs(whole).max())
    other = made("other", bert.training, fisher_seed=1)
    assert np.linalg.norm(other - whole) > 1e-2 * np.linalg.norm(whole)


def test_drawn_labels_are_for_ekfac(bert: Truth, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="fisher sampled is for the Fisher matrix of EK-FAC, and datainf has no preconditioner ekfac"
    ):
        build(bert, tmp_path / "index", "datainf", fisher="sampled")
    with pytest.raises(InputError, match="option fisher 'drawn' of method ekfac"):
        build(bert, tmp_path / "index", "ekfac", fisher="drawn")


def test_a_mean_over_drawn_labels_is_the_fisher_matrix_proper() -> None:
    """Mean over many draws of g g^T is diag(p) - p p^T."""
    logits = torch.randn(3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = torch.softmax(logits, -1)
    labels = sample_labels(logits.expand(40_000, 3), torch.as_tensor(np.random.default_rng(1).random(40_000)))
    g = p - functional.one_hot(labels, 3)
    np.testing.assert_allclose(g.T @ g / len(g), torch.diag(p) - torch.outer(p, p), atol=0.01)
