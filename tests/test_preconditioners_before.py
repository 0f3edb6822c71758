"""Tables and products of the classes in preconditioners/ are those of the functions that they are to replace."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from preconditioning import Files, run
from proponent.curvature import matrices
from proponent.data import read
from proponent.gradients.forms import Dense, Rows
from proponent.gradients.gradient import Gradient
from proponent.gradients.projection import directions
from proponent.index import mixing
from proponent.index import principal_directions as leading
from proponent.index import second_moments as old_moments
from proponent.index.build import Build
from proponent.index.extra_passes import query_vectors
from proponent.index.gradient_computer import GradientComputer as OldPass
from proponent.index.options import Options
from proponent.index.query_preconditioner import QueryPreconditioner, gradients_of
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
from proponent.methods import recipe_of
from proponent.models import Checkpoint, Run, SampledLabels
from proponent.preconditioners import damped, principal_directions
from proponent.preconditioners.base import ModelFacts, Pass, Told, fitters_of
from proponent.preconditioners.batches import StoredBatch, TextBatch, layer_shapes
from proponent.preconditioners.second_moments import of_table
from proponent.search import Search
from proponent.store import Store
from truth import Truth, classified, classifier_run, lm_run

STEP = 20
EVALUATION = classified(12, 2)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    whole = classifier_run(tmp_path_factory.mktemp("bert") / "bert", 30, 4)
    return Truth(whole.folder, (STEP,), whole.training, whole.queries)


@dataclass
class Work:
    """A checkpoint of today as fitters see it."""

    old: OldPass
    table: tuple[int, int]

    @property
    def model(self) -> Any:
        return self.old.model

    @property
    def layers(self) -> Any:
        return self.old.layered

    @property
    def elementwise(self) -> Any:
        return self.old.roots

    @elementwise.setter
    def elementwise(self, roots: Any) -> None:
        self.old.roots = roots

    def vectors(self, captured: Any, count: int) -> np.ndarray:
        return self.old.vectors(captured, count)


class Built:
    """An index as it is built today, and the batches that its passes read."""

    def __init__(self, truth: Truth, folder: Path, method: str, **changes: Any) -> None:
        queries, moment = changes.pop("queries", None), changes.pop("second_moment", "recorded")
        self.options = Options(
            batch_size=16,
            steps=(STEP,),
            second_moment=moment,
            queries=None if queries is None else read(queries),
            segment_rows=20,
            quiet=True,
        )
        given = Run.from_pretrained(truth.folder)
        self.recipe = recipe_of(method, **changes)
        self.build = Build(given, read(truth.training), folder, self.recipe, self.options)
        self.build.run_all()
        self.build.writer.close()
        self.store = Store(folder)
        (self.checkpoint,) = self.build.checkpoints
        self.layers = layer_shapes(self.store.plan.blocks)
        self.work = Work(self.build.worker._pass(self.checkpoint), self.build.worker.table)

    @property
    def table(self) -> dict[str, np.ndarray]:
        return dict(self.store.table(STEP))

    def source(self, this: Pass) -> Iterator[TextBatch | StoredBatch]:
        if this.over == "texts":
            yield from self.texts(this)
        elif this.over == "queries":
            fresh = self.build.worker._pass(self.checkpoint)
            assert self.options.queries is not None
            v = query_vectors(fresh, lambda: fresh, self.options.queries, 16)
            yield StoredBatch(Gradient(dense=Dense.of(v)), np.ones(len(v), np.bool_), np.zeros(len(v), np.int64))
        else:
            yield from self.shards()

    def texts(self, this: Pass) -> Iterator[TextBatch]:
        draws = None if this.sampled is None else SampledLabels(this.sampled)
        for encoded, labels in self.build.worker.stream():
            start = 0
            for captured, count in self.work.old.calls(encoded, labels, draws):
                yield TextBatch(self.work, captured, count, labels[start : start + count])
                start += count

    def shards(self) -> Iterator[StoredBatch]:
        labels = np.asarray(self.build.labels, dtype=np.int64)
        for one in self.build.cuts:
            for places, arrays in self.build.writer.decoded(STEP, one.planned, one.order):
                own = labels[places + one.rows.start]
                p = arrays.get("meta.probabilities")
                yield StoredBatch(Gradient.unpack(arrays), ~arrays["meta.bad"], own, p, self.work.table)

    def fitted(self, method: Gradients, most: int = 2**29) -> dict[str, np.ndarray]:
        """What all fitters of a method publish."""
        known: dict[str, np.ndarray] = {}
        for fitter in fitters_of(method):
            known |= dict(fitter.recorded(self.checkpoint, self.work, self.options))
            for this in fitter.passes(self.options):
                known = run(fitter, this, self.source, known, self.layers, most)
            assert all(name in known for name in fitter.arrays(self.layers))
            fitter.install(self.work, known)
        return {name: value for name, value in known.items() if not name.startswith("_")}

    def facts(self) -> ModelFacts:
        return ModelFacts(3, self.work.table, False, self.layers, [self.checkpoint], self.options)

    def description(self) -> Told:
        return Told(f"step {STEP}", self.layers, self.options.queries)

    def notes(self, method: Gradients) -> list[str]:
        return [line for one in fitters_of(method) for line in one.describe(self.table, self.description())]


def same(found: dict[str, np.ndarray], truth: dict[str, np.ndarray], tolerance: float = 0.0) -> None:
    """Equal arrays of equal types; to the bit without a tolerance."""
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        assert found[name].dtype == value.dtype, name
        if tolerance:
            np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def layered(*preconditioners: Any, names: str = "all", name: str = "x", p: Any = None, **changes: Any) -> Gradients:
    gradient = Layers(names=(names,), projection=None if p is None else Projection(**p))
    return Gradients(name=name, gradient=gradient, preconditioners=preconditioners, **changes)


PLAIN = {"layers": "attention", "project": None, "preconditioner": "none", "damping": 1e-3, "similarity": "dot"}
CASES: dict[str, tuple[str, dict[str, Any], Any, float]] = {
    "autocorrelation": ("trackstar", PLAIN, Autocorrelation(damping=1e-3, damping_of="top"), 0.0),
    "mixed": (
        "trackstar",
        PLAIN | {"queries": EVALUATION, "eval_component": 9},
        Autocorrelation(damping=1e-3, damping_of="top", eval_component=9),
        0.0,
    ),
    "given": (
        "trackstar",
        PLAIN | {"queries": EVALUATION, "eval_share": 0.3},
        Autocorrelation(damping=1e-3, damping_of="top", eval_share=0.3),
        0.0,
    ),
    "gauss-newton": ("influence-last", {}, GaussNewton(damping=0.1), 0.0),
    "ekfac": ("ekfac", {"project": 8}, EKFAC(damping=0.1), 0.0),
    "ekfac-sampled": ("ekfac", {"fisher": "sampled", "fisher_seed": 3}, EKFAC(fisher="sampled", fisher_seed=3), 0.0),
    "datainf": ("datainf", {"project": 8}, DataInf(), 1e-12),
    "datainf-top": ("datainf", {"project": 8, "damping_of": "top"}, DataInf(damping_of="top"), 1e-12),
}


@pytest.mark.parametrize(("case", "most"), [*((case, 4096) for case in CASES), ("datainf", 8), ("datainf-top", 8)])
def test_damped_inverses(bert: Truth, tmp_path: Path, case: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method, changes, spec, tolerance = CASES[case]
    for module in (matrices, mixing, damped):
        monkeypatch.setattr(module, "MOST", most)
    old = Built(bert, tmp_path / "index", method, **changes)
    new = layered(spec, name=method)
    (fitter,) = fitters_of(new)
    fitter.check(old.facts())
    truth = {name: value for name, value in old.table.items() if name.startswith("curvature.")}
    same(old.fitted(new), truth, tolerance)
    same(old.fitted(new, most=1), truth, tolerance)
    told = [line.replace("curvature gauss-newton", "curvature ggn") for line in old.notes(new)]
    assert told == [line for line in old.store.manifest.notes if line in told]
    assert told
    train = gradients_of(old.store)
    turning = QueryPreconditioner(old.store.plan.recipe, old.store.plan.blocks, old.store.table, train)
    v = np.concatenate([one.vectors for one in old.shards()])[:5] * np.float32(1.5)
    made = fitter.apply(Gradient(dense=Dense.of(v)), old.table, old.layers, lambda: train(STEP))
    assert made.dense is not None
    np.testing.assert_array_equal(made.dense.v, turning.vectors(STEP, v))


@pytest.mark.parametrize("source", ["recorded", "estimate"])
def test_moments_of_rows(bert: Truth, tmp_path: Path, source: str) -> None:
    old = Built(bert, tmp_path / "index", "tracin-we-adam", second_moment=source)
    new = Gradients(name="tracin-we-adam", gradient=EmbeddingRows(), preconditioners=(Adam(),))
    (fitter,) = fitters_of(new)
    fitter.check(old.facts())
    same(old.fitted(new), {"inverse_root": old.table["inverse_root"]})
    rows = next(one.gradient.rows for one in old.shards())
    assert isinstance(rows, Rows)
    made = fitter.apply(Gradient(rows=rows), old.table, (), None)
    assert made.rows is not None
    np.testing.assert_array_equal(made.rows.rows, Search(old.store).turned(STEP, rows).rows)
    assert fitter.source(old.options) == old.store.plan.checkpoints[0].preconditioner
    named = {f"step {STEP}": old.checkpoint}
    fingerprints = fitter.fingerprints(named, old.options)
    assert fingerprints == old_moments.moments_fingerprints([old.checkpoint], old.recipe, old.options.second_moment)
    assert fitter.cost(old.facts()).held == old.table["inverse_root"].nbytes


@pytest.mark.parametrize("source", ["recorded", "estimate"])
def test_moments_and_directions_of_layers(tmp_path: Path, source: str) -> None:
    truth = classifier_run(tmp_path / "bert", 30, 4)
    named = dict(truth.models[STEP].named_parameters())
    random = np.random.default_rng(0)
    every = {name: random.random(tuple(one.shape)).astype(np.float32) for name, one in named.items()}
    save_file(every, truth.folder / f"checkpoint-{STEP}" / "proponent_moments.safetensors")
    changes = {"second_moment": source, "layers": "attention", "basis": "leading", "project": 4, "curvature": "none"}
    old = Built(truth, tmp_path / "index", "trackstar", **changes)
    new = layered(Adam(), p={"width": 4, "basis": "principal"}, normalize="both", name="trackstar")
    fitters_of(new)[0].check(old.facts())
    same(old.fitted(new), {name: value for name, value in old.table.items() if name != "embedding"})
    projection = old.work.layers.projection
    for name, (left, right) in directions(projection.blocks, old.table).items():
        for mine, theirs in ((projection.left[name], left), (projection.right[name], right)):
            assert theirs is None or torch.equal(mine, theirs)
    costs = [one.cost(old.facts()) for one in fitters_of(new)]
    assert sum(one.held for one in costs) == sum(value.nbytes for value in old.table.values())
    assert [note for note in old.store.manifest.notes if note.startswith("leading")] == old.notes(new)
    vectors = np.concatenate([one.vectors for one in old.shards()])
    taken = np.concatenate(
        [old.work.vectors(one.captured, one.count) for one in old.texts(Pass("x", "texts", "after"))]
    )
    assert sorted(np.linalg.norm(taken, axis=1)) == pytest.approx(sorted(np.linalg.norm(vectors, axis=1)), rel=1e-5)


@pytest.mark.parametrize("method", ["tracin-layers", "grad-cos"])
@pytest.mark.parametrize("most", [4096, 20])
def test_directions(tmp_path: Path, method: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a table of tokens, and one weight of two uses."""
    monkeypatch.setattr(leading, "MOST", most)
    monkeypatch.setattr(principal_directions, "MOST", most)
    truth = lm_run(tmp_path / "gpt2", "gpt2", tied=True, steps=(STEP,), n=20, q=2)
    changes = {"layers": "all", "project": 4, "basis": "leading"}
    old = Built(truth, tmp_path / "index", method, **changes)
    normalize: Any = "both" if method == "grad-cos" else "none"
    new = layered(p={"width": 4, "basis": "principal"}, normalize=normalize)
    same(old.fitted(new), old.table)
    assert [note for note in old.store.manifest.notes if note.startswith("leading")] == old.notes(new)
    (fitter,) = fitters_of(new)
    assert fitter.cost(old.facts()).held == leading.held(old.work.layers.projection)


