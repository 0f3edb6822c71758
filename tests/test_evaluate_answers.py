"""Evaluation by retraining of tasks whose answer is no class: values, several labels, tags, places in a text."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import answered
import proponent
import test_answered_tasks as values
import test_places as places
from proponent.data import Columns, read
from proponent.errors import DataError, InputError
from proponent.evaluate.experiment import EvaluationRequest, Experiment, with_noise
from proponent.evaluate.label_noise import plant
from proponent.models import Run
from proponent.training.rerun import FRESH, RunProblem, settings_of_run
from proponent.types import Example

QUESTIONS = Columns(text="question", text_pair="context", label="answers")
KINDS: dict[str, tuple[Callable[[Path], Run], list[dict[str, Any]], Columns]] = {
    "regression": (values.regression, values.VALUES, Columns()),
    "multi-label": (values.several, values.SETS, Columns()),
    "token-classification": (lambda at: places.run_of(at, "token-classification"), places.WORDS, Columns()),
    "question-answering": (lambda at: places.run_of(at, "question-answering"), places.QUESTIONS, QUESTIONS),
}


def request_of(kind: str, folder: Path) -> EvaluationRequest:
    make, rows, columns = KINDS[kind]
    train, asked = (read(some, columns=columns) for some in (rows[4:], rows[:4]))
    return EvaluationRequest(
        make(folder / "run"), train, list(asked), folder / "cache", initial=FRESH, changes={"epochs": 2}, quiet=True
    )


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_an_index_of_the_rows_with_their_answers(kind: str, tmp_path: Path):
    request = request_of(kind, tmp_path)
    subject = Experiment(replace(request, methods=("tracin-we",)))
    found = subject.method_scores()["tracin-we"]
    rows, columns = KINDS[kind][1:]
    how = {"columns": columns, "max_length": subject.problem.max_length, "quiet": True}
    index = proponent.build(subject.scored_runs[0], rows[4:], tmp_path / "index", "tracin-we", **how)
    assert found.shape == (4, len(rows) - 4)
    assert np.abs(found).max() > 0
    np.testing.assert_allclose(found, index.scores(list(read(rows[:4], columns=columns))), rtol=1e-6)
    unanswered = [replace(one, label=None) for one in read(rows[:4], columns=columns)]
    assert not np.allclose(found, index.scores(unanswered)), "a question's own answer counts"


@pytest.mark.parametrize("kind", KINDS)
def test_halves_are_retrained_and_compared(kind: str, tmp_path: Path, said: Callable[..., tuple[int, str, str]]):
    rows, columns = KINDS[kind][1:]
    request_of(kind, tmp_path)
    train, asked = tmp_path / "train.jsonl", tmp_path / "asked.jsonl"
    for path, some in ((train, rows[4:]), (asked, rows[:4])):
        path.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    code, out, err = said(
        "evaluate", tmp_path / "run", train, "--queries", asked, "--metric", "lds", "--methods", "tracin-we",
        "--subsets", 20, "--seeds", 1, "--initial", "fresh", "--set", "epochs=1", "--cache", tmp_path / "cache",
        "--text-column", columns.text, "--pair-column", columns.text_pair, "--label-column", columns.label, "--json",
    )  # fmt: skip
    assert code == 0, err
    assert "tracin-we" in out


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_an_answer_is_named(kind: str, tmp_path: Path):
    request = request_of(kind, tmp_path)
    rows = [replace(one, label=None) if at == 2 else one for at, one in enumerate(request.train)]
    problem = RunProblem(request.run, rows, list(request.queries or ()), FRESH, answered.LONGEST)
    with pytest.raises(DataError, match=r"1 rows of the training set have no .* \(rows 2\)"):
        problem.losses(problem.fresh(0), np.arange(3))


def test_a_batch_of_tagged_texts_has_the_loss_of_a_trainer(tmp_path: Path):
    request = request_of("token-classification", tmp_path)
    problem = RunProblem(request.run, list(request.train), list(request.queries or ()), FRESH, answered.LONGEST)
    model = problem.fresh(0).eval()
    rows = places.WORDS[4:9]
    assert len({len(row["tokens"]) for row in rows}) > 1, "a mean over rows would be the same"
    made = [places.labels_of_words(row) for row in rows]
    longest = max(len(ids) for ids, _ in made)
    batch = {
        "input_ids": [[*ids, *[0] * (longest - len(ids))] for ids, _ in made],
        "attention_mask": [[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in made],
        "labels": [[*labels, *[-100] * (longest - len(ids))] for ids, labels in made],
    }
    theirs = model(**{name: torch.tensor(value) for name, value in batch.items()}).loss
    ours = problem.losses(model, np.arange(5)).mean()
    assert abs(float(ours.detach()) - float(theirs.detach())) <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_labels_are_planted_among_classes_only(kind: str, tmp_path: Path):
    with pytest.raises(InputError, match=f"planted among classes, and .* is a {kind} model"):
        with_noise(request_of(kind, tmp_path), 0.2)


def test_a_planted_label_is_written_as_the_others():
    rows = [Example(str(at), at, f"text {at}", label=at % 3) for at in range(30)]
    noisy, wrong = plant(rows, 0.2)
    assert wrong.sum() == 6
    assert all(isinstance(one.label, int) for one in noisy)
    assert all((one.label != at % 3) == flip for at, (one, flip) in enumerate(zip(noisy, wrong, strict=True)))


def test_a_method_that_no_index_stores_is_refused_before_any_training(tmp_path: Path):
    with pytest.raises(InputError, match="replay cannot be used in an index"):
        Experiment(replace(request_of("regression", tmp_path), methods=("tracin-we", "replay")))


def test_a_checkpoint_of_a_recorded_run_is_trained_again_like_the_run(bert_run: Path):
    whole, last = (Run.from_pretrained(one) for one in (bert_run, sorted(bert_run.glob("checkpoint-*"))[-1]))
    assert settings_of_run(last) == settings_of_run(whole)
    assert settings_of_run(last).notes == ("recorded by proponent.Recorder",)


def test_given_weights_are_not_said_to_be_drawn(bert_run: Path, tmp_path: Path):
    request = request_of("regression", tmp_path)
    held = json.loads((bert_run / "proponent_run.json").read_text())
    record = held | {"initial": None, "trained_before": False}
    (tmp_path / "run" / "proponent_run.json").write_text(json.dumps(record))
    run = Run.from_pretrained(tmp_path / "run")
    said = [Experiment(replace(request, run=run, initial=one)).notes for one in (None, str(tmp_path / "run"))]
    assert [any("drawn from the configuration" in note for note in notes) for notes in said] == [True, False]


def test_weighted_rows_have_an_index_of_their_own(tmp_path: Path):
    request = replace(request_of("regression", tmp_path), methods=("tracin-we",))
    plain = Experiment(request).method_scores()["tracin-we"]
    heavy = [replace(one, weight=2.0 if at == 3 else 1.0) for at, one in enumerate(request.train)]
    subject = Experiment(replace(request, train=heavy))
    found = subject.method_scores()["tracin-we"]
    assert (subject.scored_runs[0].path / "indexes" / "tracin-we-weighted").is_dir()
    assert found.shape == plain.shape
    assert not np.allclose(found, plain)


def test_every_row_without_labels_is_counted(tmp_path: Path):
    rows = [{"id": str(at), "text": row["text"]} for at, row in enumerate(values.SETS)]
    with pytest.raises(DataError, match=r"20 rows of .* have no labels \(rows 0, 1, 2, 3, 4\)"):
        proponent.build(values.several(tmp_path / "run"), rows, tmp_path / "index", quiet=True)


@pytest.mark.parametrize("kind", ["regression", "multi-label", "token-classification", "question-answering"])
def test_spans_and_second_classes_are_refused_with_the_name_of_the_task(kind: str, tmp_path: Path):
    request = request_of(kind, tmp_path)
    rows, columns = KINDS[kind][1:]
    index = proponent.build(request.run, rows[4:], tmp_path / "index", columns=columns, quiet=True)
    asked = next(iter(read(rows[:1], columns=columns)))
    word = asked.parts[-1].split()[0]
    with pytest.raises(
        InputError, match=f"this is a {kind} model, whose loss reads the whole text: leave the span out"
    ):
        index.explain(asked, span=word)
    with pytest.raises(InputError, match=f"compares two classes, and this run is a {kind} model: leave it out"):
        index.explain(asked, against="x")
