"""Small models in place of a large one: losses over training sets, scores, selection, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import tiny
from proponent.actions.scales import OTHER_SEED, SHUFFLED, ScaleSettings, compare_scales
from proponent.data import read
from proponent.errors import InputError, MismatchError
from proponent.evaluate.experiment import EvaluationRequest
from proponent.evaluate.intervals import fisher, mean_fisher
from proponent.evaluate.left_out import LeftOutSettings
from proponent.evaluate.metrics import LdsInputs
from proponent.evaluate.scales import shuffled, without_axis
from proponent.evaluate.transfer import _ratios, measure_transfer
from proponent.models import Run
from proponent.training.loop import TrainingLoop, one_thread
from proponent.training.rerun import RunProblem, settings_of_run
from proponent.training.trainer import train
from proponent.types import Example


@pytest.fixture(scope="module")
def narrow(lines: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of half the width."""
    folder = tmp_path_factory.mktemp("narrow") / "narrow"
    train(read(lines.data), folder, replace(tiny.SETTINGS, width=8))
    return folder


def sets_of(lines: tiny.Tiny) -> tuple[dict[str, list[Example]], dict[str, list[Example]]]:
    rows = list(read(lines.data))
    return {name: rows[at : at + 4] for name, at in zip("abcd", (0, 4, 8, 12), strict=True)}, {
        "t": rows[16:18],
        "u": rows[18:],
    }


def test_an_interval_of_fishers_z() -> None:
    found = fisher(0.9, 10)
    low, high = np.tanh(np.arctanh(0.9) + np.asarray([-1, 1]) * stats.norm.ppf(0.975) / np.sqrt(7))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (round(found.low, 2), round(found.high, 2)) == (0.62, 0.98)
    assert fisher(0.9, 3).low == -np.inf
    assert fisher(1.0, 5).value == 1.0
    assert mean_fisher(np.asarray([0.8, 1.0]), 10).value == pytest.approx(0.9)


def test_the_main_axis_is_taken_out() -> None:
    generator = np.random.default_rng(0)
    axis, rest = generator.normal(size=(12, 1)), generator.normal(size=(12, 4)) * 0.01
    rest -= rest.mean(1, keepdims=True)  # nothing of it lies along the axis
    large = axis @ np.ones((1, 4)) + rest
    small = axis @ np.full((1, 4), 2.0) - rest  # agrees along the axis, disagrees elsewhere
    plain = [np.corrcoef(one, other)[0, 1] for one, other in zip(small.T, large.T, strict=True)]
    assert min(plain) > 0.99
    ours, theirs = without_axis(small, large)
    left = [np.corrcoef(one, other)[0, 1] for one, other in zip(ours.T, theirs.T, strict=True)]
    assert max(left) < -0.9


def test_shuffled_names_give_the_null() -> None:
    generator = np.random.default_rng(1)
    found = shuffled(generator.normal(size=(10, 3)), generator.normal(size=(10, 3)))
    np.testing.assert_allclose(found[:3], 0.632, atol=0.08)  # the two-sided 5 % point of r for ten pairs
    column = generator.normal(size=(10, 1))
    same = shuffled(np.repeat(column, 3, 1), np.repeat(column**3, 3, 1))
    np.testing.assert_allclose(same, same[0])  # three equal test sets: the mean is each of them
    assert found[3] < found[:3].min()  # the mean of different ones varies less


