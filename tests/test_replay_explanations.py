"""`proponent explain RUN --method replay`: answers like those of other methods, and refusals where it says nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import runs
import test_replay
import tiny
from proponent.data import read
from proponent.dynamics.derivative import Smoothness
from proponent.dynamics.explain import explain_run
from proponent.dynamics.loops import Query
from proponent.dynamics.replay_engine import Replay
from proponent.dynamics.several_runs import single_runs
from proponent.errors import InputError
from proponent.method_table import stored_method
from proponent.models import Run
from proponent.types import Example
from proponent.views import Explanation, document

Said = Callable[..., tuple[int, str, str]]
TEXT = "The bank said that profit fell after the vote."


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A smooth run of 20 steps and its data."""
    folder = tmp_path_factory.mktemp("replayed")
    test_replay.made(folder / "run", max_steps=20, save_steps=20)
    return folder / "run", tiny.write_csv(folder / "train.csv", runs.ROWS)


def test_an_answer_is_that_of_every_method(recorded: tuple[Path, Path], tmp_path: Path, said: Said):
    run, data = recorded
    words = ["explain", run, TEXT, "--method", "replay", "--data", data, "-k", 3]
    code, out, err = said(*words, "--json", "--html", tmp_path / "page.html")
    assert code == 0, err
    assert "smoothness 1.0" in err
    content = json.loads(out)
    answer = Explanation.from_dict(content)
    assert answer.method == "replay"
    assert answer.query.label == answer.query.predicted
    names = [row["id"] for row in runs.ROWS]
    labels = [runs.LABELS.index(row["label"]) for row in runs.ROWS]
    work = Replay(Run.from_pretrained(run), list(read(data)), labels, quiet=True)
    found = work.derivative([Query(Example("q", 0, TEXT), runs.LABELS.index(str(answer.query.label)))])
    order = np.argsort(-found.scores[0], kind="stable")
    assert [hit.id for hit in answer.proponents] == [names[row] for row in order[:3] if found.scores[0, row] > 0]
    assert [hit.id for hit in answer.opponents] == [names[row] for row in order[::-1][:3] if found.scores[0, row] < 0]
    for hit in (*answer.proponents, *answer.opponents):
        assert hit.score == pytest.approx(found.scores[0, hit.row], rel=1e-4)
        assert hit.label == runs.ROWS[hit.row]["label"]
        assert sum(word.share for word in hit.words) == pytest.approx(
            sum(found.of_words(0, hit.row).values()), rel=1e-3, abs=1e-9
        )
        assert {word.query_word for word in hit.words} == {""}
        for word in hit.words:
            assert all(hit.text[a:b] == word.train_word for a, b in word.train_spans)
    assert any("need not sum to the score" in note for note in answer.notes)
    assert set(answer.baselines) == {"bm25", "label", "random"}
    assert "need not sum" in (tmp_path / "page.html").read_text()
    code, out, err = said(*words, "--label", "Sports")
    assert code == 0, err
    assert "Why Sports?" in out
    assert "→" not in out, "no word of the query stands against a word of the training text"


def test_several_queries_share_a_replay(recorded: tuple[Path, Path]):
    run, data = recorded
    queries = [Example("a", 0, TEXT, "World"), Example("b", 1, "The cup and the coach!", "Sports")]
    opened, examples = Run.from_pretrained(run), read(data)
    both = explain_run(opened, examples, queries, k=2, quiet=True, baselines=False)
    alone = explain_run(opened, examples, queries[1:], k=2, quiet=True, baselines=False)[0]
    assert [one.query.label for one in both] == ["World", "Sports"]
    assert [hit.id for hit in both[1].proponents] == [hit.id for hit in alone.proponents]
    assert both[0].baselines == {}
    assert document(*both).count("need not sum") >= 2


