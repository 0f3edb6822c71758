"""Preconditioners, refit and principal directions against dense matrices, from random factors and no model."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradients import TOKENS, WIDTH, some_rows, table, unhurried
from preconditioning import (
    FakeComputer,
    Files,
    Made,
    Options,
    Planned,
    applied,
    fitted,
    made,
)
from preconditioning import (
    given as of_build,
)
from proponent.errors import DataError, InputError
from proponent.gradients.forms import Dense, Rows
from proponent.gradients.gradient import Gradient
from proponent.gradients.layer_hooks import Call
from proponent.gradients.layer_rules import Block
from proponent.gradients.projection import Projection as ProjectionOfLayers
from proponent.index.extra_passes import layer_groups
from proponent.method import Gradients
from proponent.method_parts import (
    EKFAC,
    Adam,
    Autocorrelation,
    DataInf,
    EmbeddingRows,
    GaussNewton,
    Layers,
    Projection,
    RefitHead,
)
from proponent.preconditioners import damped, principal_directions
from proponent.preconditioners.base import FitFacts, ModelFacts, Pass, fitter_of, fitters_of
from proponent.preconditioners.batches import StoredBatch, Totals, layer_shapes
from proponent.preconditioners.gauss_newton import ggn
from proponent.preconditioners.refit_head import fitted_head

SHARDS = Pass("all", "gradients", "after")
SHAPE = (TOKENS, WIDTH)


def layers_method(*preconditioners: Any, **changes: Any) -> Gradients:
    return Gradients(name="mine", gradient=Layers(names=("all",)), preconditioners=preconditioners, **changes)


def fitter(spec: Any, **changes: Any) -> Any:
    return fitter_of(spec, layers_method(spec, **changes))


def facts(layers: Any, options: Any = None, **changes: Any) -> ModelFacts:
    start: dict[str, Any] = {"classes": 3, "table": (7, 5), "head": False, "checkpoints": ()}
    return ModelFacts(layers=layers, options=options or Options(), **(start | changes))


def test_parts_of_a_method_are_found_by_kind_in_the_order_of_work() -> None:
    method = Gradients(
        gradient=Layers(names=("head",), projection=Projection(width=4, basis="principal")),
        prepare=RefitHead(penalty=0.1),
        preconditioners=(Adam(), EKFAC()),
    )
    kinds = [type(one).__module__.rsplit(".", 1)[1] for one in fitters_of(method)]
    assert kinds == ["refit_head", "adam", "principal_directions", "ekfac"]
    assert fitters_of(Gradients()) == ()
    random = Layers(names=("head",), projection=Projection(width=4))
    assert fitters_of(Gradients(gradient=random)) == ()


def test_adam_and_the_base_need_no_torch() -> None:
    code = (
        "import sys, proponent.preconditioners.adam; print([one for one in ('torch', 'pandas') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_totals_add_join_and_keep_the_largest() -> None:
    totals = Totals()
    for value in (3.0, 5.0, 4.0):
        totals.add((name, np.asarray([value])) for name in ("sum", "each.one", "largest.one"))
    sums = totals.sums()
    assert (sums["sum"].tolist(), sums["each.one"].tolist(), sums["largest.one"].tolist()) == ([12], [3, 5, 4], [5])


def test_layers_know_their_stretches() -> None:
    first, second = layer_shapes([Planned("a", 5, 4, 2, 4), Planned("b", 3, 1, 3, 1)])
    assert (first.cut, second.cut) == (slice(0, 8), slice(8, 11))
    assert (first.full, second.full) == (False, True)


@unhurried
@given(st.lists(some_rows(), min_size=1, max_size=4))
def test_estimated_moments_of_rows_are_mean_squares(batches: list[Rows]) -> None:
    method = Gradients(gradient=EmbeddingRows(), preconditioners=(Adam(epsilon=1e-3),))
    (adam,) = fitters_of(method)

    def source(_: Pass) -> list[StoredBatch]:
        return [
            StoredBatch(Gradient(rows=one), np.ones(len(one), np.bool_), np.zeros(len(one), np.int64), None, SHAPE)
            for one in batches
        ]

    found = fitted(adam, source, ())["inverse_root"]
    squares = [table(batch, position) ** 2 for batch in batches for position in range(len(batch))]
    np.testing.assert_allclose(found, 1 / np.sqrt(np.mean(squares, axis=0) + 1e-3), rtol=1e-4)
    rows = batches[0]
    divided = adam.apply(Gradient(rows=rows), {"inverse_root": found}, (), None).rows
    np.testing.assert_allclose(table(divided, 0), table(rows, 0) * found, rtol=1e-5, atol=1e-5)


def test_estimated_moments_of_layers_are_mean_squares() -> None:
    texts, adam = made(), fitter(Adam(epsilon=1e-4))
    found = fitted(adam, texts.source, texts.layers)
    for layer in texts.layers:
        v = (texts.dense(layer.name) ** 2).mean(0)
        np.testing.assert_allclose(found[f"root.{layer.at}"], 1 / np.sqrt(v + 1e-4), rtol=1e-5)
    adam.install(texts.computer, found)
    flat = [texts.dense(one.name) * found[f"root.{one.at}"] for one in texts.layers]
    whole = np.concatenate([one.reshape(len(one), -1) for one in flat], axis=1)
    np.testing.assert_allclose(texts.vectors(), whole, rtol=1e-4, atol=1e-5)
    plain = Gradient(dense=Dense.of(whole.astype(np.float32)))
    assert adam.apply(plain, found, texts.layers, None) is plain  # divided when they were taken


def test_a_layer_that_is_never_called_is_divided_by_the_root_of_epsilon() -> None:
    texts = made()
    for calls, _ in texts.batches:
        calls["a"] = []
    found = fitted(fitter(Adam(epsilon=1e-4)), texts.source, texts.layers)
    np.testing.assert_allclose(found["root.0"], 100.0)


def ridged(matrix: np.ndarray, damping: float, of: str) -> np.ndarray:
    values = np.linalg.eigvalsh(matrix)
    unit = {"mean": values.mean(), "top": values[-1], "absolute": 1.0}[of]
    return np.linalg.inv(matrix + damping * unit * np.eye(len(matrix)))


@pytest.mark.parametrize("of", ["mean", "top", "absolute"])
def test_autocorrelation_is_the_damped_inverse(of: Any) -> None:
    texts, theirs = made(p=3), made(p=3, seed=1).vectors()
    one = fitter(Autocorrelation(damping=0.05, damping_of=of))
    found = fitted(one, texts.source, texts.layers)
    mine = texts.vectors().astype(np.float64)
    truth = np.concatenate(
        [
            theirs[:, cut] @ ridged(mine[:, cut].T @ mine[:, cut] / len(mine), 0.05, of)
            for cut in (layer.cut for layer in texts.layers)
        ],
        axis=1,
    )
    np.testing.assert_allclose(applied(one, theirs, found, texts), truth, rtol=1e-4, atol=1e-4)
    (note, mixing) = one.describe(found, FitFacts("step 5", texts.layers))
    assert "curvature autocorrelation, step 5: damping 0.05 of" in note
    assert "of the training set only" in mixing


@pytest.mark.parametrize("share", ["auto", 0.0, 0.3, 1.0])
def test_queries_are_mixed_in(share: Any) -> None:
    texts, others, asked = made(p=3), made(p=3, seed=1, counts=(9,)), made(p=3, seed=2).vectors()
    one = fitter(Autocorrelation(eval_share=share, eval_component=4))
    options = Options(queries=of_build(9))

    def source(this: Pass) -> Any:
        return (others if this.over == "queries" else texts).source(SHARDS)

    found = fitted(one, source, texts.layers, options)
    matrices = [
        [v[:, layer.cut].T.astype(np.float64) @ v[:, layer.cut] / len(v) for layer in texts.layers]
        for v in (texts.vectors(), others.vectors())
    ]
    train, evaluation = (np.sort(np.concatenate([np.linalg.eigvalsh(x) for x in side]))[-4] for side in matrices)
    chosen = train / (train + evaluation) if share == "auto" else share
    assert found["curvature.eval_share"][0] == pytest.approx(chosen, rel=1e-6)
    assert found["curvature.eval_place"][0] == (4 if share == "auto" else 0)
    truth = [
        asked[:, layer.cut] @ ridged(chosen * theirs + (1 - chosen) * mine, 0.1, "mean")
        for layer, mine, theirs in zip(texts.layers, *matrices, strict=True)
    ]
    np.testing.assert_allclose(applied(one, asked, found, texts), np.concatenate(truth, axis=1), rtol=1e-4, atol=1e-4)
    assert "of the 9 queries of questions.csv" in one.describe(found, FitFacts("step 5", texts.layers, of_build(9)))[1]
    assert one.fingerprints({}, options) == {"queries": of_build(9).fingerprint}


@pytest.mark.parametrize("spec", [Autocorrelation(), DataInf(), EKFAC()])
def test_groups_of_layers_change_no_bit(spec: Any) -> None:
    texts, one = made(p=3), fitter(spec)
    whole, apart = (fitted(one, texts.source, texts.layers, most=most) for most in (2**30, 1))
    assert whole.keys() == apart.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(apart[name], value)


def test_groups_hold_no_more_than_they_may() -> None:
    texts, one = made(), fitter(Autocorrelation())
    (this,) = one.passes(Options())
    sizes = [8 * layer.size**2 for layer in texts.layers]
    assert [len(group) for group in layer_groups(one, this, texts.layers, sizes[0] + sizes[1])] == [2, 1]
    assert [len(group) for group in layer_groups(one, this, texts.layers, 1)] == [1, 1, 1]


def head_gradients(n: int = 40) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """A classifier's head: inputs, probabilities, labels, and its gradients as shards."""
    random = np.random.default_rng(0)
    a, labels = random.normal(size=(n, 4)), random.integers(0, 3, n)
    p = np.exp(random.normal(size=(n, 3)))
    p = (p / p.sum(1, keepdims=True)).astype(np.float32)
    v = np.einsum("no,ni->noi", p - np.eye(3)[labels], a).reshape(n, -1).astype(np.float32)

    def source(_: Pass) -> Any:
        for cut in (slice(0, 15), slice(15, n)):
            alive = np.arange(n)[cut] % 7 != 0  # of the others no vector is kept
            yield StoredBatch(Gradient(dense=Dense.of(v[cut][alive])), alive, labels[cut], p[cut])

    return source, a, p, v


