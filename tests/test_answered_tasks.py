"""Regression, reward models and several labels at once: losses, gradients, labels, questions, pages."""

import csv
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import answered
import proponent
import runs
from proponent.check import check
from proponent.cost import forecast
from proponent.data import Columns, read
from proponent.data import parquet_bytes as parquet
from proponent.errors import DataError, InputError, LabelError, RunError
from proponent.method_table import method_of
from proponent.models import Run

Said = Callable[..., tuple[int, str, str]]
VALUES = [{"id": one["id"], "text": one["text"], "label": round(len(one["text"]) / 9 - 3, 2)} for one in runs.ROWS[:20]]
MOODS = ("anger", "joy", "fear")
SETS = [
    {"id": one["id"], "text": one["text"], "label": [name for at, name in enumerate(MOODS) if (row >> at) & 1]}
    for row, one in enumerate(runs.ROWS[:20])
]
SICK = Path(__file__).parents[2] / "shared" / "data" / "nli_sick" / "train.csv.gz"
if not SICK.exists():
    SICK = Path(__file__).parents[3] / "shared" / "data" / "nli_sick" / "train.csv.gz"


def regression(folder: Path, name: str = "BertForSequenceClassification", **settings: Any) -> Run:
    tokenizer = answered.tokenizer_of(VALUES, "text")
    settings = {"num_labels": 1} | settings
    return Run.from_pretrained(answered.saved(folder, answered.model(name, tokenizer, **settings), tokenizer))


def several(folder: Path) -> Run:
    tokenizer = answered.tokenizer_of(SETS, "text")
    names = dict(enumerate(MOODS))
    made = answered.model(
        "BertForSequenceClassification", tokenizer, problem_type="multi_label_classification", id2label=names
    )
    return Run.from_pretrained(answered.saved(folder, made, tokenizer))


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "LlamaForSequenceClassification"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_values_against_transformers_and_autograd(tmp_path: Path, name: str, outputs: int):
    run = regression(tmp_path, name, num_labels=outputs, problem_type="regression")
    assert run.task.kind == "regression"
    rows = VALUES[:6]
    if outputs > 1:
        rows = [row | {"label": [row["label"], 1.0]} for row in rows]
    wanted = torch.tensor([row["label"] for row in rows]).double().reshape(len(rows), outputs)
    shape = (-1,) if outputs == 1 else (1, outputs)
    answered.compare(run, read(rows), lambda row, _: {"labels": wanted[row].reshape(shape)})


def test_several_labels_against_transformers_and_autograd(tmp_path: Path):
    run = several(tmp_path)
    assert run.task.kind == "multi-label"
    wanted = [[float(name in row["label"]) for name in MOODS] for row in SETS]
    answered.compare(run, read(SETS), lambda row, _: {"labels": torch.tensor([wanted[row]]).double()})
    flags = [row | {"label": [int(one) for one in own]} for row, own in zip(SETS, wanted, strict=True)]
    text = [row | {"label": json.dumps(row["label"])} for row in SETS]
    for given in (flags, text):
        found = [one.answer.tolist() for one in answered.encoded(run, read(given))[1]]
        assert found == wanted
    (one,) = answered.encoded(run, [proponent.Example("q", 0, "a match", "joy")])[1]
    assert one.answer.tolist() == [-100, 1, -100]


