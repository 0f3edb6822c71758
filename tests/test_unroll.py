"""Unrolling through stored steps with the Fisher matrix, or without curvature: against the recursion written out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proponent
import runs
import tiny
from proponent.data import read
from proponent.dynamics.explain import explain_run
from proponent.dynamics.replay_engine import Curvature
from proponent.errors import InputError
from proponent.method import Loop
from proponent.models import Run, read_training_trace
from proponent.training.schedule import recorded
from test_replay import QUERIES, replay

STEPS = 12
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AdamW with weight decay and a linear schedule, without dropout or clipping."""
    made = tmp_path_factory.mktemp("unroll") / "run"
    tokenizer = runs.bert_tokenizer()
    model = runs.bert(tokenizer)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    settings = {
        "max_steps": STEPS,
        "save_steps": STEPS,
        "learning_rate": 3e-3,
        "weight_decay": 0.1,
        "max_grad_norm": 0.0,
    }
    runs.trainer(
        made, model, tokenizer, callbacks=[proponent.Recorder(replay=True)], adam_epsilon=1e-3, **settings
    ).train()
    return made


class Oracle:
    """AdamW by hand in 64 bits, and the backward recursion of a query's gradient through its steps."""

    def __init__(self, folder: Path) -> None:
        self.trace = read_training_trace(folder)
        run = Run.from_pretrained(folder)
        self.model = run.load(run.checkpoints[-1]).double().eval().requires_grad_()
        self.tokenizer = run.tokenizer
        trained = {name for group in self.trace.groups for name in group.names}
        self.named = {name: one for name, one in self.model.named_parameters() if name in trained}
        decays = {name: group.weight_decay for group in self.trace.groups for name in group.names}
        self.decay = torch.cat([torch.full((one.numel(),), decays[name]).double() for name, one in self.named.items()])
        self.epsilon, self.betas = next((one.epsilon, one.betas) for one in self.trace.groups if one.names)

    def put(self, flat: torch.Tensor) -> None:
        at = 0
        for one in self.named.values():
            one.data = flat[at : at + one.numel()].view(one.shape).clone()
            at += one.numel()

    def gradient(self, row: dict[str, Any]) -> torch.Tensor:
        read = self.tokenizer(row["text"], return_tensors="pt", truncation=True, max_length=runs.MAX_LENGTH)
        target = torch.tensor([runs.LABELS.index(row["label"])])
        loss = torch.nn.functional.cross_entropy(self.model(**read).logits, target)
        return torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(self.named.values()))])

    def scores(self, query: dict[str, Any], *, fisher: bool) -> np.ndarray:
        (first, second), steps = self.betas, list(recorded(self.trace))
        theta = torch.cat([torch.as_tensor(self.trace.initial()[name]).double().flatten() for name in self.named])
        m, v = torch.zeros_like(theta), torch.zeros_like(theta)
        kept: list[Any] = []
        for step in steps:
            self.put(theta)
            each = torch.stack([self.gradient(runs.ROWS[row]) for row in step.rows.tolist()])
            g, rate, t = each.mean(0), float(step.rates[0]), step.number + 1
            m, v = first * m + (1 - first) * g, second * v + (1 - second) * g**2
            mean, root = m / (1 - first**t), (v / (1 - second**t)).sqrt()
            kept.append((step.rows, each, g, rate, t, mean, root))
            theta = (1 - rate * self.decay) * theta - rate * mean / (root + self.epsilon)
        self.put(theta)
        a, b, c = self.gradient(query), torch.zeros_like(theta), torch.zeros_like(theta)
        found = np.zeros(len(runs.ROWS))
        for rows, each, g, rate, t, mean, root in reversed(kept):
            d = 1 / (root + self.epsilon)
            slope = torch.where(root > 0, mean * d**2 / (2 * root), 0.0)
            b, c = b - rate * d * a / (1 - first**t), c + rate * slope * a / (1 - second**t)
            gamma = (1 - first) * b + 2 * (1 - second) * g * c
            np.subtract.at(found, rows, (each @ gamma).numpy() / len(rows))
            a = (1 - rate * self.decay) * a + (each.T @ (each @ gamma) / len(rows) if fisher else 0.0)
            b, c = first * b, second * c
        return found


@pytest.mark.parametrize("curvature", ["fisher", "none"])
def test_unrolling_is_the_recursion(folder: Path, curvature: Curvature) -> None:
    found = replay(folder, double=True).derivative(QUERIES, curvature).scores
    oracle = Oracle(folder)
    for row, query in enumerate(QUERIES):
        asked = {"text": query.example.text, "label": runs.LABELS[query.label]}
        wanted = oracle.scores(asked, fisher=curvature == "fisher")
        assert found[row] == pytest.approx(wanted, rel=1e-6, abs=1e-8 * np.abs(wanted).max())


def test_curvature_matters_and_approximations_are_near_the_derivative(folder: Path) -> None:
    work = replay(folder, double=True)
    exact, fisher, none = (work.derivative(QUERIES, one).scores for one in ("exact", "fisher", "none"))
    again = work.derivative(QUERIES).scores
    assert np.array_equal(exact, again)
    assert np.abs(exact - fisher).max() > 1e-3 * np.abs(exact).max()
    assert np.abs(fisher - none).max() > 1e-3 * np.abs(exact).max()
    for some in (fisher, none):
        assert np.corrcoef(exact.ravel(), some.ravel())[0, 1] > 0.9  # twelve steps


def test_the_method_unroll_says_what_it_approximates(folder: Path, tmp_path: Path, said: Said) -> None:
    data = tiny.write_csv(tmp_path / "train.csv", runs.ROWS)
    code, out, err = said(
        "explain", folder, "The bank said that profit fell.", "--method", "unroll", "--data", data, "-k", 3, "--json"
    )
    assert code == 0, err
    answer = json.loads(out)
    assert answer["method"] == "unroll"
    assert "approximates the derivative" in answer["caveat"]
    assert "Fisher matrix in place of its Hessian" in answer["checkpoints"][0]["rule"]
    wrong = Loop(which="replay", settings={"curvature": "full"})
    with pytest.raises(InputError, match="curvature 'full': choose one of exact, fisher, none"):
        explain_run(Run.from_pretrained(folder), read(data), [QUERIES[0].example], wrong, quiet=True)