def test_gauss_newton_is_the_hessian_of_the_head() -> None:
    source, a, p, v = head_gradients()
    layers = layer_shapes([Planned("classifier", 3, 4, 3, 4)])
    one = fitter(GaussNewton(damping=0.2))
    found = fitted(one, source, layers)
    kept = np.arange(len(a)) % 7 != 0
    parts = [np.kron(np.diag(x) - np.outer(x, x), np.outer(y, y)) for x, y in zip(p[kept], a[kept], strict=True)]
    truth = v @ ridged(np.mean(parts, axis=0), 0.2, "mean")
    found_v = one.apply(Gradient(dense=Dense.of(v)), found, layers, None).dense.v
    np.testing.assert_allclose(found_v, truth, rtol=1e-3, atol=1e-3)


def test_ekfac_is_the_inverse_of_its_fisher_matrix() -> None:
    texts, asked = made(p=3), made(p=3, seed=1).vectors()
    one = fitter(EKFAC(damping=0.2))
    found = fitted(one, texts.source, texts.layers)
    mine, truth = texts.vectors().astype(np.float64), []
    for layer, block in zip(texts.layers, texts.projection.blocks, strict=True):
        pairs = [texts.projection.factors(block, call) for calls, _ in texts.batches for call in calls[block.name]]
        left, right = (torch.cat([pair[side].flatten(0, 1) for pair in pairs]).double().numpy() for side in (0, 1))
        u = np.kron(*(np.linalg.eigh(side.T @ side / len(side))[1] for side in (left, right)))
        values = ((mine[:, layer.cut] @ u) ** 2).mean(0)
        fisher = (u * (values + 0.2 * values.mean())) @ u.T
        truth.append(asked[:, layer.cut] @ np.linalg.inv(fisher))
    np.testing.assert_allclose(applied(one, asked, found, texts), np.concatenate(truth, axis=1), rtol=1e-3, atol=1e-3)
    assert "labels of the training set" in one.describe(found, FitFacts("step 5", texts.layers))[1]


