"""Replay against real retraining: finite differences in 64 bits, the end of training, memory, what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proponent
import runs
from proponent.dynamics.loops import Query
from proponent.dynamics.replay_engine import Replay
from proponent.errors import InputError, MismatchError, RunError
from proponent.models import Run, read_training_trace
from proponent.tensors import read_tensors, write_tensors
from proponent.types import Example

STEPS = 50
QUERIES = (
    Query(Example("a", 0, "The bank said that profit fell after the vote.", 0), 0),
    Query(Example("b", 1, "The cup and the coach!", 1), 1),
)


def examples() -> list[Example]:
    return [Example(row["id"], place, row["text"], row["label"]) for place, row in enumerate(runs.ROWS)]


def made(folder: Path, *, lm: bool = False, **settings: Any) -> Path:
    tokenizer = runs.gpt2_tokenizer() if lm else runs.bert_tokenizer()
    model = runs.gpt2(tokenizer) if lm else runs.bert(tokenizer)
    settings = {"max_steps": STEPS, "save_steps": STEPS, "learning_rate": 1e-3, "adam_epsilon": 1e-3} | settings
    runs.trainer(folder, model, tokenizer, callbacks=[proponent.Recorder(replay=True)], **settings).train()
    return folder


def replay(folder: Path, *, lm: bool = False, **options: Any) -> Replay:
    texts = [Example(one.id, one.row, one.text, None) for one in examples()] if lm else examples()
    labels = [-1] * len(texts) if lm else [runs.LABELS.index(str(one.label)) for one in texts]
    return Replay(Run.from_pretrained(folder), texts, labels, quiet=True, **options)


def queries(lm: bool) -> list[Query]:
    return [Query(Example("a", 0, "The bank said that profit fell.", None))] if lm else list(QUERIES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adam with clipping, weight decay, dropout and a linear schedule."""
    return made(tmp_path_factory.mktemp("replay") / "run", weight_decay=0.1)


MAKERS: dict[str, Callable[[Path], Path]] = {
    "adamw": lambda path: made(path, weight_decay=0.1),
    "sgd": lambda path: made(path, optim="sgd", optim_args="momentum=0.9", learning_rate=0.03, weight_decay=0.01),
    "lm": lambda path: made(path, lm=True, max_grad_norm=0.0),
}


@pytest.mark.parametrize("kind", ["adamw", "sgd", "lm"])
def test_the_derivative_is_that_of_real_retraining(kind: str, tmp_path: Path) -> None:
    lm = kind == "lm"
    one = replay(MAKERS[kind](tmp_path / "run"), lm=lm, double=True)
    found = one.derivative(queries(lm))
    rows = np.random.default_rng(0).choice(len(one), 8 if kind == "adamw" else 4, replace=False).tolist()
    for number, query in enumerate(queries(lm)):
        smooth = one.smoothness(query, found, rows, number=number, step=1e-3)
        assert smooth.error <= 1e-2
        assert smooth.ratio == pytest.approx(1.0, abs=1e-2)
        assert np.abs(smooth.difference).max() > 1e-4


def test_tokens_are_derivatives_of_a_factor_on_their_embedding(folder: Path) -> None:
    one = replay(folder, double=True)
    found = one.derivative(QUERIES[:1])
    for row, place in [(0, 1), (3, 2), (7, 4)]:
        losses = [
            float(one.losses(one.train(factors={(row, place): 1.0 + step}), QUERIES[:1])[0]) for step in (1e-3, -1e-3)
        ]
        assert -found.tokens[0, found.indptr[row] + place] == pytest.approx(
            (losses[0] - losses[1]) / 2e-3, rel=1e-2, abs=1e-7
        )
    words = found.of_words(0, 3)
    assert sum(words.values()) == pytest.approx(float(found.tokens[0, found.indptr[3] : found.indptr[4]].sum()))
    assert {-1, 0} <= set(words)


@pytest.mark.parametrize("lm", [False, True])
def test_replay_ends_at_the_saved_weights(lm: bool, tmp_path: Path) -> None:
    one = replay(made(tmp_path / "run", lm=lm), lm=lm)
    assert one.deviation() <= 1e-4
    last = one.losses(one.train(), queries(lm))
    assert one.derivative(queries(lm)).losses == pytest.approx(last, rel=1e-6)


