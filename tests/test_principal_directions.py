"""Layers on their leading directions: against numpy's decomposition of autograd's gradients, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import proponent
from proponent.cost import forecast
from proponent.data import read
from proponent.errors import InputError
from proponent.gradients.computer import GradientComputer
from proponent.index.options import Options
from proponent.index.worker import Worker
from proponent.method_table import method_of
from proponent.models import Checkpoint
from proponent.preconditioners import principal_directions
from proponent.store.files import publish_tensors
from proponent.store.layout import Layout
from proponent.types import CheckpointId
from test_layer_vectors import gradients
from test_search import ask, assert_equal, assert_shares_sum, build
from truth import Truth, classifier_run, lm_run

STEP, P = 20, 4
LAYERS = "attention"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    whole = classifier_run(tmp_path_factory.mktemp("bert") / "bert", 30, 4)
    return Truth(whole.folder, (STEP,), whole.training, whole.queries)


def shapes(truth: Truth, inside: str) -> dict[str, tuple[int, ...]]:
    named = truth.models[STEP].named_parameters()
    return {name: tuple(value.shape) for name, value in named if inside in name and value.ndim == 2}


def layer(truth: Truth, name: str, shape: tuple[int, ...], root: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """Gradients of a layer: of the training set, and of the queries."""
    found = (gradients(truth, STEP, lambda one, _: one == name, training=on) for on in (True, False))
    return tuple(one.reshape(-1, *shape) * (1.0 if root is None else root) for one in found)


def span(matrix: np.ndarray, p: int) -> tuple[np.ndarray, float]:
    """Projector on the p leading eigenvectors, and the share of the trace that they keep."""
    values, vectors = np.linalg.eigh(matrix)
    chosen = vectors[:, -p:]
    return chosen @ chosen.T, float(values[-p:].sum() / values.sum())


def cut(mine: np.ndarray, theirs: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Both sides' gradients in the spans of G G^T and G^T G of the training set."""
    left, kept_left = span(np.einsum("n,noi,npi->op", weights, mine, mine), P)
    right, kept_right = span(np.einsum("n,noi,noj->ij", weights, mine, mine), P)
    return left @ mine @ right, left @ theirs @ right, [kept_left, kept_right]


def scores(
    truth: Truth, *, cosine: bool, rooted: bool = False, inside: str = ".attention."
) -> tuple[np.ndarray, list[float]]:
    layers: list[tuple[np.ndarray, ...]] = []
    for name, shape in shapes(truth, inside).items():
        mine, theirs = layer(truth, name, shape)
        root = 1.0 / np.sqrt((mine**2).mean(0) + 1e-8) if rooted else np.ones(shape)
        layers.append((mine * root, theirs * root))
    squares = sum((mine**2).sum((1, 2)) for mine, _ in layers)
    weights = 1.0 / np.asarray(squares) if cosine else np.ones(len(layers[0][0]))
    kept: list[float] = []
    flat: list[list[np.ndarray]] = [[], []]
    for mine, theirs in layers:
        *both, shares = cut(mine, theirs, weights)
        kept += shares
        for held, one in zip(flat, both, strict=True):
            held.append(one.reshape(len(one), -1))
    mine, theirs = (np.concatenate(one, axis=1) for one in flat)
    if cosine:
        mine, theirs = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (mine, theirs))
    return theirs @ mine.T, kept


@pytest.mark.parametrize(("method", "cosine"), [("tracin-layers", False), ("grad-cos", True)])
def test_scores_are_products_in_the_leading_spans(bert: Truth, tmp_path: Path, method: str, cosine: bool) -> None:
    changes = {"project": P, "basis": "leading", "weights": "equal", "layers": LAYERS}
    index = build(bert, tmp_path / "index", method, steps=(STEP,), **changes)
    truth, kept = scores(bert, cosine=cosine)
    assert_equal(ask(index, bert.queries), truth, 1e-4)
    assert_shares_sum(index, bert.queries[:1])
    table = index.store.table(CheckpointId(0, STEP))
    told = [float(value[0]) for name, value in table.items() if name.endswith(".kept")]
    assert sorted(told) == pytest.approx(sorted(kept), rel=1e-5)
    assert max(told) < 1.0  # something is lost, so that the spans matter
    (note,) = (note for note in index.store.manifest.notes if "leading directions, step" in note)
    assert f"{min(kept):.1%} to {max(kept):.1%}" in note
    told_of = f"projected to {P} dimensions per side, onto the leading directions"
    assert any(told_of in note for note in index.store.manifest.notes)


def test_entries_are_multiplied_before_the_directions_are_sought(bert: Truth, tmp_path: Path) -> None:
    changes = {"project": P, "basis": "leading", "layers": LAYERS, "curvature": "none", "second_moment": "estimate"}
    index = build(bert, tmp_path / "index", "trackstar", **changes)
    assert_equal(ask(index, bert.queries), scores(bert, cosine=True, rooted=True)[0], 1e-3)
    assert_shares_sum(index, bert.queries[:1])


def test_leading_directions_lose_less_than_random_ones(bert: Truth, tmp_path: Path) -> None:
    errors: dict[str, float] = {}
    changes: dict[str, Any] = {"layers": LAYERS, "steps": (STEP,)}
    full = ask(build(bert, tmp_path / "full", "tracin-layers", project=None, **changes), bert.queries)
    for basis in ("random", "leading"):
        index = build(bert, tmp_path / basis, "tracin-layers", project=P, basis=basis, **changes)
        errors[basis] = float(np.linalg.norm(ask(index, bert.queries) - full) / np.linalg.norm(full))
    assert errors["leading"] < 0.5 * errors["random"]


