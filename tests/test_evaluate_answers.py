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
from proponent.errors import DataError
from proponent.evaluate.experiment import EvaluationRequest, Experiment
from proponent.models import Run
from proponent.training.rerun import FRESH, RunProblem

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