def test_ekfac_with_drawn_labels_reads_the_texts_twice() -> None:
    texts, one = made(p=3), fitter(EKFAC(fisher="sampled", fisher_seed=7))
    assert [(this.over, this.sampled) for this in one.passes(Options())] == [("texts", 7), ("texts", 7)]
    found, plain = (fitted(each, texts.source, texts.layers) for each in (one, fitter(EKFAC())))
    for name, value in found.items():  # these factors know no labels: both are the same
        np.testing.assert_array_equal(value, plain[name])
    assert one.cost(facts(texts.layers)).after == 2
    assert (
        "drawn from the model's own probabilities (seed 7)" in one.describe(found, FitFacts("step 5", texts.layers))[1]
    )


@pytest.mark.parametrize("most", [4096, 20, 8])
@pytest.mark.parametrize("of", ["mean", "top", "absolute"])
def test_datainf_is_the_mean_of_inverses(monkeypatch: pytest.MonkeyPatch, most: int, of: Any) -> None:
    monkeypatch.setattr(damped, "MOST", most)
    texts, asked = made(), made(seed=1).vectors()
    one = fitter(DataInf(damping_of=of))
    found = fitted(one, texts.source, texts.layers)
    assert sum(name.endswith("matrix") for name in found) == sum(layer.size <= most for layer in texts.layers)
    truth: list[np.ndarray] = []
    for layer in texts.layers:
        g = texts.vectors()[:, layer.cut].astype(np.float64)
        norms = (g**2).sum(1)
        ridge = 0.1 * {"mean": norms.mean() / layer.size, "top": norms.max(), "absolute": 1.0}[of]
        inverses = [np.linalg.inv(ridge * np.eye(layer.size) + np.outer(x, x)) for x in g]
        truth.append(asked[:, layer.cut] @ np.mean(inverses, axis=0))
    np.testing.assert_allclose(applied(one, asked, found, texts), np.concatenate(truth, axis=1), rtol=2e-3, atol=2e-3)
    spread = sum(layer.size > most for layer in texts.layers)
    assert len(one.describe(found, FitFacts("step 5", texts.layers))) == (2 if spread else 1)