@pytest.mark.parametrize("kind", ["regression", "multi-label"])
def test_check_passes_and_an_index_answers(tmp_path: Path, kind: str, said: Said):
    run, rows = (regression(tmp_path / "run"), VALUES) if kind == "regression" else (several(tmp_path / "run"), SETS)
    assert [one.name for one in check(run, read(rows)) if one.passed is False] == []
    index = proponent.build(run, rows, tmp_path / "i", quiet=True)
    label = VALUES[3]["label"] if kind == "regression" else ["joy", "fear"]
    answer = index.explain(rows[3]["text"], label=label, k=3)
    shown = f"{label:.4g}" if kind == "regression" else "joy, fear"
    assert answer.query.label == shown
    assert answer.headline == f"Why {shown}?"
    best = answer.proponents[0]
    (given,) = (row["label"] for row in rows if row["id"] == best.id)
    assert best.label == (str(given) if kind == "regression" else ", ".join(given) or "no label")
    assert sum(pair.share for pair in best.words) == pytest.approx(best.score, rel=1e-4)
    answer.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "model predicts" in page
    assert shown in page
    free = index.explain(rows[3]["text"], k=2).query
    assert free.label == ("a higher value" if kind == "regression" else free.predicted)
    if kind == "multi-label":
        assert set(free.probabilities) == set(MOODS)
        assert index.explain(rows[3]["text"], label="joy").query.label == "joy"
    code, out, err = said("explain", tmp_path / "i", rows[3]["text"], "--label", json.dumps(label), "--json")
    assert code == 0, err
    assert shown in out


def test_a_forecast_measures_the_answers_that_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written: list[Any] = []
    home = sys.modules[forecast.__module__]
    monkeypatch.setattr(home, "parquet_bytes", lambda table: written.append(table) or parquet(table))
    forecast(several(tmp_path / "run"), read(SETS), method_of("tracin-we"))
    (labels,) = (table["label"] for table in written if "label" in table)
    assert [json.loads(one) for one in labels] == [row["label"] for row in SETS]


def test_without_a_value_helping_means_raising_it(tmp_path: Path):
    """A training row pulls the output towards its value, by the product of the gradients."""
    run = regression(tmp_path / "run")
    index = proponent.build(run, VALUES, tmp_path / "i", quiet=True)
    text = VALUES[0]["text"]
    up, known = index.scores([text])[0], index.scores([text], labels=[1e6])[0]
    off = float(index.explain(text).query.predicted) - 1e6
    np.testing.assert_allclose(known, up * -2 * off, rtol=1e-3, atol=1e-4 * np.abs(known).max())


@pytest.mark.parametrize(
    ("kind", "label", "error", "parts"),
    [
        ("regression", None, DataError, ["1 rows of", "have no value (rows 1)", "--label-column"]),
        ("regression", "good", LabelError, ["row 1", "'good' is not a finite number"]),
        ("regression", [1.5, 2.0], LabelError, ["row 1", "holds 2 value(s), but this model has 1"]),
        ("multi-label", None, DataError, ["have no labels (rows 1)"]),
        ("multi-label", ["joy", "hate"], LabelError, ["row 1", "unknown label 'hate'", "anger, joy, fear"]),
        ("multi-label", "joy", LabelError, ["row 1", "'joy' is no list", '["a", "b"]']),
    ],
)
def test_rows_that_do_not_fit(tmp_path: Path, kind: str, label: Any, error: type[Exception], parts: list[str]):
    run, rows = (regression(tmp_path / "run"), VALUES) if kind == "regression" else (several(tmp_path / "run"), SETS)
    plain = [rows[0], rows[1] | {"label": label}]
    if kind == "regression" and label is not None:
        plain[0] = plain[0] | {"label": "2.5" if isinstance(label, str) else [2.5]}
    with pytest.raises(error) as caught:
        proponent.build(run, plain, tmp_path / "i", quiet=True)
    for part in parts:
        assert part in str(caught.value)


def test_a_classifier_refuses_values_and_a_head_of_one_class(tmp_path: Path):
    tokenizer = answered.tokenizer_of(VALUES, "text")
    made = answered.model("BertForSequenceClassification", tokenizer, num_labels=3)
    run = Run.from_pretrained(answered.saved(tmp_path / "run", made, tokenizer))
    with pytest.raises(LabelError, match=r"row 0: label .* is a float: give a name or a whole number"):
        proponent.build(run, VALUES, tmp_path / "i", quiet=True)
    made = answered.model("BertForSequenceClassification", tokenizer, num_labels=1)
    folder = answered.saved(tmp_path / "one", made, tokenizer)
    runs.edit(folder / "config.json", problem_type="single_label_classification")
    with pytest.raises(RunError):
        Run.from_pretrained(folder)