def test_a_refitted_head(bert: Truth, tmp_path: Path) -> None:
    old = Built(bert, tmp_path / "index", "representer")
    new = layered(names="head", name="representer", prepare=RefitHead(penalty=0.01))
    (fitter,) = fitters_of(new)
    fitter.check(old.facts())
    same(old.fitted(new), old.table)
    assert set(old.notes(new)) <= set(old.store.manifest.notes)
    other = old.build.worker._pass(old.checkpoint)
    other.prepare(old.table)
    for mine, theirs in zip(old.work.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_moments_of_an_optimizer(tmp_path: Path) -> None:
    parameters = [torch.nn.Parameter(torch.randn(12, 5)), torch.nn.Parameter(torch.randn(3, 5))]
    optimizer = torch.optim.AdamW(parameters)
    for _ in range(3):
        sum((one**2).sum() for one in parameters).backward()
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 10):
        pytest.skip("an older torch")
    found = old_moments.read_moments(Checkpoint(tmp_path, 5, 1.0, ""), recipe_of("tracin-we-adam"), "optimizer")
    assert found.v is not None
    np.testing.assert_array_equal(of_table(Files(tmp_path), "x", "optimizer", (12, 5)), found.v())


def test_ekfac_of_a_table_and_a_weight_of_two_uses(tmp_path: Path) -> None:
    truth = lm_run(tmp_path / "gpt2", "gpt2", tied=True, steps=(STEP,), n=20, q=2)
    old = Built(truth, tmp_path / "index", "ekfac", layers="all", project=4)
    same(old.fitted(layered(EKFAC())), {name: one for name, one in old.table.items() if name.startswith("curvature.")})
