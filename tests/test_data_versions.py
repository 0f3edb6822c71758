"""Two versions of a training set are trained again and compared on the same rows."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import runs
import tiny
from proponent import Example, Run
from proponent.actions.data_versions import changed, compare_versions
from proponent.errors import InputError, LabelError
from proponent.training.loop import TrainingLoop
from proponent.training.rerun import RunProblem, settings_of_run, starting_weights

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(news: tiny.Tiny) -> Run:
    return Run.from_pretrained(news.run)


def examples(rows: list[dict[str, str]]) -> list[Example]:
    return [Example(one["id"], at, one["text"], one["label"]) for at, one in enumerate(rows)]


BEFORE = examples([dict(one) for one in tiny.NEWS])
TEST = examples([one | {"id": f"t{at}"} for at, one in enumerate(runs.rows(12, seed=9))])


def spoilt(count: int) -> list[Example]:
    """The first rows have the next class."""
    names = ("Business", "Sports", "World")
    return [
        replace(one, label=names[(names.index(str(one.label)) + 1) % 3]) if at < count else one
        for at, one in enumerate(BEFORE)
    ]


def test_figures_are_those_of_trainings_by_hand(run: Run) -> None:
    page = compare_versions(run, spoilt(40), BEFORE, TEST, seeds=2)
    settings = settings_of_run(run).settings
    names = [str(one) for one in run.label_names or ()]
    truth = np.array([names.index(str(one.label)) for one in TEST])
    found = {}
    for name, rows in (("before", spoilt(40)), ("after", BEFORE)):
        right, loss = [], []
        for seed in (0, 1):
            problem = RunProblem(run, rows, TEST, starting_weights(run, None), run.length(None))
            out = TrainingLoop(problem, settings)(np.arange(len(rows)), seed)
            right.append(out.log_odds.argmax(1) == truth)
            loss.append(out.loss)
        found[name] = (float(np.mean(right)), float(np.mean(loss)))
    rows = {one.method: {figure.name: figure for figure in one.figures} for one in page.rows}
    for name in ("before", "after"):
        assert rows[name]["accuracy"].value == pytest.approx(found[name][0])
        assert rows[name]["loss"].value == pytest.approx(found[name][1], rel=1e-5)
    gap = rows["after minus before"]
    assert gap["accuracy"].value == pytest.approx(found["after"][0] - found["before"][0])
    assert gap["loss"].value is not None
    assert gap["loss"].value < 0, "true labels teach more than wrong ones"
    assert gap["loss"].low < gap["loss"].value < gap["loss"].high  # type: ignore[operator]
    facts = dict(page.facts)
    assert facts["rows"] == "60 before, 60 after: 0 gone, 0 new, 40 changed"
    assert facts["accuracy by seed"].count(",") == 2


def test_what_changed_is_counted() -> None:
    after = [*BEFORE[2:], Example("new", 99, "a new text", "World")]
    after[0] = replace(after[0], label="World" if after[0].label != "World" else "Sports")
    assert changed(BEFORE, after) == (2, 1, 1)
    assert changed(BEFORE, list(reversed(BEFORE))) == (0, 0, 0)


def test_what_cannot_be_compared_is_refused(run: Run) -> None:
    with pytest.raises(InputError, match="same rows and labels"):
        compare_versions(run, BEFORE, list(BEFORE), TEST)
    with pytest.raises(InputError, match="the test set is empty"):
        compare_versions(run, BEFORE, BEFORE[1:], [])
    with pytest.raises(InputError, match="id t0 has no label"):
        compare_versions(run, BEFORE, BEFORE[1:], [replace(TEST[0], label=None)])
    with pytest.raises(LabelError, match="Weather"):
        compare_versions(run, BEFORE, BEFORE[1:], [replace(TEST[0], label="Weather")])
    with pytest.raises(InputError, match="0 seeds"):
        compare_versions(run, BEFORE, BEFORE[1:], TEST, seeds=0)


def test_a_language_model_is_compared_by_its_loss(lines: tiny.Tiny) -> None:
    rows = [Example(one["id"], at, one["text"], target=one["target"]) for at, one in enumerate(lines.rows)]
    page = compare_versions(Run.from_pretrained(lines.run), rows, rows[10:], rows[:4], seeds=1)
    assert page.columns == ("loss",)
    assert dict(page.facts)["noise of retraining"] == "unknown: one seed"
    assert dict(page.facts)["rows"] == "20 before, 10 after: 10 gone, 0 new, 0 changed"


def test_the_command(said: Said, news: tiny.Tiny, tmp_path: Path) -> None:
    kept = tiny.write_csv(tmp_path / "after.csv", news.rows[4:])
    test = tiny.write_csv(
        tmp_path / "test.csv", [one | {"id": f"t{at}"} for at, one in enumerate(runs.rows(9, seed=9))]
    )
    words = ["compare", news.run, news.data, kept, "--test", test, "--seeds", 1]
    code, out, err = said(*words, "--json", "--quiet", "--out", tmp_path / "page.md")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [one["method"] for one in found["rows"]] == ["before", "after", "after minus before"]
    assert "4 gone" in (tmp_path / "page.md").read_text(encoding="utf-8")
    code, _, err = said("compare", news.run, news.data, kept, "--test", news.data)
    assert code == 2
    assert "also trained on" in err
