"""Several independently seeded runs behind one index: their scores add up, and hits say in how many runs they hold."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import proponent
import tiny
from explorer import Browser
from proponent.data import read
from proponent.errors import InputError, MismatchError, RunError
from proponent.models import Run
from proponent.store import Store
from proponent.training.trainer import train
from proponent.web.layout import method_line

TEXTS = ["The cup and the bank.", "the treaty after the vote"]
LABELS = ["Sports", "World"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of a tiny run in one folder, as `proponent train --runs 3` leaves them."""
    folder = tmp_path_factory.mktemp("joined")
    data = tiny.write_csv(folder / "train.csv", tiny.NEWS)
    for seed in range(3):
        train(read(data), folder / "runs" / f"seed-{seed}", replace(tiny.SETTINGS, seed=seed))
    return folder


def built(home: Path, run: object, name: str, **options: object) -> proponent.Index:
    return proponent.build(run, home / "train.csv", home / name, quiet=True, **options)  # type: ignore[arg-type]


def test_scores_are_summed_over_runs(home: Path) -> None:
    whole = built(home, home / "runs", "whole").scores(TEXTS, LABELS)
    single = [built(home, home / "runs" / f"seed-{seed}", f"one-{seed}").scores(TEXTS, LABELS) for seed in range(3)]
    assert np.abs(single[0] - single[1]).max() > 1e-6
    assert whole == pytest.approx(np.sum(single, axis=0), rel=1e-6, abs=1e-12)


ONCE: dict[str, dict[str, object]] = {
    "influence-last": {},
    "representer": {},
    "datainf": {"project": 8},
    "ekfac": {"project": 8},
    "trackstar": {"project": 8, "second_moment": "estimate"},
    "fastif": {"layers": "head", "solver": "cg", "damping": 0.1},
}


@pytest.mark.parametrize("method", ONCE)
def test_the_last_checkpoint_of_each_run_counts(home: Path, tmp_path: Path, method: str) -> None:
    folders = [home / "runs" / f"seed-{seed}" for seed in range(2)]

    def of(run: object, name: str) -> proponent.Index:
        return proponent.build(run, home / "train.csv", tmp_path / name, method, quiet=True, **ONCE[method])  # type: ignore[arg-type]

    whole, single = of(folders, "both"), [of(one, one.name) for one in folders]
    expected = np.sum([one.scores(TEXTS, LABELS) for one in single], axis=0)
    assert whole.scores(TEXTS, LABELS) == pytest.approx(expected, rel=1e-6, abs=1e-6 * np.abs(expected).max())
    assert whole.predict(TEXTS) == single[1].predict(TEXTS)
    answer = whole.explain(TEXTS[0], label="Sports", k=3, baselines=False)
    assert [(one.run, one.step) for one in answer.checkpoints] == [
        (run, one.store.plan.checkpoints[-1].id.step) for run, one in enumerate(single)
    ]
    for hit in answer.proponents:
        assert hit.score == pytest.approx(expected[0, hit.row], rel=1e-4)
        parts = [one.scores(TEXTS[:1], LABELS[:1])[0, hit.row] for one in single]
        assert hit.by_run == pytest.approx(parts, rel=1e-3, abs=1e-4 * abs(hit.score))