def test_correlations_and_losses_are_those_of_trainings(lines, narrow, tmp_path) -> None:
    run, (sets, tests) = Run.from_pretrained(lines.run), sets_of(lines)
    settings = ScaleSettings(LeftOutSettings(tmp_path, seeds=2), alike=("a", "b", "c", "d"))
    small = {"narrow": Run.from_pretrained(narrow), "itself": run}
    page = compare_scales(run, small, sets, tests, settings, quiet=True)
    assert [one.method for one in page.rows] == ["narrow", "itself", OTHER_SEED, SHUFFLED]
    assert page.columns == ("t", "u", "mean")
    tables = {one.title: one for one in page.others}
    both = [
        np.asarray([[figure.value for figure in row.figures] for row in tables[f"Losses of {name}"].rows])
        for name in ("itself", "the large model")
    ]
    own = [np.corrcoef(one, other)[0, 1] for one, other in zip(both[0].T, both[1].T, strict=True)]
    assert max(own) < 1 - 1e-6, "a small model has other seeds"
    np.testing.assert_allclose([one.value for one in page.rows[1].figures[:2]], own, rtol=1e-6)
    fits = tables["R squared of a linear fit"].rows[1].figures[:2]
    np.testing.assert_allclose([one.value for one in fits], np.square(own), rtol=1e-6)
    alike = tables["Correlation over the 4 sets from one source"].rows[0]
    assert [one.value for one in alike.figures] == [one.value for one in page.rows[0].figures]
    losses = tables["Losses of the large model"]
    kept = int(dict(page.facts)["rows of each set"].split(",")[0].split()[1])
    assert 1 <= kept <= 4
    encoder = run.encoder(run.length(None))
    tokens = [sum(len(one.ids) for one in encoder.encode(rows)) for rows in sets.values()]
    shortest = list(sets)[int(np.argmin(tokens))]
    rows = [Example(f"{shortest}/{shortest}/{one.id}", one.row, content=one.content) for one in sets[shortest]]
    asked = [Example(f"t/{one.id}", one.row, content=one.content) for one in tests["t"]]
    rerun = settings_of_run(run)
    problem = RunProblem(run, rows, asked, str(rerun.initial), run.length(None))
    counts = [one.n_counted for one in encoder.encode(asked, asked=True)]
    with one_thread():
        own = [
            np.average(TrainingLoop(problem, rerun.settings)(np.arange(4), seed).loss, weights=counts)
            for seed in (0, 1)
        ]
    row = next(one for one in losses.rows if one.method == shortest)
    assert row.figures[0].value == pytest.approx(np.mean(own), rel=1e-6)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = compare_scales(run, small, sets, tests, settings, quiet=True)
    assert again == page
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before


def test_a_small_model_may_have_any_name_and_one_test_set_has_no_rest(lines, narrow, tmp_path) -> None:
    run, (sets, tests) = Run.from_pretrained(lines.run), sets_of(lines)
    settings = ScaleSettings(LeftOutSettings(tmp_path, seeds=1))
    small, one = Run.from_pretrained(narrow), {"t": tests["t"]}
    page = compare_scales(run, {"large": small}, sets, one, settings, quiet=True)
    other = compare_scales(run, {"small": small}, sets, one, settings, quiet=True)
    assert [row.figures for row in page.rows] == [row.figures for row in other.rows]
    assert page.rows[0].figures[0].value != 1.0
    assert not any("main axis" in table.title for table in page.others)  # only rounding errors would be left
    with pytest.raises(InputError, match="a small model has the name 'the large model'"):
        compare_scales(run, {"the large model": small}, sets, one, settings, quiet=True)


def test_a_ratio_of_scores_below_0_does_not_recommend() -> None:
    generator = np.random.default_rng(0)
    masks, scores = generator.random((30, 20)) < 0.5, generator.normal(size=(6, 20))
    outputs = (masks @ scores.T)[None]
    for sign, wanted in ((1, "the small model will do"), (-1, "not shown")):
        found = LdsInputs({"m": sign * scores}, {}, masks, outputs, [])
        table = _ratios(found, {"s": {"m": sign * scores}}, None, "")
        assert table.rows[0].figures[0].value == pytest.approx(1.0)
        assert table.rows[0].method.endswith(wanted)


def test_every_set_has_as_many_tokens(lines, tmp_path) -> None:
    run, (sets, tests) = Run.from_pretrained(lines.run), sets_of(lines)
    sets["d"] = [*sets["d"], *sets["a"], *sets["b"]]
    settings = ScaleSettings(LeftOutSettings(tmp_path), tokens=20)
    page = compare_scales(run, {"itself": run}, sets, tests, settings, quiet=True)
    counts = {
        name: int(count) for name, count in (one.split() for one in dict(page.facts)["rows of each set"].split(", "))
    }
    encoder = run.encoder(run.length(None))
    longest = max(len(one.ids) for one in encoder.encode(sets["d"]))
    for name, count in counts.items():
        assert count < len(sets[name])
        assert count * longest >= 20
    assert any("one seed" in note for note in page.notes)