def test_queries_share_a_pass_and_do_not_disturb_each_other(folder: Path) -> None:
    one = replay(folder, double=True)
    both = one.derivative(QUERIES)
    for number, query in enumerate(QUERIES):
        alone = one.derivative([query])
        assert both.scores[number] == pytest.approx(alone.scores[0], rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("every", [1, 7, 50, 1000])
def test_states_in_between_are_made_again(folder: Path, every: int) -> None:
    usual, other = replay(folder, double=True), replay(folder, double=True, every=every)
    assert other.derivative(QUERIES[:1]).scores == pytest.approx(usual.derivative(QUERIES[:1]).scores, rel=1e-12)
    assert usual.kept == 8  # 50 steps, every 7th
    assert other.kept == -(-STEPS // every)


def test_leaving_a_row_out_is_a_weight_of_zero(folder: Path) -> None:
    """The divisor of a batch stays: a row that is left out moves nothing, whatever its text says."""
    one = replay(folder)
    weights = np.ones(len(one))
    weights[5] = 0.0
    end = one.train(weights)
    assert not torch.equal(end, one.train())
    labels = [runs.LABELS.index(str(example.label)) for example in examples()]
    other = Replay(Run.from_pretrained(folder), examples(), [*labels[:5], 2 - labels[5] // 2, *labels[6:]], quiet=True)
    assert torch.equal(other.train(weights), end)
    assert not torch.equal(other.train(), one.train())


def test_another_training_set_is_refused(folder: Path) -> None:
    texts = examples()
    labels = [0] * len(texts)
    swapped = [texts[1], texts[0], *texts[2:]]
    run = Run.from_pretrained(folder)
    with pytest.raises(MismatchError, match=r"step \d+ .* used other tokens than its rows"):
        Replay(run, swapped, labels, quiet=True).deviation()
    with pytest.raises(MismatchError, match="refers to row 23, but the data has 10"):
        Replay(run, texts[:10], labels[:10], quiet=True)


def test_labels_that_were_not_trained_on_do_not_end_at_the_saved_weights(folder: Path) -> None:
    texts = examples()
    with pytest.raises(MismatchError, match="away from its last checkpoint"):
        Replay(Run.from_pretrained(folder), texts, [0] * len(texts), quiet=True).deviation()


@pytest.mark.parametrize("name", ["steps.json", "steps.safetensors", "initial.safetensors"])
def test_a_missing_record_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    (copy / "proponent_replay" / name).unlink()
    with pytest.raises(RunError, match=rf"cannot be replayed: proponent_replay/{name} is missing; record one with"):
        replay(copy)


def test_a_damaged_record_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    home = copy / "proponent_replay"
    arrays = read_tensors(home / "steps.safetensors")
    write_tensors(home / "steps.safetensors", arrays | {"rates": arrays["rates"][:-3]})
    with pytest.raises(RunError, match="without rows, rates"):
        read_training_trace(copy)
    write_tensors(home / "steps.safetensors", arrays)
    settings = json.loads((home / "steps.json").read_text())
    (home / "steps.json").write_text(json.dumps({key: settings[key] for key in settings if key != "clip"}))
    with pytest.raises(RunError, match="'clip' is missing or invalid"):
        read_training_trace(copy)
    (home / "steps.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match="the record is damaged"):
        read_training_trace(copy)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient accumulation"),
        ({"label_smoothing_factor": 0.1}, "label smoothing"),
        ({"optim": "adagrad"}, "Adagrad"),
    ],
)
def test_what_cannot_be_replayed_is_refused_before_training(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=said):
        made(tmp_path / "run", **settings)


def test_no_query_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="needs a text to explain"):
        replay(folder).derivative([])


def test_the_record_says_what_each_step_read(folder: Path) -> None:
    steps = read_training_trace(folder)
    assert len(steps) == STEPS
    assert sorted(np.concatenate([steps.rows(step) for step in range(6)]).tolist()) == list(range(24))
    assert steps.rates[0, 0] == pytest.approx(1e-3)
    assert steps.rates[-1, 0] < steps.rates[0, 0]
    assert {one.weight_decay for one in steps.groups} == {0.0, 0.1}