def test_joined_runs_are_replayed_one_by_one(recorded: tuple[Path, Path], tmp_path: Path):
    run, data = recorded
    other = test_replay.made(tmp_path / "other", max_steps=20, save_steps=20, seed=5)
    examples, queries = read(data), [Example("a", 0, TEXT, "World")]
    singles = [Run.from_pretrained(one) for one in (run, other)]
    how = {"k": 60, "quiet": True, "baselines": False}
    (both,) = explain_run(Run.join(singles), examples, queries, **how)
    total: dict[str, float] = {}
    for one in singles:
        (answer,) = explain_run(one, examples, queries, **how)
        for hit in (*answer.proponents, *answer.opponents):
            total[hit.id] = total.get(hit.id, 0.0) + hit.score
    found = {hit.id: hit for hit in (*both.proponents, *both.opponents)}
    assert found
    for name, hit in found.items():
        assert hit.score == pytest.approx(total[name], rel=1e-4, abs=1e-9)
    assert "scores are summed over 2 runs" in both.notes
    assert both.checkpoints[0].rule.endswith("in each of 2 runs")
    assert [one.path for one in single_runs(Run.join(singles))] == [run, other]
    with pytest.raises(InputError, match="was given twice"):
        Run.join([singles[0], Run.from_pretrained(run)])


def test_a_language_model_is_explained_too(tmp_path: Path):
    folder = test_replay.made(tmp_path / "run", lm=True, max_steps=10, save_steps=10)
    rows = read([{"id": row["id"], "text": row["text"]} for row in runs.ROWS])
    run = Run.from_pretrained(folder)
    answer = explain_run(run, rows, [Example("q", 0, TEXT)], k=1, quiet=True)[0]
    assert answer.query.label is None
    assert answer.proponents[0].score > 0
    with pytest.raises(InputError, match="has no labels"):
        explain_run(run, rows, [Example("q", 0, TEXT, "World")], quiet=True)


def test_a_training_that_is_not_smooth_is_not_ranked(tmp_path: Path, said: Said):
    hard = {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.6, "max_grad_norm": 0.0}
    run = test_replay.made(tmp_path / "run", max_steps=40, save_steps=40, **hard)
    data = tiny.write_csv(tmp_path / "train.csv", runs.ROWS)
    code, out, err = said("explain", run, TEXT, "--method", "replay", "--data", data)
    assert (code, out) == (2, "")
    assert "is not smooth" in err or "rounding errors grew too large" in err
    assert "--adam-epsilon" in err
    assert "--learning-rate" in err


@pytest.mark.parametrize(
    ("ratio", "off", "smooth"),
    [(1.0, 0.0, True), (1.4, 0.0, True), (3.4, 0.0, False), (0.2, 0.0, False), (1.0, 2.0, False)],
)
def test_smooth_is_said_of_ratio_and_error(ratio: float, off: float, smooth: bool):
    derivative = np.asarray([1.0, -1.0])
    one = Smoothness((0, 1), 0.01, derivative, ratio * derivative + off * np.asarray([1.0, 1.0]))
    assert one.ratio == pytest.approx(ratio)
    assert one.smooth == smooth


def test_the_doctor_says_whether_a_recorded_run_is_smooth(recorded: tuple[Path, Path], tmp_path: Path, said: Said):
    run, data = recorded
    code, out, err = said("check", run, data, "--json")
    assert code == 0, err
    found = {one["name"]: one["value"] for one in json.loads(out)["findings"]}
    assert found["replay of the training"].startswith("smooth: smoothness 1.0")
    other = tiny.write_csv(tmp_path / "other.csv", runs.rows(24, seed=3))
    code, out, err = said("check", run, other, "--json")
    assert code == 0, err
    found = {one["name"]: one["value"] for one in json.loads(out)["findings"]}
    assert "used other tokens" in found["replay of the training"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "replay"], "needs --data DATA"),
        (["--method", "tracin-we"], "an index already has a method"),
        (["--data", "x.csv"], "--data is only for --method replay"),
        (["--method", "replay", "--data", "x.csv", "--against", "World"], "does not support --against"),
    ],
)
def test_words_that_do_not_go_together(recorded: tuple[Path, Path], said: Said, words: list[str], message: str):
    code, out, err = said("explain", recorded[0], TEXT, *words)
    assert (code, out) == (2, "")
    assert message in err


def test_a_missing_record_is_named(recorded: tuple[Path, Path], tmp_path: Path, said: Said):
    run, data = recorded
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / "proponent_replay" / "initial.safetensors").unlink()
    code, _, err = said("explain", bare, TEXT, "--method", "replay", "--data", data)
    assert code == 2
    assert "proponent_replay/initial.safetensors is missing" in err


def test_replay_is_listed_and_is_no_method_of_an_index(said: Said):
    code, out, _ = said("methods", "--json")
    assert code == 0
    assert "replay" in {one["method"] for one in json.loads(out)["methods"]}
    with pytest.raises(InputError, match="proponent explain RUN TEXT --method replay"):
        stored_method("replay")
