"""Parts of methods for fine-tuned models: softened losses against autograd, and checkpoints in the middle of a run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import proponent
import truth
from proponent.errors import InputError
from proponent.index.planning import chosen
from proponent.method import MidRun
from proponent.method_table import method_of
from proponent.models import Run
from truth import NAMES, Truth

T = 4.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return truth.classifier_run(tmp_path_factory.mktemp("softened") / "run", n=24, q=4)


def loss_of(known: Truth, model: Any, row: dict[str, Any], temperature: float) -> torch.Tensor:
    read = known.tokenizer(row["text"], return_tensors="pt")
    target = torch.tensor([NAMES.index(row["label"])])
    return functional.cross_entropy(model(**read).logits / temperature, target)


def softened(known: Truth, rows: list[dict[str, Any]], names: tuple[str, ...]) -> np.ndarray:
    """Gradients of the softened loss with respect to some weights, at the last checkpoint."""
    model = known.models[known.steps[-1]]
    weights = [model.get_parameter(name) for name in names]
    found: list[np.ndarray] = []
    for row in rows:
        parts = torch.autograd.grad(loss_of(known, model, row, T), weights)
        found.append(np.concatenate([one.double().flatten().numpy() for one in parts]))
    return np.stack(found)


def linear(known: Truth) -> tuple[str, ...]:
    model = known.models[known.steps[-1]]
    return tuple(f"{name}.weight" for name, one in model.named_modules() if isinstance(one, torch.nn.Linear))


def scores(known: Truth, folder: Path, method: str, **changes: Any) -> np.ndarray:
    built = proponent.build(
        known.folder, known.training, folder, method, quiet=True, steps=known.steps[-1:], weights="constant", **changes
    )
    return built.scores([one["text"] for one in known.queries], [one["label"] for one in known.queries])


@pytest.mark.parametrize("method", ["tracin-last", "tracin-we", "tracin-layers"])
def test_the_softened_loss_equals_autograd(home: Truth, tmp_path: Path, method: str) -> None:
    names = {
        "tracin-last": (linear(home)[-1],),
        "tracin-we": ("bert.embeddings.word_embeddings.weight",),
        "tracin-layers": linear(home),
    }[method]
    layers = {"layers": "linear", "project": None} if method == "tracin-layers" else {}
    found = scores(home, tmp_path / "index", method, temperature=T, **layers)
    wanted = softened(home, home.queries, names) @ softened(home, home.training, names).T
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-4 * np.abs(wanted).max())
    plain = scores(home, tmp_path / "plain", method, **layers)
    assert np.abs(found - plain).max() > 1e-2 * np.abs(plain).max()


def test_an_index_with_a_softened_loss_keeps_the_loss_of_the_model(home: Truth, tmp_path: Path) -> None:
    said = {
        t: proponent.build(home.folder, home.training, tmp_path / f"{t}", "grad-cos", quiet=True, temperature=t)
        for t in (1.0, T)
    }
    asked = home.queries[0]
    plain, soft = (one.explain(asked["text"], label=asked["label"], k=3) for one in said.values())
    assert plain.query.loss == soft.query.loss
    last = [list(one.store.shards(one.store.plan.checkpoints[-1].id)) for one in said.values()]
    for (_, first), (_, second) in zip(*last, strict=True):
        assert np.array_equal(first["meta.losses"], second["meta.losses"])


def test_a_temperature_is_refused_where_it_means_nothing(home: Truth, tmp_path: Path) -> None:
    lm = truth.lm_run(tmp_path / "lm", "gpt2", tied=True, n=4, q=1)
    with pytest.raises(InputError, match="temperature, which is for classifiers"):
        proponent.build(lm.folder, lm.training, tmp_path / "index", "grad-cos", quiet=True, temperature=2.0)
    with pytest.raises(InputError, match="gauss-newton, which is computed for the loss as trained"):
        method_of("influence-last", temperature=2.0)
    with pytest.raises(InputError, match="temperature"):
        method_of("grad-cos", temperature=0.0)


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(3, (5, 10)), (1, (10,)), (50, (5, 10))],  # saved at 5, 10, 20: 30 % of 20 is nearest to 5, 50 % and 70 % to 10
)
def test_checkpoints_in_the_middle_of_a_run(home: Truth, count: int, wanted: tuple[int, ...]) -> None:
    method = method_of("grad-cos").model_copy(update={"checkpoints": MidRun(count=count)})
    run = Run.from_pretrained(home.folder)
    assert tuple(one.step for one in chosen(run, None, method)) == wanted
    assert tuple(one.step for one in chosen(run, (20,), method)) == (20,)


def test_a_single_checkpoint_is_its_own_middle(home: Truth, tmp_path: Path) -> None:
    run = Run.from_pretrained(home.folder / "checkpoint-20")
    method = method_of("grad-cos", checkpoints="mid-run")
    assert [one.step for one in chosen(run, None, method)] == [one.step for one in run.checkpoints]