@pytest.mark.parametrize("nearest", ["signal", "features"])
def test_candidates_are_chosen_over_the_runs(home: Path, tmp_path: Path, nearest: str) -> None:
    """The query is a training text, so that its features are among those of either run's own index."""
    changes = ONCE["fastif"] | {"candidates": 6.0, "nearest": nearest}

    def of(run: object, name: str) -> proponent.Index:
        return proponent.build(run, home / "train.csv", tmp_path / name, "fastif", quiet=True, **changes)  # type: ignore[arg-type]

    folders = [home / "runs" / f"seed-{seed}" for seed in range(2)]
    labels, far, asked = np.asarray([row["label"] for row in tiny.NEWS]), np.zeros(len(tiny.NEWS)), 3
    for one in folders:
        index = of(one, one.name)
        h = index.store.features["pooled"].astype(np.float64)
        unit = np.asarray(index.store.plan.label_names) == labels[:, None]
        error = index.store.features["probabilities"] - unit.astype(np.float64)
        cosine = h @ h[asked] / np.linalg.norm(h, axis=1) / np.linalg.norm(h[asked])
        far += (error @ error[asked]) * cosine if nearest == "signal" else ((h - h[asked]) ** 2).sum(1)
    expected = set(np.argsort(-np.abs(far) if nearest == "signal" else far)[:6].tolist())
    answer = of(folders, "both").explain(tiny.NEWS[asked]["text"], label=str(labels[asked]), k=60, baselines=False)
    hits = {hit.row for hit in (*answer.proponents, *answer.opponents)}
    assert hits <= expected
    assert len(hits) > 3
    assert any(note.startswith("step") and "of run 1: conjugate gradient" in note for note in answer.notes)
    assert any("summed over the checkpoints" in note for note in answer.notes)


def test_a_list_of_runs_is_the_folder_of_runs(home: Path) -> None:
    folders = [home / "runs" / f"seed-{seed}" for seed in range(3)]
    listed = built(home, folders, "listed")
    assert listed.store.plan.joined == [str(one) for one in folders]
    assert listed.scores(TEXTS, LABELS) == pytest.approx(built(home, home / "runs", "whole").scores(TEXTS, LABELS))
    assert proponent.open(home / "listed").scores(TEXTS, LABELS) == pytest.approx(listed.scores(TEXTS, LABELS))
    alone = built(home, folders[:1], "alone")
    assert alone.store.plan.joined == []
    with pytest.raises(InputError, match="no run was given"):
        proponent.build([], home / "train.csv", home / "none")


def test_an_answer_says_in_how_many_runs_a_hit_holds(home: Path, said: Callable[..., tuple[int, str, str]]) -> None:
    answer = built(home, home / "runs", "whole").explain(TEXTS[0], label="Sports", k=3)
    assert [(one.run, one.step) for one in answer.checkpoints] == [
        (run, step) for run in range(3) for step in sorted({one.step for one in answer.checkpoints})
    ]
    for hit in (*answer.proponents, *answer.opponents):
        assert len(hit.by_run) == 3
        assert sum(hit.by_run) == pytest.approx(hit.score, rel=1e-5)
        assert sum(hit.by_checkpoint) == pytest.approx(hit.score, rel=1e-5)
        assert hit.agreeing_runs == sum(part * hit.score > 0 for part in hit.by_run)
    assert f"in {answer.proponents[0].agreeing_runs} of 3 runs" in answer._repr_html_()
    code, out, _ = said("explain", home / "whole", TEXTS[0], "--label", "Sports")
    shown = " ".join(out.split())
    assert code == 0
    assert f"same sign in {answer.proponents[0].agreeing_runs} of 3 runs" in shown
    assert "of run 2" in shown


def test_a_single_run_says_nothing_of_runs(home: Path) -> None:
    answer = built(home, home / "runs" / "seed-0", "one-0").explain(TEXTS[0], label="Sports", k=3)
    assert all(hit.by_run == () for hit in answer.proponents)
    assert "runs</p>" not in answer._repr_html_()


def test_steps_are_chosen_in_every_run(home: Path) -> None:
    run = Run.from_pretrained(home / "runs")
    last = max(one.step for one in Run.from_pretrained(home / "runs" / "seed-0").checkpoints)
    index = built(home, run, "last", steps=(last,))
    assert len(index.store.plan.checkpoints) == 3
    assert {one.id.step for one in index.store.plan.checkpoints} == {last}


def test_a_step_that_one_run_lacks_is_refused(home: Path, tmp_path: Path) -> None:
    """It would be summed over the other runs alone."""
    runs = Path(shutil.copytree(home / "runs", tmp_path / "runs"))
    *others, last = sorted(one.step for one in Run.from_pretrained(runs / "seed-1").checkpoints)
    shutil.rmtree(runs / "seed-1" / f"checkpoint-{last}")
    has = ", ".join(map(str, others))
    with pytest.raises(InputError, match=rf"no checkpoint at step {last} of run 1 in {runs}: it has {has}$"):
        built(home, runs, "lacking", steps=(last,))
    with pytest.raises(InputError, match=rf"no checkpoint at step {last} of run 1 in .*seed-0, .*seed-1: it has"):
        built(home, [runs / "seed-0", runs / "seed-1"], "lacking", steps=(last,))