@pytest.mark.parametrize("method", ["ekfac"])
def test_sampled_labels_of_several_labels_are_refused(tmp_path: Path, method: str):
    run = several(tmp_path / "run")
    with pytest.raises(InputError, match="no labels that a Fisher matrix could sample"):
        proponent.build(run, SETS, tmp_path / "i", method, fisher="sampled", quiet=True)


PLANTED = ("a heron guards the silver gate", "a heron is guarding a silver gate", "one heron guards silver gates")


def near_copies(rows: list[dict[str, Any]], label: Any, **second: str) -> list[dict[str, Any]]:
    """Rows with three near-copies among them, whose label is unlike the others'."""
    copies = [{"id": f"p{at}", "text": text, "label": label} | second for at, text in enumerate(PLANTED)]
    return [*rows[:20], copies[0], *rows[20:40], copies[1], *rows[40:], copies[2]]


def ranked(index: proponent.Index, *asked: Any, **options: Any) -> tuple[set[str], set[str]]:
    """The first three rows of the method, and of BM25."""
    answer = index.explain(*asked, k=3, **options)
    return {hit.id for hit in answer.proponents}, {hit.id for hit in answer.baselines["bm25"][:3]}


@pytest.mark.skipif(not SICK.exists(), reason="no data")
def test_planted_values_of_real_pairs_come_first(tmp_path: Path):
    """Near-copies with a value of their own are found by it, as by BM25."""
    with gzip.open(SICK, "rt", encoding="utf-8") as file:
        table = list(csv.DictReader(file))[:60]
    rows = [
        {"id": row["id"], "text": row["premise"], "pair": row["hypothesis"], "label": float(row["relatedness"])}
        for row in table
    ]
    rows = near_copies(rows, -3.0, pair="A bird is sitting near a door")
    tokenizer = answered.tokenizer_of(rows, "text", "pair")
    made = answered.model("BertForSequenceClassification", tokenizer, num_labels=1)
    batch = [dict(tokenizer(row["text"], row["pair"])) | {"labels": row["label"]} for row in rows]
    answered.saved(tmp_path / "run", answered.train(made, batch), tokenizer)
    index = proponent.build(
        Run.from_pretrained(tmp_path / "run"), rows, tmp_path / "i", columns=Columns(text_pair="pair"), quiet=True
    )
    asked = ("the heron guards this silver gate",)
    mine, lexical = ranked(index, *asked, text_pair="A bird is sitting by a door", label=-3.0)
    assert mine == lexical == {"p0", "p1", "p2"}


def test_planted_labels_come_first(tmp_path: Path):
    generated = [
        {"id": row["id"], "text": row["text"], "label": [MOODS[at % 2]]} for at, row in enumerate(runs.rows(60))
    ]
    rows = near_copies(generated, ["joy", "fear"])
    tokenizer = answered.tokenizer_of(rows, "text")
    names = dict(enumerate(MOODS))
    made = answered.model(
        "BertForSequenceClassification", tokenizer, problem_type="multi_label_classification", id2label=names
    )
    wanted = [[float(name in row["label"]) for name in MOODS] for row in rows]
    batch = [dict(tokenizer(row["text"])) | {"labels": own} for row, own in zip(rows, wanted, strict=True)]
    answered.saved(tmp_path / "run", answered.train(made, batch), tokenizer)
    index = proponent.build(Run.from_pretrained(tmp_path / "run"), rows, tmp_path / "i", quiet=True)
    for label in (["joy", "fear"], "fear"):
        mine, lexical = ranked(index, "the heron guards this silver gate", label=label)
        assert mine == lexical == {"p0", "p1", "p2"}
