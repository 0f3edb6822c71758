"""The demo: honest data, an honest story, and a folder that is its own."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from proponent import demo as package
from proponent.actions.label_errors import RANKINGS, label_errors
from proponent.demo import corpus, story
from proponent.errors import DataError, MismatchError
from proponent.store import Store
from proponent.views import Story

Rows = list[corpus.Docstring]


@pytest.fixture(scope="session")
def whole() -> tuple[Rows, Rows]:
    return corpus.docstrings(0.05, seed=0)


def test_every_topic_has_rows(whole: tuple[Rows, Rows]):
    for rows in whole:
        counts = Counter(row.topic for row in rows)
        assert set(counts) == set(corpus.TOPICS)
        assert min(counts.values()) >= len(rows) * 0.02
    assert len(whole[0]) > 1000
    assert len(whole[1]) == (len(whole[0]) + len(whole[1])) // 10


def test_no_module_is_of_two_topics():
    modules = [module for named in corpus.TOPICS.values() for module in named]
    assert len(modules) == len(set(modules))


def test_no_text_and_no_id_stands_twice(whole: tuple[Rows, Rows]):
    rows = [*whole[0], *whole[1]]
    assert len({row.text for row in rows}) == len({row.id for row in rows}) == len(rows)
    assert all(len(row.text.split()) >= corpus.FEWEST_WORDS for row in rows)
    assert all(row.text == " ".join(row.text.split()) for row in rows)


def test_exactly_the_asked_share_is_planted(whole: tuple[Rows, Rows]):
    train, held = whole
    assert sum(row.planted for row in train) == round(0.05 * len(train))
    assert not any(row.planted for row in held)
    assert all(row.label in corpus.TOPICS for row in train)


def test_another_process_reads_the_same_rows(whole: tuple[Rows, Rows]):
    code = f"""
import hashlib, importlib.util, sys
spec = importlib.util.spec_from_file_location("corpus", {corpus.__file__!r})
sys.modules["corpus"] = corpus = importlib.util.module_from_spec(spec)
spec.loader.exec_module(corpus)
print(hashlib.sha256(repr(corpus.docstrings(0.05, seed=0)).encode()).hexdigest())
"""
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(repr(whole).encode()).hexdigest()


def test_the_seed_decides(whole: tuple[Rows, Rows], monkeypatch: pytest.MonkeyPatch):
    found = sorted((replace(row, label=row.topic) for part in whole for row in part), key=lambda row: row.id)
    monkeypatch.setattr(corpus, "_read", lambda: iter(found))
    one, again, other = (corpus.docstrings(0.05, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert [row.id for row in one[0]] != [row.id for row in other[0]]
    assert not any(row.planted for row in corpus.docstrings(0.0, seed=1)[0])
    assert all(row.planted for row in corpus.docstrings(1.0, seed=1)[0])


def test_a_python_without_docstrings_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda _: str(tmp_path))
    (tmp_path / "queue.py").write_text('"""One docstring of ten words is here, and it is all there is."""\n')
    with pytest.raises(DataError, match="has only 1 docstrings"):
        corpus.docstrings(0.05, seed=0)


def test_docstrings_of_tests_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda _: str(tmp_path))
    text = '"""Says something about unit testing in ten words or more, really."""\n'
    for path in ("unittest/__init__.py", "unittest/case.py", "unittest/test/case.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text.replace("Says", path))
    found = {row.id: row for row in corpus._read()}
    assert set(found) == {"unittest", "unittest.case"}
    assert found["unittest.case"].topic == "testing"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, whole: tuple[Rows, Rows]) -> None:
    """Two hundred rows, a narrow model, one pass."""
    train = sorted(whole[0], key=lambda row: (not row.planted, row.id))
    rows = [*train[:10], *train[200:390]]
    monkeypatch.setattr(story, "docstrings", lambda *_, **__: (rows, whole[1][:40]))
    settings = replace(story.TRAINING, epochs=1, width=16, layers=1, max_length=32, vocabulary=800)
    monkeypatch.setattr(story, "TRAINING", settings)


def test_the_demo_tells_its_story_and_can_be_told_again(small: None, tmp_path: Path):
    said: list[str] = []
    folder = tmp_path / "new" / "demo"
    told = package.demo(folder, quiet=True, say=said.append)
    assert isinstance(told, Story)
    assert [line.split(":")[0] for line in said] == ["read docstrings", "train", "index", "explain"]
    assert {entry.name for entry in folder.iterdir()} == {
        "train.csv", "held-out.csv", "run", "demo.index", "story.html", "story.json", story.MARK
    }  # fmt: skip
    page = (folder / "story.html").read_text(encoding="utf-8")
    assert "Where does this output come from?" in page
    assert told.answer.query.predicted is not None
    assert told.answer.query.predicted in page
    with (folder / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 200
    assert sum(row["label"] != row["true_label"] for row in rows) == 10
    assert [one.name for one in told.recall] == [*RANKINGS, "random"]
    assert all(0 <= one.share_in_first_tenth <= 1 for one in told.recall)
    assert len(told.labels.rows) == 25
    assert told.labels.n_examples == 200
    ranked = label_errors(Store(folder / "demo.index"), story.SHOWN).rows
    assert told.labels.flagged == sum(one.is_label_issue for one in ranked)  # of all, not of those on the page
    assert dict(told.facts)["planted label errors"] == "10"
    json.dumps(told.to_dict(), allow_nan=False)
    first = (folder / "demo.index" / "manifest.json").read_bytes()
    package.demo(folder, quiet=True)  # the mark says that this folder may be used again
    assert (
        json.loads(first)["merkle_root"]
        == json.loads((folder / "demo.index" / "manifest.json").read_bytes())["merkle_root"]
    )


def test_the_recall_is_that_of_the_ranking(small: None, tmp_path: Path):
    """The first figure, from the files alone."""
    told = package.demo(tmp_path / "demo", quiet=True)
    with (tmp_path / "demo" / "train.csv").open(encoding="utf-8", newline="") as file:
        planted = [row["label"] != row["true_label"] for row in csv.DictReader(file)]
    ranked = label_errors(Store(tmp_path / "demo" / "demo.index"), story.SHOWN).rows
    found = sum(planted[one.row] for one in ranked[:20])
    assert told.recall[0].share_in_first_tenth == found / 10


@pytest.mark.parametrize("held", [["notes.txt"], ["run"]])
def test_a_folder_that_no_demo_made_is_refused_and_left_alone(small: None, tmp_path: Path, held: list[str]):
    for name in held:
        (tmp_path / name).mkdir()
    with pytest.raises(MismatchError, match="the demo did not create: choose another --out"):
        package.demo(tmp_path, quiet=True)
    assert [entry.name for entry in tmp_path.iterdir()] == held


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MismatchError, match="choose another --out"):
        package.demo(tmp_path / "file", quiet=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_story_without_a_wrong_prediction_is_still_a_story(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(story.Index, "predict", lambda *_: [row.topic for row in story.docstrings(0, 0)[1]])
    told = package.demo(tmp_path / "demo", quiet=True)
    assert "This prediction and all others are correct" in told.lead[1]