@pytest.mark.parametrize("spec", [Autocorrelation(), DataInf(), EKFAC()])
def test_a_layer_without_gradients_gives_nothing(spec: Any) -> None:
    texts, asked = made(), made(seed=1).vectors()
    for calls, _ in texts.batches:
        calls["a"] = []
    one = fitter(spec)
    found = applied(one, asked, fitted(one, texts.source, texts.layers), texts)
    assert not found[:, texts.layers[0].cut].any()
    assert found[:, texts.layers[1].cut].any()


def span(matrix: np.ndarray, p: int) -> tuple[np.ndarray, float]:
    values, vectors = np.linalg.eigh(matrix)
    return vectors[:, -p:] @ vectors[:, -p:].T, float(values[-p:].sum() / values.sum())


@pytest.mark.parametrize("normalize", ["none", "train"])
@pytest.mark.parametrize("rooted", [False, True])
def test_directions_span_the_largest_gradients(normalize: Any, rooted: bool) -> None:
    texts = made(p=3)
    if rooted:
        random = np.random.default_rng(5)
        texts.computer.elementwise = {
            one.name: torch.as_tensor(random.random((one.o, one.i)), dtype=torch.float32)
            for one in texts.projection.blocks
        }
    method = layers_method(normalize=normalize)
    one = fitter_of(Projection(width=3, basis="principal"), method)
    found = fitted(one, texts.source, texts.layers)
    roots = texts.computer.elementwise or {}
    g = {layer.name: texts.dense(layer.name) * np.asarray(roots.get(layer.name, 1.0)) for layer in texts.layers}
    squares = np.sum([(each**2).sum((1, 2)) for each in g.values()], axis=0)
    weights = 1 / squares if normalize == "train" else np.ones(len(squares))
    for layer in texts.layers:
        own = g[layer.name]
        for side, axes in (("left", "n,noi,npi->op"), ("right", "n,noi,noj->ij")):
            name = f"basis.{layer.at}.{side}"
            if name not in found:
                assert (layer.o if side == "left" else layer.i) <= 3
                continue
            truth, share = span(np.einsum(axes, weights, own, own), 3)
            np.testing.assert_allclose(found[name].T @ found[name], truth, atol=1e-4)
            assert found[f"{name}.kept"][0] == pytest.approx(share, rel=1e-5)
    one.install(texts.computer, found)
    left = texts.projection.left["a"]
    assert left is not None
    np.testing.assert_array_equal(left.numpy(), found["basis.0.left"])
    assert "sides keep" in one.describe(found, FitFacts("step 5", texts.layers))[0]