def test_the_scores_of_the_same_model_have_ratio_one(lines, narrow, tmp_path) -> None:
    rows = list(read(lines.data))
    run = Run.from_pretrained(lines.run)
    request = EvaluationRequest(
        run, rows[:14], rows[14:], tmp_path, methods=("tracin-we",), seeds=2, subsets=24, groups="auto", quiet=True,
        say=lambda _: None,
    )  # fmt: skip
    page = measure_transfer(request, {"itself": run, "narrow": Run.from_pretrained(narrow)}, select=5)
    figures = {one.method: one.figures[0] for one in page.rows}
    assert figures["tracin-we of itself"] == figures["tracin-we"]
    ratios, selected = page.others
    assert ratios.rows[0].method.startswith("tracin-we of itself: ")
    assert ratios.rows[0].figures[0].value == pytest.approx(1.0)
    assert (ratios.rows[0].figures[0].low, ratios.rows[0].figures[0].high) == (pytest.approx(1.0), pytest.approx(1.0))
    names = [one.method for one in selected.rows]
    assert names[:3] == ["tracin-we of the large model", "tracin-we of itself", "tracin-we of narrow"]
    assert {"random", "bm25"} <= set(names)
    losses = {one.method: one.figures[0].value for one in selected.rows}
    assert losses["tracin-we of the large model"] == losses["tracin-we of itself"]
    random = next(one for one in selected.rows if one.method == "random")
    assert random.figures[1].value is None
    gap = selected.rows[0].figures[1].value
    assert gap == pytest.approx(losses["tracin-we of the large model"] - losses["random"])


def test_bad_input_is_refused(lines, news, narrow, tmp_path, said) -> None:
    run, (sets, tests) = Run.from_pretrained(lines.run), sets_of(lines)
    other = Run.from_pretrained(news.run)
    settings = ScaleSettings(LeftOutSettings(tmp_path))

    def refused(match: str, kind=InputError, small=None, chosen=sets, settings=settings) -> None:
        with pytest.raises(kind, match=match):
            compare_scales(run, {"one": run} if small is None else small, chosen, tests, settings, quiet=True)

    refused("at least one small model", small={})
    folder = ScaleSettings(LeftOutSettings(tmp_path, initial="some/folder"))
    refused("--initial some/folder: weights belong to one model; only fresh fits all", settings=folder)
    refused("3 training sets: at least 4", chosen={name: sets[name] for name in "abc"})
    refused("--alike x: no training set has this name; they are a, b, c, d", settings=replace(settings, alike=("x",)))
    refused("at least 4 sets from one source", settings=replace(settings, alike=("a",)))
    refused("--tokens 100000: the smallest training set has", settings=replace(settings, tokens=100_000))
    refused("one and the large model predict different things", MismatchError, small={"one": other})
    rows = list(read(lines.data))
    request = EvaluationRequest(run, rows[:14], rows[14:], tmp_path, quiet=True)
    with pytest.raises(InputError, match="at least one small model"):
        measure_transfer(request, {})
    with pytest.raises(MismatchError, match="news and the large model"):
        measure_transfer(request, {"news": other})
    with pytest.raises(InputError, match="--select 14: the training set has 14 rows"):
        measure_transfer(request, {"narrow": Run.from_pretrained(narrow)}, select=14)
    with pytest.raises(InputError, match="give at least two queries"):
        measure_transfer(replace(request, queries=rows[14:15]), {"narrow": Run.from_pretrained(narrow)}, select=3)
    for words, wanted in (
        ((), "give either --sets and --tests (losses), or --data and --queries (scores)"),
        (("--sets", lines.data), "give both"),
        (("--data", lines.data), "give both"),
        (("--sets", lines.data, lines.data, "--tests", lines.data), "is given twice"),
    ):
        code, _, err = said("transfer", lines.run, "--small", narrow, *words)
        assert code == 2
        assert wanted in err


def test_the_command_compares_losses(lines, narrow, said, tmp_path) -> None:
    files = [
        tiny.write_csv(tmp_path / f"{name}.csv", lines.rows[at : at + 4])
        for name, at in zip("abcd", (0, 4, 8, 12), strict=True)
    ]
    test = tiny.write_csv(tmp_path / "t.csv", lines.rows[16:])
    page = tmp_path / "page.html"
    command = (
        "transfer",
        lines.run,
        "--small",
        narrow,
        "--sets",
        *files,
        "--tests",
        test,
        "--cache",
        tmp_path / "cache",
    )
    code, out, err = said(*command, "--json", "--out", page)
    assert code == 0, err
    found = json.loads(out)
    assert [one["method"] for one in found["rows"]] == ["narrow", OTHER_SEED, SHUFFLED]
    assert "Losses of narrow" in page.read_text()
    code, out, _ = said(*command, "--quiet")
    assert code == 0
    assert "Losses of the large model" in " ".join(out.split())
