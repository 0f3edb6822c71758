"""DataInf without its matrix: the same operator over layers of any size; what deletion does; what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import proponent
from proponent.errors import InputError
from proponent.preconditioners import damped
from proponent.preconditioners.datainf import DataInfProduct, shrunk_identity
from proponent.store import delete, merge
from proponent.types import CheckpointId
from test_fitted import STEP, blocks_of, datainf, turned
from test_layer_vectors import gradients, weight
from test_search import ask, assert_equal, assert_shares_sum, build
from truth import Truth, classifier_run


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    whole = classifier_run(tmp_path_factory.mktemp("bert") / "bert", 30, 4)
    return Truth(whole.folder, (STEP,), whole.training, whole.queries)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer of the tests' model is a large one."""
    monkeypatch.setattr(damped, "MOST", 8)


def pick(name: str, value: Any) -> bool:
    return name in {"classifier.weight", "bert.pooler.dense.weight"}


def test_the_operator_is_the_mean_of_the_inverses() -> None:
    """Over 9,000 numbers, with each inverse by Sherman and Morrison, one after another."""
    random = np.random.default_rng(0)
    g, v, ridge = random.normal(size=(7, 9_000)), random.normal(size=(3, 9_000)), 50.0
    truth = np.mean([(v - np.outer(v @ one, one) / (ridge + one @ one)) / ridge for one in g], axis=0)
    found = DataInfProduct(ridge, v)
    for part in (g[:2], g[2:], g[:0]):
        found.add(part)
    np.testing.assert_allclose(found.product(), truth, rtol=1e-10)
    few = g[:, :20]
    weights = 1.0 / (ridge + (few**2).sum(1))
    matrix = shrunk_identity((few * weights[:, None]).T @ few, 7, ridge)
    narrow = DataInfProduct(ridge, v[:, :20])
    narrow.add(few)
    np.testing.assert_allclose(narrow.product(), v[:, :20] @ matrix, rtol=1e-10)
    assert not DataInfProduct(0.0, v).product().any()


def test_a_large_layer_is_brute_force(bert: Truth, tmp_path: Path, small: None) -> None:
    index = build(bert, tmp_path / "index", "datainf", layers="last-two")
    assert not any(name.endswith("matrix") for name in index.store.table(CheckpointId(0, STEP)))
    assert_equal(ask(index, bert.queries), turned(bert, pick, datainf), 1e-4)
    assert_shares_sum(index, bert.queries)
    notes = index.explain(bert.queries[0]["text"], baselines=False).notes
    assert any("over 2 of 2 layers" in note and "computed per query" in note for note in notes)
    assert any("damping 0.1 of the mean eigenvalue" in note for note in notes)


def test_small_and_large_layers_beside_each_other(bert: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ask(build(bert, tmp_path / "whole", "datainf", layers="linear", project=None), bert.queries)
    sizes = sorted({one.numel() for name, one in bert.models[STEP].named_parameters() if linear(name, one)})
    monkeypatch.setattr(damped, "MOST", sizes[-2])
    index = build(bert, tmp_path / "index", "datainf", layers="linear", project=None)
    assert_equal(ask(index, bert.queries), whole, 1e-4)
    assert_equal(ask(index, bert.queries), turned(bert, linear, datainf), 1e-3)


def test_the_word_embedding_is_turned_too(bert: Truth, tmp_path: Path, small: None) -> None:
    index = build(bert, tmp_path / "index", "datainf", layers="all", project=None)
    total = 0.0
    for name in blocks_of(bert, weight):
        mine, theirs = (gradients(bert, STEP, lambda one, _, n=name: one == n, training=on) for on in (True, False))
        squares = (mine**2).sum(1)
        ridge = 0.1 * squares.mean() / mine.shape[1]
        taken = (theirs @ mine.T / (ridge + squares)) @ mine / len(mine)
        total = total + (theirs - taken) @ mine.T / ridge
    assert_equal(ask(index, bert.queries), np.asarray(total), 1e-3)
    assert_shares_sum(index, bert.queries)


def linear(name: str, value: Any) -> bool:
    return weight(name, value) and "embeddings." not in name


def test_deleted_examples_leave_the_sum(bert: Truth, tmp_path: Path, small: None) -> None:
    folder = tmp_path / "index"
    build(bert, folder, "datainf", layers="last-two")
    delete(folder, np.asarray([3, 11]))
    before = ask(proponent.open(folder), bert.queries)
    rows = [row for place, row in enumerate(bert.training) if place not in {3, 11}]
    ridges: dict[str, float] = {}

    def fixed(mine: np.ndarray, name: str) -> np.ndarray:
        ridges.setdefault(name, 0.1 * float((mine**2).sum()) / mine.size)
        return datainf(mine, name)

    turned(bert, pick, fixed)

    def rest(mine: np.ndarray, name: str) -> np.ndarray:
        parts = [np.linalg.inv(ridges[name] * np.eye(mine.shape[1]) + np.outer(g, g)) for g in mine]
        return np.mean(parts, axis=0)

    truth = turned(Truth(bert.folder, bert.steps, rows, bert.queries), pick, rest)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(before[0])), [3, 11])
    assert_equal(np.delete(before, [3, 11], axis=1), truth, 1e-4)
    merge(folder)
    assert_equal(ask(proponent.open(folder), bert.queries), truth, 1e-4)


def test_norms_over_large_layers_are_refused(bert: Truth, tmp_path: Path, small: None) -> None:
    with pytest.raises(InputError, match=r"layer bert\.pooler\.dense\.?\w* has .* dimensions: above 8, datainf reads"):
        build(bert, tmp_path / "index", "datainf", layers="last-two", similarity="cosine")


def test_other_curvature_of_a_large_layer_still_asks_for_a_projection(bert: Truth, tmp_path: Path, small: None) -> None:
    with pytest.raises(InputError, match=r"matrix of that many rows \(at most 8\): project it"):
        build(bert, tmp_path / "index", "trackstar", layers="last-two", preconditioner="none", project=None)


def test_an_unfinished_index_says_that_nothing_is_fitted(bert: Truth, tmp_path: Path) -> None:
    changes = {"layers": "last-two", "second_moment": "estimate", "shard": "0/2", "segment_rows": 15}
    part = build(bert, tmp_path / "index", "trackstar", **changes)  # its table of second moments is there already
    with pytest.raises(InputError, match="computed from all of its gradients"):
        part.explain(bert.queries[0]["text"])
