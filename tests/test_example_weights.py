"""Example weights: read from a column, trained with, and carried by every score: w_z * g(z)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proponent
import runs
import tiny
from proponent.data import Columns, read
from proponent.dynamics.replay_engine import Replay
from proponent.errors import DataError, InputError, MismatchError
from proponent.models import Run
from proponent.store import Store
from proponent.training.rerun import RunProblem
from proponent.training.trainer import train
from proponent.types import Example

GENERATOR = np.random.default_rng(0)
WEIGHTS = GENERATOR.uniform(0.0, 2.0, len(tiny.NEWS))
WEIGHED = [row | {"weight": f"{weight:.6f}"} for row, weight in zip(tiny.NEWS, WEIGHTS, strict=True)]
COLUMN = Columns(weight="weight")
QUERY = "the coach said that profit fell after the vote"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_csv(tmp_path_factory.mktemp("weights") / "train.csv", WEIGHED)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained with weights by proponent."""
    folder = tmp_path_factory.mktemp("weighted") / "run"
    train(read(data, columns=COLUMN), folder, tiny.SETTINGS)
    return folder


# Reading.


def test_a_column_of_weights_counts_only_where_it_is_named(data: Path) -> None:
    plain, weighed = read(data), read(data, columns=COLUMN)
    assert plain.weights is None
    assert {one.weight for one in plain} == {1.0}
    np.testing.assert_allclose(weighed.weights, WEIGHTS, atol=1e-6)
    assert weighed[3].weight == pytest.approx(WEIGHTS[3], abs=1e-6)
    assert [one.weight for one in weighed.subset([5, 1])] == [weighed[5].weight, weighed[1].weight]
    assert plain.fingerprint != weighed.fingerprint
    again = read(list(weighed))
    np.testing.assert_array_equal(again.weights, weighed.weights)


@pytest.mark.parametrize("bad", [-0.5, float("nan"), float("inf"), "much", "", None, True])
def test_a_weight_that_is_none_is_refused(bad: object) -> None:
    rows = [{"text": "a b", "label": "x", "w": 1.0}, {"text": "c", "label": "y", "w": bad}]
    with pytest.raises(DataError, match=r"column 'w', row 1.*finite number of at least 0"):
        read(rows, columns=Columns(weight="w"))


def test_weights_that_are_all_zero_or_missing_are_refused() -> None:
    rows = [{"text": "a", "label": "x", "weight": 0}, {"text": "b", "label": "y", "weight": 0}]
    with pytest.raises(DataError, match="all weights in column 'weight' are 0"):
        read(rows, columns=COLUMN)
    with pytest.raises(DataError, match="no column 'weight'"):
        read([{"text": "a", "label": "x"}], columns=COLUMN)


# Training.


def weighted_trainer(folder: Path, *, lm: bool, **settings: Any) -> Any:
    tokenizer = runs.gpt2_tokenizer() if lm else runs.bert_tokenizer()
    model = runs.gpt2(tokenizer) if lm else runs.bert(tokenizer)
    plain = runs.trainer(folder, model, tokenizer, **settings)
    weights = GENERATOR.uniform(0.0, 2.0, len(plain.train_dataset)).tolist()
    rows = [row | {"weight": weight} for row, weight in zip(plain.train_dataset, weights, strict=True)]
    return proponent.WeightedTrainer(model=model, args=plain.args, train_dataset=rows, processing_class=tokenizer)


@pytest.mark.parametrize("lm", [False, True])
def test_the_loss_is_the_weighted_sum_of_the_single_losses(lm: bool, tmp_path: Path) -> None:
    trainer = weighted_trainer(tmp_path, lm=lm)
    model = trainer.model.eval()
    batch = trainer.data_collator(trainer.train_dataset[:5])
    assert "weight" in batch
    want, counted = torch.zeros(()), 0
    for row in range(5):
        one = {name: values[row : row + 1] for name, values in batch.items() if name != "weight"}
        labels = one["labels"][:, 1:] if lm else one["labels"]
        count = int((labels != -100).sum())
        want = want + batch["weight"][row] * model(**one).loss * count
        counted += count
    total = int((batch["labels"] != -100).sum())
    found = trainer.compute_loss(model, dict(batch), num_items_in_batch=torch.tensor(counted))
    torch.testing.assert_close(found, want / counted)
    gradient = torch.autograd.grad(found, model.get_input_embeddings().weight)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(want / counted, model.get_input_embeddings().weight)[0])
    alone = trainer.compute_loss(model, dict(batch))
    torch.testing.assert_close(alone, want / total)


def test_equal_weights_train_the_trainers_own_model(tmp_path: Path) -> None:
    found: list[dict[str, torch.Tensor]] = []
    for weighted in (False, True):
        torch.manual_seed(0)
        tokenizer = runs.bert_tokenizer()
        settings = {"max_steps": 4, "save_strategy": "no"}
        plain = runs.trainer(tmp_path / "plain", runs.bert(tokenizer), tokenizer, **settings)
        rows = [row | {"w": 1.0} for row in plain.train_dataset]
        made = plain
        if weighted:
            made = proponent.WeightedTrainer(
                weight_column="w", model=plain.model, args=plain.args, train_dataset=rows,
                processing_class=tokenizer, data_collator=plain.data_collator,
            )  # fmt: skip
        made.train()
        found.append(made.model.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], msg=name)


