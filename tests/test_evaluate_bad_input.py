"""What `proponent evaluate` says of figures that cannot bear what is asked of them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import proponent
import runs
import tiny
from planted import planted
from proponent.data import read
from proponent.errors import InputError, MismatchError
from proponent.evaluate import ceiling, subset_masks
from proponent.evaluate.budget import lds_size
from proponent.evaluate.experiment import ONE_CHECKPOINT, EvaluationRequest, Experiment
from proponent.evaluate.lds_page import lds_page
from proponent.method_table import method_of
from proponent.models import Run
from proponent.models.checkpoints import MOMENTS_FILE
from proponent.training.trainer import train
from proponent.views import document
from proponent.views.evaluation import print_report

Said = Callable[..., tuple[int, str, str]]
GROUPS = np.arange(80) % 2


def of_noise(seeds: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, halves, and outputs of retrains that have nothing in common."""
    generator = np.random.default_rng(4)
    masks = subset_masks(80, 24, 1)
    return generator.standard_normal((6, 80)), masks, generator.standard_normal((seeds, 24, 6))


def test_no_share_of_a_ceiling_whose_interval_holds_zero(capsys: pytest.CaptureFixture[str]) -> None:
    scores, masks, outputs = of_noise()
    found = ceiling(outputs)
    assert found.low == 0.0
    assert not found.known
    page = lds_page({"a": scores}, {"random": -scores}, masks, outputs, groups=GROUPS)
    assert page.columns == ("LDS", "of ceiling", "LDS within class", "of ceiling within class")
    for row in page.rows:
        assert [figure.value for figure in row.figures[1::2]] == [None, None]
    said = "its interval holds zero, so that no share of it is given"
    facts = dict(page.facts)
    assert all(said in facts[name] for name in ("noise ceiling", "noise ceiling within class"))
    assert all(said in text for text in (page.markdown(), document(page), json.loads(page.to_json())["facts"][2][1]))
    print_report(page)
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_ceiling_has_an_interval_and_a_share_where_retrains_agree() -> None:
    model = planted(queries=12, size=200, noise=0.2)
    masks = subset_masks(200, 60, 3)
    outputs = np.stack(
        [[model(np.flatnonzero(mask), seed).of(np.zeros(12, int)) for mask in masks] for seed in range(2)]
    )
    found = ceiling(outputs)
    assert found.known
    assert 0 < found.low < found.value < found.high <= 1
    page = lds_page({"true": model.effects}, {"wrong": -model.effects}, masks, outputs)
    assert page.rows[0].figures[1].value == pytest.approx(page.rows[0].figures[0].value / found.value)
    assert f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" in dict(page.facts)["noise ceiling"]


def test_too_few_halves_for_the_asked_interval_say_how_many_would_do() -> None:
    with pytest.raises(InputError, match=r"5 subsets are too few.*give --subsets 20 or more"):
        lds_size(None, 1.0, 40, subsets=5)
    with pytest.raises(
        InputError, match=r"30 random halves are too few.*\+-0.05: they give about \+-0.10, and"
    ) as found:
        lds_size(None, 60.0, 40, subsets=30, interval=0.05)
    needed = int(str(found.value).split("--subsets ")[1].split(",")[0])
    assert lds_size(None, 60.0, 40, subsets=needed, interval=0.05).half_width <= 0.05
    assert lds_size(None, 60.0, 40, subsets=needed - 1).half_width > 0.05
    assert lds_size(None, 60.0, 40, interval=0.05).subsets == needed
    with pytest.raises(InputError, match=rf"about {needed} would do \(--budget {2 * needed}"):
        lds_size(60.0, 60.0, 40, interval=0.05)


def test_an_interval_wider_than_asked_is_said_with_the_halves_it_needs() -> None:
    scores, masks, outputs = of_noise()
    page = lds_page({"a": scores}, {"random": -scores}, masks, outputs, interval=0.02)
    (note,) = [one for one in page.notes if "wider than the +-0.02 that was asked for" in one]
    low, high = page.rows[0].figures[0].low, page.rows[0].figures[0].high
    assert low is not None
    assert high is not None
    assert f"about {int(np.ceil(24 * ((high - low) / 2 / 0.02) ** 2))} halves would do" in note
    assert not any("asked for" in one for one in lds_page({"a": scores}, {}, masks, outputs, interval=9.0).notes)


def request_of(run: Run, data: Path, cache: Path) -> EvaluationRequest:
    return EvaluationRequest(run, read(data), read(runs.rows(8, seed=9)), cache, quiet=True)


def test_a_single_checkpoint_works_and_it_is_said(news: tiny.Tiny, tmp_path: Path) -> None:
    run = Run.from_pretrained(news.run)
    single = Experiment(request_of(replace(run, checkpoints=run.checkpoints[-1:]), news.data, tmp_path))
    assert ONE_CHECKPOINT in single.notes
    assert ONE_CHECKPOINT not in Experiment(request_of(run, news.data, tmp_path)).notes


def test_a_projection_that_reorders_is_said_once(
    news: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.from_pretrained(news.run)
    monkeypatch.setattr(Experiment, "scored_runs", [run])
    subject = Experiment(request_of(run, news.data, tmp_path))
    before = list(subject.notes)
    for width in (64, 1, 1):
        subject._note_projection(run, "mine", method_of("tracin-layers", layers="blocks", project=width))
    (note,) = subject.notes[len(before) :]
    assert note.startswith("mine: width 1: rank correlation 0.")
    assert "the projection to 1 reorders the scores: take --project" in note


def test_moments_of_another_run_are_refused(news: tiny.Tiny, tmp_path: Path) -> None:
    """Of the same model, data and step: only the mark of the training tells."""
    train(read(news.data), tmp_path / "other", replace(tiny.SETTINGS, seed=5))
    mixed = Path(shutil.copytree(news.run, tmp_path / "mixed"))
    for path in sorted(mixed.glob(f"*/{MOMENTS_FILE}")):
        shutil.copy(tmp_path / "other" / path.parent.name / MOMENTS_FILE, path)
    with pytest.raises(MismatchError, match=r"holds second moments of another run: .*--second-moment estimate"):
        proponent.build(mixed, news.data, tmp_path / "index", "tracin-we-adam", quiet=True)
    estimated = proponent.build(
        mixed, news.data, tmp_path / "estimated", "tracin-we-adam", second_moment="estimate", quiet=True
    )
    assert len(estimated.scores(["the bank"], ["World"])[0]) == len(news.rows)


def test_the_asked_interval_is_an_option(news: tiny.Tiny, tmp_path: Path, said: Said) -> None:
    words = ["evaluate", news.run, news.data, "--metric", "lds", "--points", 5, "--set", "epochs=1"]
    code, _, err = said(*words, "--subsets", 20, "--interval", 0.01, "--cache", tmp_path / "c")
    assert code == 2
    assert "20 random halves are too few for an interval of +-0.01" in err
    code, _, err = said(*words, "--interval", 0, "--cache", tmp_path / "c")
    assert code == 2
    assert "--interval 0.0: give a half-width above 0" in err