def test_sides_that_are_too_wide_stay_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(principal_directions, "MOST", 5)
    texts, one = made(p=3), fitter_of(Projection(width=3, basis="principal"), layers_method())
    found = fitted(one, texts.source, texts.layers)
    assert found["basis"].tolist() == [2, 2]
    assert "2 sides wider than 5 keep a random projection" in one.describe(found, FitFacts("step 5", texts.layers))[0]
    held = sum(value.nbytes for value in found.values())
    assert one.cost(facts(texts.layers)).held == held


class Classifier(nn.Module):
    """Nothing but a head."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.config = type("Config", (), {"num_labels": 3})()


def test_a_refitted_head_is_at_rest_and_put_in_place() -> None:
    random = np.random.default_rng(0)
    batches: list[tuple[dict[str, list[Call]], int]] = []
    for n in (20, 15):
        left = torch.zeros(n, 2, 3)
        left[:, 1] = torch.as_tensor(random.normal(size=(n, 3)))  # one position counts
        right = torch.as_tensor(random.normal(size=(n, 2, 4)), dtype=torch.float32)
        batches.append(({"head": [Call(left, right, 1)]}, n))
    blocks = (Block("head", ("head",), "weight", 3, 4),)
    texts = Made(ProjectionOfLayers(blocks, None, 0), batches, random.integers(0, 3, 35).tolist())
    method = Gradients(gradient=Layers(names=("head",)), prepare=RefitHead(penalty=0.02))
    (one,) = fitters_of(method)
    one.check(facts(texts.layers))
    found = fitted(one, texts.source, texts.layers)["refit"]
    a = np.concatenate([calls["head"][0].right[:, 1].double().numpy() for calls, _ in batches])
    p = np.exp(a @ found.T)
    p /= p.sum(1, keepdims=True)
    gradient = (p - np.eye(3)[texts.labels]).T @ a / len(a) + 2 * 0.02 * found
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    model = Classifier()
    one.install(FakeComputer(texts.computer.layers, model=model), {"refit": found})
    np.testing.assert_array_equal(model.head.weight.detach().numpy(), found)
    assert not model.head.bias.detach().numpy().any()


def test_the_gauss_newton_matrix_is_positive_and_the_refit_a_representer_point() -> None:
    random = np.random.default_rng(0)
    a, labels = random.normal(size=(40, 5)), random.integers(0, 3, 40)
    found = fitted_head(a, labels, 3, 0.01)
    p = np.exp(a @ found.T)
    p /= p.sum(1, keepdims=True)
    alpha = -(p - np.eye(3)[labels]) / (2 * 0.01 * 40)
    np.testing.assert_allclose(alpha.T @ a, found, atol=1e-7)
    assert np.linalg.eigvalsh(ggn(a, p)).min() > -1e-12


LAYERS = layer_shapes([Planned("a", 5, 4, 5, 4), Planned("b", 3, 6, 3, 6)])
LARGE = layer_shapes([Planned("a", 80, 80, 80, 80)])
HEAD = layer_shapes([Planned("classifier", 3, 4, 3, 4)])


@pytest.mark.parametrize(
    ("spec", "layers", "changes", "message"),
    [
        (Autocorrelation(), LARGE, {}, "matrix of that many rows .at most 4,096.: project it"),
        (GaussNewton(), LARGE, {"classes": 80}, "matrix of that many rows"),
        (GaussNewton(), LAYERS, {}, "needs the exact Hessian of a classifier's head.*a is not"),
        (GaussNewton(), HEAD, {"classes": None}, "needs the exact Hessian of a classifier's head"),
        (Autocorrelation(eval_share=0.5), LAYERS, {}, "no queries: pass a file with --eval"),
        (Autocorrelation(), LAYERS, {"queries": of_build(1)}, None),
        (Autocorrelation(eval_component=30), LAYERS, {"queries": of_build(9)}, "R_eval of 9 .* rank is at most 18"),
        (Autocorrelation(eval_component=90), LAYERS, {"queries": of_build(9)}, "eval_component 90: the layers of mine"),
        (Adam(), LAYERS, {"head": True}, "cannot be estimated for a table that the head shares"),
        (DataInf(), LARGE, {}, None),
        (GaussNewton(), HEAD, {}, None),
        (EKFAC(), LARGE, {}, None),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    spec: Any, layers: Any, changes: dict[str, Any], message: str | None
) -> None:
    options = Options(queries=changes.pop("queries", None))
    one = fitter(spec)
    if message is None:
        one.check(facts(layers, options, **changes))
        return
    with pytest.raises(InputError, match=message):
        one.check(facts(layers, options, **changes))


def test_more_that_is_refused() -> None:
    with pytest.raises(DataError, match=r"questions\.csv has no rows"):
        fitter(Autocorrelation()).check(facts(LAYERS, Options(queries=of_build(0))))
    with pytest.raises(InputError, match=r"a has 6,400 dimensions: above 4,096, datainf reads"):
        fitter(DataInf(), normalize="train").check(facts(LARGE))
    refit = Gradients(name="mine", gradient=Layers(names=("head",)), prepare=RefitHead(penalty=0.1))
    for layers, classes, message in ((HEAD, None, "language model"), (LAYERS, 3, "its layers must be head")):
        with pytest.raises(InputError, match=message):
            fitters_of(refit)[0].check(facts(layers, classes=classes))
    with pytest.raises(InputError, match="finish the build before you query"):
        fitter(EKFAC()).apply(Gradient(dense=Dense.of(np.zeros((1, 38), np.float32))), {}, LAYERS, None)


def test_a_matrix_that_cannot_be_inverted_names_the_layer() -> None:
    texts = made(counts=(2,))
    for spec in (Autocorrelation(damping=0.0), EKFAC(damping=0.0)):
        with pytest.raises(InputError, match=r"curvature of layer a cannot be inverted.*--set damping="):
            fitted(fitter(spec), texts.source, texts.layers)
    with pytest.raises(InputError, match="datainf divides by the damping of layer a"):
        fitted(fitter(DataInf(damping=0.0)), texts.source, texts.layers)


def test_missing_second_moments_are_asked_for(tmp_path: Path) -> None:
    here, recorded = Files(tmp_path), Options("recorded")
    with pytest.raises(InputError, match=r'recorded none.*Recorder\(moments="all"\), or choose --second-moment estim'):
        fitter(Adam()).check(facts(LAYERS, recorded, checkpoints=[here]))
    (rows,) = fitters_of(Gradients(name="mine", preconditioners=(Adam(),)))
    with pytest.raises(InputError, match=r"recorded none: train with proponent.Recorder\(\), or choose"):
        rows.check(facts((), recorded, checkpoints=[here]))
    with pytest.raises(InputError, match=r"no optimizer\.pt in|needs torch 2\.10"):
        rows.check(facts((), Options("optimizer"), checkpoints=[here]))
    assert rows.passes(recorded) == ()
    assert rows.cost(facts((), recorded)).held == 4 * 7 * 5


def test_costs_count_passes() -> None:
    counts = {spec.kind: fitter(spec).cost(facts(LAYERS)) for spec in (Adam(), DataInf(), EKFAC(), Autocorrelation())}
    found = {kind: (cost.before, cost.after, cost.scans) for kind, cost in counts.items()}
    assert found == {"adam": (1, 0, 0), "datainf": (0, 0, 2), "ekfac": (0, 1, 1), "autocorrelation": (0, 0, 1)}
    assert (
        "not in the forecast: time, memory and disk space for the matrices of curvature ekfac"
        in counts["ekfac"].unforeseen
    )
    assert counts["adam"].held == 4 * (20 + 18)