def test_status_and_notes_name_the_run(home: Path) -> None:
    index, told = built(home, home / "runs", "whole"), list[str]()
    again = proponent.open(home / "whole")
    again.say = told.append
    again.scores(TEXTS[:1], LABELS[:1])
    assert not any("000000" in line for line in told)
    assert any(line.startswith("loading the model of step") and line.endswith("of run 2") for line in told)
    assert any(line.startswith("gradients at step") and " of run 1 (" in line for line in told)
    assert "of run 1 (learning rate" in method_line(index.store.plan)
    assert "000,000" not in method_line(index.store.plan)
    identity, browser = index.store.row(0)["id"], Browser(home / "whole")
    for url in ("/about", f"/example?id={identity}"):
        seen = browser.get(url).seen
        assert "of run 2" in seen
        assert "000,000" not in seen
    runs = [Run.from_pretrained(home / "runs" / f"seed-{seed}") for seed in range(2)]
    odd, same = replace(runs[0], notes=("cut", "alike")), replace(runs[1], notes=("alike",))
    assert Run.join([odd, same]).notes == (f"{odd.path}: cut", "alike")


def test_a_changed_or_missing_run_is_refused(home: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(home / "runs", tmp_path / "runs"))
    built(home, home / "runs", "whole")
    assert proponent.open(home / "whole", run=runs).predict(TEXTS)
    shutil.rmtree(runs / "seed-2")
    with pytest.raises(MismatchError, match=r"weights step \d+ of run 2 is missing"):
        proponent.open(home / "whole", run=runs).predict(TEXTS)
    built(home, [runs / "seed-0", runs / "seed-1"], "two")
    shutil.rmtree(runs / "seed-1")
    with pytest.raises(RunError, match="seed-1, the run that"):
        proponent.open(home / "two").predict(TEXTS)


def test_runs_of_different_things_are_not_joined(home: Path, tmp_path: Path) -> None:
    other = [row | {"label": {"World": "Globe"}.get(row["label"], row["label"])} for row in tiny.NEWS]
    train(read(other), tmp_path / "run", tiny.SETTINGS)
    with pytest.raises(MismatchError, match="cannot be joined: their labels differ"):
        built(home, [home / "runs" / "seed-0", tmp_path / "run"], "mixed")


def test_a_run_that_is_given_twice_is_refused(home: Path) -> None:
    """By its folder, through a link, within a folder of runs, or by one of its checkpoints."""
    run = home / "runs" / "seed-0"
    link = home / "link"
    if not link.exists():
        link.symlink_to(run, target_is_directory=True)
    last = max(run.glob("checkpoint-*"), key=lambda one: int(one.name[11:]))
    for twice in ([run, run], [run, link], [home / "runs", run], [run, home / "runs" / "seed-1", last]):
        with pytest.raises(InputError, match=rf"the run {twice[-1]} was given twice: join runs of different seeds"):
            built(home, twice, "twice")


def test_joined_runs_are_joined_with_more(home: Path) -> None:
    runs = [Run.from_pretrained(home / "runs" / f"seed-{seed}") for seed in range(3)]
    once, nested = Run.join(runs), Run.join([Run.join(runs[:2]), runs[2]])
    assert nested.checkpoints == once.checkpoints
    assert nested.joined == once.joined


def test_its_files_are_named_by_run_and_its_bytes_are_checked(
    home: Path, said: Callable[..., tuple[int, str, str]]
) -> None:
    folder = home / "whole"
    built(home, home / "runs", "whole")
    assert {path.name.split("-step")[0] for path in (folder / "forms").iterdir()} >= {"run-1", "run-2"}
    assert said("verify", folder)[0] == 0
    assert Store(folder).n == len(tiny.NEWS)
