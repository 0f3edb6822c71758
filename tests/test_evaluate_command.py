"""`proponent evaluate` from end to end on tiny runs, its plan in words, its pages, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import runs
import tiny
from planted import fickle, planted
from proponent.baselines import Baselines
from proponent.errors import DataError, InputError
from proponent.evaluate import Retrains, lds, subset_masks
from proponent.evaluate.budget import deletion_size, lds_size
from proponent.evaluate.experiment import known_method
from proponent.evaluate.intervals import Estimate
from proponent.evaluate.label_noise import plant, wrong_labels
from proponent.evaluate.metrics import deterministic, lds_page
from proponent.evaluate.report import report, verdict
from proponent.models import Run
from proponent.training.rerun import FRESH, RunProblem
from proponent.types import Example
from proponent.views import document
from proponent.views.evaluation import Band, EvaluationReport, Figure, MethodFigures

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return tiny.write_csv(tmp_path / "queries.csv", runs.rows(8, seed=9))


def test_lds_says_what_it_will_run_and_what_it_found(news: tiny.Tiny, asked: Path, tmp_path: Path, said: Said):
    words = [
        "evaluate",
        news.run,
        news.data,
        "--metric",
        "lds",
        "--queries",
        asked,
        "--subsets",
        20,
        "--set",
        "epochs=1",
    ]
    words += ["--methods", "tracin-we,tracin-last", "--cache", tmp_path / "cache", "--json"]
    code, out, err = said(*words, "--out", tmp_path / "page.html", "--out", tmp_path / "page.md")
    assert code == 0, err
    assert "will run 20 random halves x 2 seeds = 40 retrains" in err
    assert "+-0." in err
    page = json.loads(out)
    names = [row["method"] for row in page["rows"]]
    assert names[:2] == ["tracin-we", "tracin-last"]
    assert {"label", "bm25", "tfidf-label", "embedding", "random", "loss", "tfidf-sign", "bm25-sign"} == set(names[2:])
    assert all(-1 <= row["figures"][0]["low"] <= row["figures"][0]["high"] <= 1 for row in page["rows"])
    assert any(word in page["rows"][0]["verdict"] for word in ("yes", "no", "within error"))
    facts = dict(page["facts"])
    assert facts["retrains"] == "40"
    assert "noise ceiling" in facts
    assert "cores" in facts["machine"]
    assert facts["versions"].startswith("proponent ")
    assert facts["seeds"] == "0 (halves, held-out rows and controls), 1001 and on (scored runs)"
    assert facts["initial weights"] == "fresh: drawn from the configuration by the seed of each training"
    assert "null retrain: two trainings on all rows agree" in page["notes"][-1]
    assert "| tracin-we |" in (tmp_path / "page.md").read_text()
    assert "<script" not in (tmp_path / "page.html").read_text()
    records = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "retrains").rglob("*.safetensors")}
    assert len(records) == 41, "the forty, one of which was timed, and the full one of the null retrain"
    code, again, _ = said(*words, "--arrays", tmp_path / "lds.safetensors")
    assert code == 0
    kept = load_file(tmp_path / "lds.safetensors")
    mean = lds(kept["scores.tracin-we"], kept["masks"] > 0, kept["outputs"].mean(0), kept["groups"]).mean()
    assert mean == pytest.approx(page["rows"][0]["figures"][2]["value"], abs=1e-6), (
        "the figure can be had from the file"
    )
    assert json.loads(again) == page
    assert {path: path.stat().st_mtime_ns for path in records} == records, "nothing is trained twice"

    bank = [
        *words[: words.index("--cache")],
        "--bank",
        tmp_path / "lds.safetensors",
        "--cache",
        tmp_path / "other",
        "--json",
    ]
    code, out, err = said(*bank)
    assert code == 0, err
    reread = json.loads(out)
    assert [row["figures"] for row in reread["rows"]] == [row["figures"] for row in page["rows"]]
    assert "20 halves x 2 seeds" in reread["notes"][-1]
    assert not (tmp_path / "other" / "retrains").exists(), "none is trained again"
    code, _, err = said(*bank, "--set", "epochs=2")
    assert code != 0
    assert "was made with other settings: epochs 1 there, 2 here" in " ".join(err.split())
    code, _, err = said(*bank, "--points", 4)
    assert code != 0
    assert "give the same data, queries and --points" in " ".join(err.split())
    plain = {name: one for name, one in kept.items() if name != "groups"}
    save_file(plain, tmp_path / "bare.safetensors")
    code, out, _ = said(
        *(tmp_path / "bare.safetensors" if one == tmp_path / "lds.safetensors" else one for one in bank)
    )
    assert code == 0
    assert "only sizes were compared" in json.loads(out)["notes"][-1]
    save_file({"masks": kept["masks"]}, tmp_path / "half.safetensors")
    code, _, err = said(
        *(tmp_path / "half.safetensors" if one == tmp_path / "lds.safetensors" else one for one in bank)
    )
    assert code != 0
    assert "has no halves and outputs" in " ".join(err.split())


def test_only_an_lds_has_arrays(news: tiny.Tiny, tmp_path: Path, said: Said):
    words = ["evaluate", news.run, news.data, "--metric", "ndr", "--arrays", tmp_path / "ndr.safetensors"]
    code, _, err = said(*words)
    assert code == 2
    assert "only --metric lds" in err


def test_deletion_holds_queries_out_and_draws_curves(news: tiny.Tiny, tmp_path: Path, said: Said):
    words = ["evaluate", news.run, news.data, "--metric", "deletion", "--points", 5, "--k", "2,5", "--seeds", 2]
    words += [
        "--set",
        "epochs=1",
        "--set",
        "batch_size=60",
        "--methods",
        "tracin-we",
        "--cache",
        tmp_path / "cache",
        "--json",
        "--out",
        tmp_path / "page.html",
    ]
    code, out, err = said(*words)
    assert code == 0, err
    assert "will run 5 queries x k = 2, 5 x 2 seeds = 240 retrains, half of them for matched random rows" in err
    page = json.loads(out)
    assert [row["method"] for row in page["rows"]] == ["tracin-we", "random", "tfidf-sign", "bm25-sign"]
    assert [row["control"] for row in page["rows"]] == [False, True, True, True]
    ours = page["rows"][0]["figures"]
    controls = {row["method"]: row["figures"][0]["value"] for row in page["rows"][2:]}
    controls["random"] = ours[0]["value"] - ours[-2]["value"]  # the rows drawn for this method alone
    best = min(controls, key=controls.__getitem__)
    assert f"({best}: " in page["rows"][0]["verdict"], "compared with the control whose deletion does most"
    assert page["columns"][2:4] == ["flipped at k = 5", "smallest k that flips, median"]
    assert page["columns"][4:] == ["helped less random rows", "hurt less random rows"]
    assert all(0 <= row["figures"][2]["value"] <= 1 for row in page["rows"])
    assert all(row["figures"][3]["value"] in (None, 2.0, 3.5, 5.0) for row in page["rows"])
    assert any("5 rows of the data were held out" in note for note in page["notes"])
    assert any(
        "label, embedding, loss are left out because each would cost as many retrains" in note for note in page["notes"]
    )
    assert [curve["x"] for curve in page["curves"]] == [[2.0, 5.0]] * 3
    html = (tmp_path / "page.html").read_text()
    assert html.count("<polyline") == 6
    assert "random rows of the same classes" in html


def test_noise_is_planted_and_looked_for(news: tiny.Tiny, tmp_path: Path, said: Said):
    words = [
        "evaluate",
        news.run,
        news.data,
        "--metric",
        "ndr",
        "--points",
        10,
        "--methods",
        "tracin-we",
        "--set",
        "epochs=2",
    ]
    code, out, err = said(*words, "--cache", tmp_path / "cache", "--json")
    assert code == 0, err
    page = json.loads(out)
    assert page["columns"] == ["NDR@30%", "AUC_NDR"]
    assert dict(page["facts"])["wrong rows"] == "10"


def test_checked_labels_are_compared_with_the_truth(news: tiny.Tiny, tmp_path: Path, said: Said):
    rows = [dict(row) for row in news.rows]
    for number, row in enumerate(rows):
        row["truth"] = runs.LABELS[(runs.LABELS.index(row["label"]) + 1) % 3] if number % 9 == 0 else ""
    data = tiny.write_csv(tmp_path / "checked.csv", rows)
    words = [
        "evaluate",
        news.run,
        data,
        "--metric",
        "mislabel",
        "--points",
        8,
        "--methods",
        "tracin-we",
        "--set",
        "epochs=1",
    ]
    code, out, err = said(*words, "--truth-column", "truth", "--cache", tmp_path / "cache", "--json")
    assert code == 0, err
    assert json.loads(out)["columns"][0] == "ROC AUC"
    code, _, err = said(*words, "--cache", tmp_path / "cache")
    assert (code, "--truth-column" in err) == (2, True)


def test_facts_of_a_language_model_are_traced(lines: tiny.Tiny, tmp_path: Path, said: Said):
    queries = [
        {"id": f"q{row}", "text": lines.rows[row]["text"], "target": "army", "gold": f"l{row} l{row + 1}"}
        for row in range(3)
    ]
    asked = tiny.write_csv(tmp_path / "facts.csv", queries)
    words = [
        "evaluate",
        lines.run,
        lines.data,
        "--metric",
        "facts",
        "--queries",
        asked,
        "--methods",
        "tracin-we",
        "--set",
        "epochs=1",
    ]
    code, out, err = said(*words, "--cache", tmp_path / "cache", "--json")
    assert code == 0, err
    page = json.loads(out)
    assert page["columns"] == ["MRR", "recall@10"]
    assert {row["method"] for row in page["rows"] if row["control"]} >= {"bm25", "embedding", "random"}
    assert any("control label is missing" in note for note in page["notes"])
    tiny.write_csv(asked, [queries[0] | {"gold": "nowhere"}])
    code, _, err = said(*words, "--cache", tmp_path / "cache")
    assert code == 2
    assert "the gold id 'nowhere' is not the id of a training row" in err
    tiny.write_csv(asked, [queries[0] | {"gold": " "}])
    assert "no gold id" in said(*words, "--cache", tmp_path / "cache")[2]


def test_tail_patch_takes_single_steps(news: tiny.Tiny, asked: Path, tmp_path: Path, said: Said):
    words = [
        "evaluate",
        news.run,
        news.data,
        "--metric",
        "tailpatch",
        "--queries",
        asked,
        "--methods",
        "tracin-we",
        "--set",
        "epochs=1",
    ]
    code, out, err = said(*words, "--cache", tmp_path / "cache")
    assert code == 0, err
    assert "single steps of rate" in err
    assert "Adam's" in out
    assert not list((tmp_path / "cache").glob("retrains/*/*.safetensors"))


def test_without_lexical_baselines_random_rows_are_no_lexical_control(
    lines: tiny.Tiny, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
):
    known = Baselines.missing
    gone = dict.fromkeys(("bm25", "tfidf-label"), "is not installed")
    monkeypatch.setattr(Baselines, "missing", lambda self: known(self) | gone)
    words = ["evaluate", lines.run, lines.data, "--metric", "deletion", "--points", 5, "--k", "2", "--seeds", 1]
    words += ["--set", "epochs=1", "--methods", "tracin-we", "--cache", tmp_path / "cache", "--json"]
    code, out, err = said(*words)
    assert code == 0, err
    assert "5 queries x k = 2 x 1 seeds = 20 retrains" in err
    assert "the retrain noise is unknown with one seed" in err
    page = json.loads(out)
    assert [row["method"] for row in page["rows"]] == ["tracin-we", "random"]
    figures = [one["value"] for one in page["rows"][1]["figures"]]
    assert [one is None for one in figures] == [False, False, True, True], "random rows are drawn for both sides"
    columns = ["helped deleted", "hurt deleted", "helped less random rows", "hurt less random rows"]
    assert page["columns"] == columns, "a language model has no class to flip"
    code, out, err = said(*words, "--helped-only")
    assert "5 queries x k = 2 x 1 seeds = 10 retrains" in err, "the records of both sides are read again"
    half = json.loads(out)
    assert half["columns"] == ["helped deleted", "helped less random rows"]
    assert half["rows"][0]["figures"] == page["rows"][0]["figures"][::2]
    for name in ("bm25", "tfidf-label"):
        assert any(f"control {name} is missing" in note and "is not installed" in note for note in page["notes"])


def test_cancellation_is_told_layer_by_layer(news: tiny.Tiny, tmp_path: Path, said: Said):
    words = ["evaluate", news.run, news.data, "--metric", "cancellation", "--cache", tmp_path / "cache", "--json"]
    code, out, err = said(*words, "--out", tmp_path / "page.md")
    assert code == 0, err
    assert f"the gradients of {len(news.rows)} of {len(news.rows)} examples" in err
    page = json.loads(out)
    rows = {row["method"]: [figure["value"] for figure in row["figures"]] for row in page["rows"]}
    assert len(page["columns"]) == 5, "the run has several checkpoints, so the weights' movement is known"
    assert all(one is None or one > 0 for values in rows.values() for one in values)
    run = Run.from_pretrained(news.run)
    model = run.load(run.checkpoints[-1]).requires_grad_(True)
    examples = [Example(row["id"], place, row["text"], row["label"]) for place, row in enumerate(news.rows)]
    losses = RunProblem(run, examples, (), FRESH, run.length(None)).losses
    heads = []
    for row in range(len(examples)):
        model.zero_grad()
        losses(model, np.asarray([row])).sum().backward()
        heads.append(np.concatenate([model.classifier.weight.grad.numpy().ravel(), model.classifier.bias.grad.numpy()]))
    wide = np.asarray(heads, dtype=np.float64)
    expected = np.abs(wide).sum() / np.abs(wide.sum(0)).sum()
    assert rows["classifier"][0] == pytest.approx(expected, rel=1e-4)
    assert float(dict(page["facts"])["all layers together"]) >= 1
    table = (tmp_path / "page.md").read_text()
    assert "| layer | C(W) |" in table
    assert "| classifier |" in table
    assert "control?" not in table, "nothing is compared"
    assert not (tmp_path / "cache").exists(), "nothing is trained"
    code, out, err = said(*words, "--budget", "0.0001")
    assert (code, dict(json.loads(out)["facts"])["examples"]) == (0, "1"), err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "ldss"], "did you mean 'lds'"),
        (["--metric", "lds", "--methods", "tracin-we,tracin-we"], "names tracin-we twice"),
        (["--metric", "deletion", "--methods", "random"], "it is a control and is always measured"),
        (["--metric", "lds", "--methods", "tracin-ve"], "did you mean 'tracin-we'"),
        (["--metric", "lds", "--subsets", "5"], "5 subsets are too few"),
        (["--metric", "lds", "--budget", "0.0001"], "give --budget"),
        (["--metric", "deletion", "--budget", "0.0001"], "queries are too few"),
        (["--metric", "deletion", "--k", "ten"], "give numbers separated by commas"),
        (["--metric", "deletion", "--k", "56"], "fewer than k = 56"),
        (["--metric", "lds", "--points", "50"], "too few to hold out 50"),
        (["--metric", "lds", "--set", "epoch=1"], "did you mean 'epochs'"),
        (["--metric", "lds", "--set", "epochs=two"], "'two' is not a number"),
        (["--metric", "facts"], "needs --queries with a column 'gold'"),
    ],
)
def test_bad_input_gets_one_clear_line(news: tiny.Tiny, tmp_path: Path, said: Said, words: list[str], message: str):
    common = ["--set", "epochs=1", "--points", "5"] if "--points" not in words else ["--set", "epochs=1"]
    code, out, err = said("evaluate", news.run, news.data, *common, *words, "--cache", tmp_path / "cache")
    assert code == 2
    assert message in err
    assert out == ""


def test_a_query_of_the_training_set_is_refused(news: tiny.Tiny, tmp_path: Path, said: Said):
    asked = tiny.write_csv(tmp_path / "queries.csv", [dict(news.rows[3])])
    code, _, err = said(
        "evaluate", news.run, news.data, "--metric", "lds", "--queries", asked, "--cache", tmp_path / "c"
    )
    assert code == 2
    assert "1 queries are also in the training set (row 3 of it)" in err


def test_a_run_that_does_not_say_where_it_started_is_refused(news: tiny.Tiny, tmp_path: Path, said: Said, copied):
    folder = copied(news.run)
    (folder / "proponent_run.json").unlink()
    code, _, err = said("evaluate", folder, news.data, "--metric", "lds", "--cache", tmp_path / "c")
    assert code == 2
    assert "--initial fresh" in err


def test_a_fickle_training_function_is_refused_unless_averaged(tmp_path: Path):
    with pytest.raises(InputError, match="not deterministic"):
        deterministic(Retrains(fickle(), tmp_path / "a", quiet=True), 1, averaged=True)
    with pytest.raises(InputError, match="not deterministic"):
        deterministic(Retrains(fickle(), tmp_path / "b", quiet=True), 3, averaged=False)
    assert "DIFFER" in deterministic(Retrains(fickle(), tmp_path / "c", quiet=True), 2, averaged=True)
    assert "agree to 0" in deterministic(Retrains(planted(), tmp_path / "d", quiet=True), 1, averaged=True)


def test_the_budget_decides_the_size():
    small, large = lds_size(2.0, 1.0, 40), lds_size(20.0, 1.0, 40)
    assert small.subsets == 60
    assert large.subsets == 200
    assert small.half_width > large.half_width
    assert lds_size(2.0, 1.0, 40, workers=2).subsets == 120
    one = deletion_size(30.0, 1.0, 0.5, 100, 2, (10,), seeds=3)
    assert (one.points, one.retrains) == (75, 1800)
    assert deletion_size(5.0, 1.0, 0.5, 100, 2, (10,), seeds=3).points == 12
    assert deletion_size(None, 1.0, 0.5, 7, 2, (10,), seeds=3).points == 7
    assert "nan" not in deletion_size(None, 1.0, float("nan"), 7, 2, (10,), seeds=1).said


def test_a_page_of_known_scores_says_what_is_true():
    model = planted(queries=12, size=200, noise=0.2)
    masks = subset_masks(200, 60, 3)
    outputs = np.stack(
        [[model(np.flatnonzero(mask), seed).of(np.zeros(12, int)) for mask in masks] for seed in range(2)]
    )
    noise = np.random.default_rng(99).standard_normal((12, 200))
    page = lds_page({"true": model.effects, "wrong": -model.effects}, {"random": noise}, masks, outputs)
    found = {row.method: row for row in page.rows}
    assert found["true"].verdict.startswith("yes (random")
    assert found["wrong"].verdict.startswith("no (random")
    assert found["true"].figures[1].value >= 0.95
    assert "reliability of one retrain" in dict(page.facts)["noise ceiling"]
    alone = lds_page({"true": model.effects}, {"random": noise}, masks, outputs[:1])
    assert alone.rows[0].figures[1].value is None
    assert any("noise ceiling is unknown" in note for note in alone.notes)


def test_verdicts_need_an_interval_that_leaves_zero_out():
    assert verdict(Estimate(0.1, -0.1, 0.3, 9), "bm25").startswith("within error (bm25: 0.100")
    assert verdict(Estimate(0.2, 0.1, 0.3, 9), "bm25").startswith("yes")
    assert verdict(Estimate(-0.2, -0.3, -0.1, 9), "bm25").startswith("no")


def hostile() -> EvaluationReport:
    rows = [
        MethodFigures("<script>|x", False, (Figure("a|b", 0.5, 0.4, 0.6),), "yes"),
        MethodFigures("c", True, (Figure("a|b", None),)),
    ]
    curves = [Band("</svg><img>", (1.0, 10.0), (-1.0, -2.0), (-1.5, -3.0), (-0.5, -1.0))]
    return report("deletion", "<b>title</b>", "said", ("a|b",), rows, curves=curves, notes=["<i>note</i>"])


def test_pages_escape_and_stay_within_the_drawing():
    page = hostile()
    html = document(page)
    assert "<script>" not in html
    assert "<img>" not in html
    assert "<b>title" not in html
    assert "0.500 [0.400, 0.600]" in html
    for drawn in page.plot.drawn:
        numbers = [float(number) for point in f"{drawn.line} {drawn.area}".split() for number in point.split(",")]
        assert all(0 <= number <= 520 for number in numbers)
    assert "\\|x" in page.markdown()
    assert "\\<script\\>" in page.markdown()
    assert len(repr(page).splitlines()) == 3
    assert json.loads(page.to_json())["rows"][1]["figures"][0]["value"] is None


def test_planted_noise_is_another_class_and_truth_is_compared():
    examples = [Example(str(row), row, "x", "abc"[row % 3]) for row in range(30)]
    noisy, wrong = plant(examples, 0.2)
    assert wrong.sum() == 6
    assert [one.label != other.label for one, other in zip(examples, noisy, strict=True)] == wrong.tolist()
    assert wrong_labels(noisy, {one.id: str(one.label) for one in examples}).tolist() == wrong.tolist()
    with pytest.raises(DataError, match="nothing to find"):
        wrong_labels(examples, {})
    with pytest.raises(DataError, match="at least two labels"):
        plant([Example("0", 0, "x", "a")], 0.5)


def test_variants_are_named_after_the_method():
    assert known_method("tracin-we-adam+unit-norm") == ("tracin-we-adam", {"unit_norm": True})
    assert known_method("bm25") == ("bm25", {})


def test_a_method_in_a_file_is_measured(news: tiny.Tiny, tmp_path: Path, said: Said):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"method": "tracin-we-idf", "norm": 0.5}))
    words = ["evaluate", news.run, news.data, "--metric", "ndr", "--points", 5, "--set", "epochs=1"]
    code, out, err = said(*words, "--methods", f"{path},tracin-we-idf", "--cache", tmp_path / "cache", "--json")
    assert code == 0, err
    assert {str(path), "tracin-we-idf"} <= {row["method"] for row in json.loads(out)["rows"]}
    assert json.loads(path.read_text()) == {"method": "tracin-we-idf", "norm": 0.5}