def test_a_table_of_tokens_and_a_shared_head(tmp_path: Path) -> None:
    """One-hot factors, and one weight with two uses, one of them one-hot."""
    truth = lm_run(tmp_path / "gpt2", "gpt2", tied=True, steps=(STEP,), n=10, q=2)
    changes: dict[str, Any] = {"project": P, "basis": "leading", "weights": "equal"}
    for method in ("tracin-all", "grad-cos"):
        index = build(truth, tmp_path / method, method, **changes)
        assert_equal(ask(index, truth.queries), scores(truth, cosine=method == "grad-cos", inside="")[0], 1e-4)


def test_an_index_opens_with_its_directions_and_appends_by_them(bert: Truth, tmp_path: Path) -> None:
    first = Truth(bert.folder, bert.steps, bert.training[:20], bert.queries)
    changes = {"project": P, "basis": "leading", "layers": LAYERS, "steps": (STEP,)}
    index = build(first, tmp_path / "index", "tracin-layers", **changes)
    held = index.store.table(CheckpointId(0, STEP))
    before = ask(index, bert.queries)
    np.testing.assert_array_equal(ask(proponent.open(tmp_path / "index"), bert.queries), before)
    rest = [row | {"id": f"more-{at}"} for at, row in enumerate(bert.training[20:])]
    more = proponent.build(
        bert.folder, rest, tmp_path / "index", "tracin-layers", quiet=True, append=True, batch_size=16, **changes
    )
    np.testing.assert_array_equal(ask(more, bert.queries)[:, :20], before)
    for name, value in held.items():
        np.testing.assert_array_equal(more.store.table(CheckpointId(0, STEP))[name], value)


def test_the_directions_that_were_published_first_are_kept(
    bert: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may find them with other signs, and its shards are made of those."""
    first: dict[str, np.ndarray] = {}
    alone = Worker._tables

    def late(self: Worker, checkpoint: Checkpoint, work: GradientComputer) -> dict[str, np.ndarray]:
        made = alone(self, checkpoint, work)
        first.update({name: -one if name.endswith("left") else one for name, one in made.items()})
        publish_tensors(Layout(tmp_path / "index").table(CheckpointId(0, STEP)), first)
        return made

    monkeypatch.setattr(Worker, "_tables", late)
    changes = {"project": P, "basis": "leading", "weights": "equal", "layers": LAYERS}
    index = build(bert, tmp_path / "index", "tracin-layers", steps=(STEP,), **changes)
    for name, value in first.items():
        np.testing.assert_array_equal(index.store.table(CheckpointId(0, STEP))[name], value)
    assert_equal(ask(index, bert.queries), scores(bert, cosine=False)[0], 1e-4)


def test_a_side_that_is_too_wide_stays_random(bert: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {"project": P, "layers": LAYERS, "steps": (STEP,)}
    plain = build(bert, tmp_path / "plain", "tracin-layers", **changes)
    monkeypatch.setattr(principal_directions, "MOST", 2)
    index = build(bert, tmp_path / "index", "tracin-layers", basis="leading", **changes)
    np.testing.assert_array_equal(ask(index, bert.queries), ask(plain, bert.queries))
    assert any("keeps a random projection" in note for note in index.store.manifest.notes)


def test_sides_that_are_too_wide_are_counted_beside_the_others(
    bert: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(principal_directions, "MOST", 30)  # between the two widths of the feed-forward layers
    index = build(bert, tmp_path / "index", "tracin-layers", steps=(STEP,), project=P, basis="leading", layers="mlp")
    widths = [width for block in index.store.plan.blocks for width in (block.o, block.i)]
    wide = sum(width > 30 for width in widths)
    assert 0 < wide < len(widths)
    (note,) = (one for one in index.store.manifest.notes if "leading directions, step" in one)
    assert f"{len(widths) - wide} sides keep" in note
    assert f"{wide} sides wider than 30 keep a random projection" in note


def test_a_basis_without_a_projection_is_refused(bert: Truth, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tracin-layers stores the layers of this model in full.*--project 16"):
        build(bert, tmp_path / "index", "tracin-layers", layers=LAYERS, project=None, basis="leading")
    with pytest.raises(InputError, match="basis is for methods over layers"):
        build(bert, tmp_path / "index", "tracin-we", basis="leading")
    with pytest.raises(InputError, match="fastif solves with the gradients themselves"):
        build(bert, tmp_path / "index", "fastif", basis="leading")


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("tracin-layers", {"project": 0}, "option project 0 of method tracin-layers: .*or equal to 1"),
        ("tracin-layers", {"project": -3, "basis": "leading"}, "option project -3 of method"),
        ("fastif", {"candidates": float("inf")}, "option candidates inf of method fastif: .*finite"),
        ("fastif", {"damping": float("inf")}, "option damping inf of method fastif: .*finite"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(method: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        method_of(method, **changes)


@pytest.mark.parametrize("changes", [{}, {"preconditioner": "adam"}])
def test_a_plan_foresees_the_bytes_of_the_directions(bert: Truth, tmp_path: Path, changes: dict[str, Any]) -> None:
    method = method_of("tracin-layers", layers=LAYERS, project=P, basis="leading", weights="equal", **changes)
    options = Options(steps=(STEP,), second_moment="estimate" if changes else "recorded")
    run, data = proponent.Run.from_pretrained(bert.folder), read(bert.training)
    foreseen = forecast(run, data, method, options).disk["tables"]
    index = build(
        bert, tmp_path / "index", "tracin-layers", steps=(STEP,), layers=LAYERS, project=P, basis="leading",
        weights="equal", second_moment=options.second_moment, **changes,
    )  # fmt: skip
    assert foreseen == sum(one.nbytes for one in index.store.table(CheckpointId(0, STEP)).values())