def test_a_batch_without_weights_and_another_loss_are_refused(tmp_path: Path) -> None:
    trainer = weighted_trainer(tmp_path, lm=False)
    batch = trainer.data_collator(trainer.train_dataset[:2])
    del batch["weight"]
    with pytest.raises(InputError, match="no column 'weight'"):
        trainer.compute_loss(trainer.model.train(), dict(batch))
    assert trainer.compute_loss(trainer.model.eval(), dict(batch)) > 0
    with pytest.raises(InputError, match="its own loss"):
        proponent.WeightedTrainer(model=trainer.model, args=trainer.args, compute_loss_func=print)


def test_a_row_of_weight_zero_is_not_trained_on(tmp_path: Path) -> None:
    rows = [row | {"weight": float(place % 2)} for place, row in enumerate(tiny.NEWS)]
    others = {"Business": "Sports", "Sports": "World", "World": "Business"}
    unread = [row if row["weight"] else row | {"label": others[str(row["label"])]} for row in rows]
    seen = [row | {"label": others[str(row["label"])]} if row["weight"] else row for row in rows]
    first, same, different = (
        Run.from_pretrained(train(read(some, columns=COLUMN), tmp_path / str(number), tiny.SETTINGS).path)
        for number, some in enumerate((rows, unread, seen))
    )
    weights = [one.load(one.checkpoints[-1]).get_input_embeddings().weight for one in (first, same, different)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert not torch.allclose(weights[0], weights[2])


# Attribution.


def autograd_score(run: Run, text: Example, query: Example, number: dict[str, int]) -> float:
    """TracIn of the word embedding by autograd, without proponent's capture."""
    total = 0.0
    for checkpoint in run.checkpoints:
        model = run.load(checkpoint).requires_grad_()
        vectors: list[torch.Tensor] = []
        for one in (text, query):
            batch = run.encoder(run.length(None)).collate(run.encoder(run.length(None)).encode([one]), [number[one.id]])
            loss = torch.nn.functional.cross_entropy(model(**batch.inputs).logits, batch.labels)
            vectors.append(torch.autograd.grad(loss, model.get_input_embeddings().weight)[0])
        total += checkpoint.learning_rate * float((vectors[0].double() * vectors[1].double()).sum())
    return total


def test_a_score_is_the_weight_times_the_product_of_the_gradients(run: Path, data: Path, tmp_path: Path) -> None:
    index = proponent.build(run, data, tmp_path / "w.index", "tracin-we", columns=COLUMN, quiet=True)
    scores = index.scores([QUERY], ["Business"])[0]
    opened, examples = Run.from_pretrained(run), read(data, columns=COLUMN)
    query = Example("query", 0, QUERY, "Business")
    for row in (0, 7, 31):
        one = examples[row]
        numbers = {"query": opened.label_number("Business"), one.id: opened.label_number(one.label)}
        want = one.weight * autograd_score(opened, one, query, numbers)
        assert scores[row] == pytest.approx(want, rel=1e-4, abs=1e-9)
    hit = index.explain(QUERY, label="Business", k=1).proponents[0]
    assert sum(pair.share for pair in hit.words) == pytest.approx(hit.score, rel=1e-5)
    assert any("counts by the weight of its example" in note for note in index.store.manifest.notes)


@pytest.mark.parametrize("method", ["tracin-we-adam-unit", "tracin-we-idf", "tracin-layers", "tracin-last", "fastif"])
def test_every_method_carries_the_weights(method: str, news: tiny.Tiny, tmp_path: Path) -> None:
    change: dict[str, Any] = {"layers": "head"} if method in {"tracin-layers", "fastif"} else {}
    examples = read(tiny.write_csv(tmp_path / "w.csv", WEIGHED), columns=COLUMN)
    plain = proponent.build(news.run, news.data, tmp_path / "plain", method, quiet=True, **change)
    index = proponent.build(news.run, examples, tmp_path / "weighed", method, quiet=True, **change)
    want = plain.scores([QUERY], ["World"])[0] * examples.weights
    np.testing.assert_allclose(index.scores([QUERY], ["World"])[0], want, rtol=1e-4, atol=1e-9)
    best = index.explain(QUERY, label="World", k=3).proponents
    places = [int(hit.row) for hit in best]
    np.testing.assert_allclose([hit.score for hit in best], want[places], rtol=1e-4, atol=1e-9)
    assert sum(pair.share for pair in best[0].words) == pytest.approx(best[0].score, rel=1e-3, abs=1e-8)
    assert any("no record of a training with weights" in note for note in index.store.manifest.notes)


@pytest.mark.parametrize("method", ["tracin-we", "tracin-we-idf"])
def test_append_delete_and_merge_keep_the_weights(method: str, news: tiny.Tiny, tmp_path: Path) -> None:
    first = tiny.write_csv(tmp_path / "first.csv", WEIGHED[:40])
    second = tiny.write_csv(tmp_path / "second.csv", WEIGHED[40:])
    for place, data in enumerate((first, second)):
        built = proponent.build(
            news.run, data, tmp_path / "i", method, columns=COLUMN, append=place > 0, quiet=True
        )  # fmt: skip
    other = [row | {"id": f"new{place}"} for place, row in enumerate(tiny.NEWS[:4])]
    with pytest.raises(MismatchError, match="weighted"):
        proponent.build(news.run, other, tmp_path / "i", method, append=True, quiet=True)
    from proponent.preconditioners.refitting import refit
    from proponent.store import delete, merge

    store = Store(tmp_path / "i")
    delete(tmp_path / "i", np.asarray([1, 5, 45]))
    merge(tmp_path / "i", (), refit=refit)
    whole = Store(tmp_path / "i")
    kept = np.setdiff1d(np.arange(len(WEIGHED)), [1, 5, 45])
    np.testing.assert_allclose(whole.features["weights"], WEIGHTS[kept], atol=1e-6)
    assert store.plan.weighted
    built = proponent.open(tmp_path / "i")
    plain = proponent.build(
        news.run, [tiny.NEWS[row] for row in kept], tmp_path / "plain", method, quiet=True
    )  # fmt: skip
    want = plain.scores([QUERY], ["World"])[0] * WEIGHTS[kept]
    np.testing.assert_allclose(built.scores([QUERY], ["World"])[0], want, rtol=1e-3, atol=1e-9)


def test_a_language_model_is_trained_and_indexed_with_weights(tmp_path: Path) -> None:
    weights = GENERATOR.uniform(0.1, 2.0, len(tiny.LINES))
    rows = [row | {"weight": weight} for row, weight in zip(tiny.LINES, weights, strict=True)]
    run = train(read(rows, columns=COLUMN), tmp_path / "run", tiny.SETTINGS)
    twice = [row | {"weight": 2.0} for row in tiny.LINES]
    first, second = (
        proponent.build(run, some, tmp_path / str(number), "tracin-we", columns=COLUMN, quiet=True)
        for number, some in enumerate((rows, twice))
    )
    asked = [{"text": "the cup of the ", "target": "goal said cup"}]
    np.testing.assert_allclose(first.scores(asked)[0], second.scores(asked)[0] / 2 * weights, rtol=1e-4, atol=1e-12)


def test_a_weighted_run_refuses_data_without_its_weights(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="--weight-column weight"):
        proponent.build(run, data, tmp_path / "i", quiet=True)
    problem = RunProblem(Run.from_pretrained(run), list(read(data)), [], "fresh", 24)
    with pytest.raises(MismatchError, match="--weight-column weight"):
        problem.losses(Run.from_pretrained(run).load(Run.from_pretrained(run).checkpoints[0]), np.arange(2))


def test_a_retraining_weighs_as_the_training_did(run: Path, data: Path) -> None:
    opened, examples = Run.from_pretrained(run), read(data, columns=COLUMN)
    model = opened.load(opened.checkpoints[-1])
    weighed = RunProblem(opened, list(examples), [], "fresh", 24)
    plain = [Example(one.id, one.row, one.text, one.label, weight=2.0) for one in examples]
    twice = RunProblem(opened, plain, [], "fresh", 24)
    rows = np.arange(9)
    losses = twice.losses(model, rows) / 2
    torch.testing.assert_close(
        weighed.losses(model, rows), losses * torch.as_tensor(WEIGHTS[rows], dtype=torch.float32)
    )
    assert weighed.identity != twice.identity


def test_a_replay_of_a_weighted_training_ends_at_its_weights(data: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    examples = read(data, columns=COLUMN)
    opened = train(examples, tmp_path / "run", replace(tiny.SETTINGS, replay=True, adam_epsilon=1e-3))
    labels = [opened.label_number(one.label) for one in examples if one.label is not None]
    assert Replay(opened, list(examples), labels, max_length=24, quiet=True).deviation() < 1e-3
    other = [Example(one.id, one.row, one.text, one.label, weight=2.0) for one in examples]
    with pytest.raises(MismatchError, match="replay"):
        Replay(opened, other, labels, max_length=24, quiet=True).deviation()
    with pytest.raises(MismatchError, match="example weights"):
        Replay(opened, list(read(data)), labels, max_length=24, quiet=True)


def test_weights_of_one_are_a_plain_training(data: Path, tmp_path: Path) -> None:
    rows = [{"id": one.id, "text": one.text, "label": one.label, "weight": 1.0} for one in read(data)]
    ones = tiny.write_csv(tmp_path / "ones.csv", rows)
    opened = train(read(ones, columns=COLUMN), tmp_path / "run", tiny.SETTINGS)
    problem = RunProblem(opened, list(read(ones, columns=COLUMN)), [], "fresh", 24)
    plain = RunProblem(opened, list(read(ones)), [], "fresh", 24)
    model = opened.load(opened.checkpoints[-1])
    torch.testing.assert_close(problem.losses(model, np.arange(5)), plain.losses(model, np.arange(5)))
