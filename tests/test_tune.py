"""`proponent tune`: planted noise, every method under every rule, the choice as a file that `index` takes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tiny
from proponent.errors import InputError
from proponent.evaluate.candidates import Candidate, candidates
from proponent.evaluate.ranking import auc_ndr, bootstrap_gap, bootstrap_rows
from proponent.evaluate.tuning import chosen, halves, trials
from proponent.method import Gradients, Layers, Projection
from proponent.method_files import read_fields, write_method
from proponent.method_table import METHODS, method_of
from proponent.models import Run
from proponent.search.aggregation import RULES, aggregate

Said = Callable[..., tuple[int, str, str]]


def words(news: tiny.Tiny, folder: Path) -> list[object]:
    return [
        "tune", news.run, news.data, "--points", 15, "--set", "epochs=2", "--cache", folder / "cache",
        "--methods", "tracin-we,tracin-layers", "--layers", "embeddings,quarter-2,*.query,head",
        "--out", folder / "tuned.json",
    ]  # fmt: skip


def test_one_training_gives_a_table_and_a_method_that_index_takes(news: tiny.Tiny, tmp_path: Path, said: Said):
    code, out, err = said(*words(news, tmp_path), "--json", "--report", tmp_path / "page.html")
    assert code == 0, err
    assert "9 of 45 labels are replaced in a copy (seed 0); will train once (2 epochs)" in err
    assert "4 methods (8 passes)" in err
    page = json.loads(out)
    names = {row["method"] for row in page["rows"] if not row["control"]}
    assert names == {
        "tracin-we", "tracin-layers, embeddings", "tracin-layers, head", "tracin-layers, *.query",
        "tracin-layers, together",
    }  # fmt: skip
    assert {"loss", "random", "label"} <= {row["method"] for row in page["rows"] if row["control"]}
    assert page["columns"] == ["AUC_NDR, mean", "AUC_NDR, rank", "AUC_NDR, vote", "NDR@30%"]
    assert all(one["low"] <= one["value"] <= one["high"] for row in page["rows"] for one in row["figures"][:3])
    assert "this model has no layers in quarter-2" in page["notes"]
    best = dict(page["facts"])["chosen"]
    assert "together" not in best
    kept = json.loads((tmp_path / "tuned.json").read_text())
    assert kept["tuned"] == page["tuned"]
    assert best.endswith(f"aggregated by {kept['tuned']['aggregation']}")
    assert len(list((tmp_path / "cache").rglob("proponent_retrained.json"))) == 1, "one fine-tune and no other training"
    assert not list((tmp_path / "cache").rglob("*.index")), "scores are kept, indexes are not"
    assert "<script" not in (tmp_path / "page.html").read_text()
    code, out, err = said(*words(news, tmp_path), "--report", tmp_path / "again.json")
    assert code == 0, err
    assert "beats" in out
    again = json.loads((tmp_path / "again.json").read_text())
    assert {name: page[name] for name in again} == again
    assert json.loads((tmp_path / "tuned.json").read_text()) == kept
    code, _, err = said("index", news.run, news.data, "--out", tmp_path / "i", "--method", tmp_path / "tuned.json")
    assert code == 0, err
    plan = json.loads((tmp_path / "i" / "plan.json").read_text())
    assert plan["method"]["name"] == kept["name"]


def test_rules_find_noise_where_scores_show_it_and_half_of_the_rows_choose():
    generator = np.random.default_rng(0)
    wrong = np.zeros(200, dtype=bool)
    wrong[:40] = True
    noise = generator.standard_normal((1, 20, 200))
    scores = {"good": noise - 1.0 * wrong, "bad": noise + 0.0, "control": generator.standard_normal((1, 20, 200))}
    made = trials(scores)
    assert [(one.name, one.how) for one in made] == [(name, how) for name in scores for how in RULES]
    for one in made:
        np.testing.assert_array_equal(one.values, aggregate(scores[one.name], one.how))
    tried = {name: Candidate(name, "", METHODS[name].method) for name in ("tracin-we", "tracin-last")}
    tied = {"good": tried["tracin-we"], "bad": tried["tracin-last"]}
    found = chosen([replace(one, candidate=tied.get(one.name)) for one in made], wrong, {"control": None}, seed=3)
    assert found.method.name == "tracin-we"
    first = halves(wrong, 3)
    assert (first.sum(), first[wrong].sum()) == (100, 20)
    best = next(one for one in made if one.name == "good" and one.how == found.description["aggregation"])
    assert found.description["auc_ndr"] == auc_ndr(best.values[~first], wrong[~first])
    assert found.description["better_than_it"].startswith("yes (+")
    rows = {row.method: row for row in found.page.rows}
    assert rows["bad"].verdict.startswith("within error")
    assert [row.method for row in found.page.rows] == ["good", "bad", "control"]


def test_the_interval_of_a_gap_is_paired():
    generator = np.random.default_rng(1)
    wrong = generator.random(300) < 0.2
    ours = generator.standard_normal(300) - wrong
    assert bootstrap_gap(auc_ndr, ours, ours, wrong) == (0.0, 0.0)
    low, high = bootstrap_gap(auc_ndr, ours, ours + 0.01 * generator.standard_normal(300), wrong)
    alone = bootstrap_rows(auc_ndr, ours, wrong)
    assert high - low < 0.2 * (alone[1] - alone[0])


def test_groups_that_are_the_same_layers_are_tried_once(news: tiny.Tiny):
    run = Run.from_pretrained(news.run)
    found, notes = candidates(run, ["grad-cos", "datainf"], ["blocks", "quarter-1", "last-block", "embeddings"])
    both = [f"{method}, {group}" for method in ("grad-cos", "datainf") for group in ("blocks", "embeddings")]
    assert [one.name for one in found] == both
    assert "grad-cos, quarter-1 is left out: the same layers as blocks" in notes
    with pytest.raises(InputError, match=r"'quartet-1' matches no layer \(did you mean 'quarter-1'"):
        candidates(run, ["grad-cos"], ["quartet-1"])


def test_a_method_file_says_a_method_and_what_is_changed(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('method = "grad-cos"\nlayers = ["attention", "head"]\n[tuned]\nnoise = 0.2\n')
    method = method_of(str(path), seed=7)
    assert method == Gradients(
        name="grad-cos",
        gradient=Layers(names=("attention", "head"), projection=Projection(seed=7)),
        normalize="both",
    )
    kept = tmp_path / "kept.json"
    write_method(kept, method, {"noise": 0.2})
    assert method_of(str(kept)) == method
    assert read_fields(kept)["gradient"]["projection"]["seed"] == 7


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.json",
            '{"method": "grad-cos", "layer_s": []}',
            "has a field 'layer_s' that no method has (did you mean 'layers'?)",
        ),
        ("a.json", '{"method": "trackstar", "damping": "much"}', "option damping 'much'"),
        ("a.json", '{"method": "grad-cosine"}', "unknown method 'grad-cosine' (did you mean 'grad-cos'?)"),
        ("a.json", '{"layers": ["head"]}', "names no method"),
        ("a.json", "[1]", "contains no table of fields"),
        ("a.json", '{"method": ', "is not valid JSON"),
        ("a.toml", "method = ", "is not valid TOML"),
        ("a.json", None, "proponent tune RUN DATA --out"),
        ("a/b.txt", "", "ends in .json or .toml"),
    ],
)
def test_a_bad_method_file_gets_one_clear_line(tmp_path: Path, name: str, content: str | None, message: str):
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        method_of(str(path))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--out", "tuned.txt"], "ends in .json"),
        (["--count", "right"], "choose one of correct, all"),
        (["--methods", ""], "no method was given"),
        (["--methods", "grad-coss"], "did you mean 'grad-cos'"),
    ],
)
def test_bad_words_get_one_clear_line(news: tiny.Tiny, tmp_path: Path, said: Said, changed: list[str], message: str):
    code, out, err = said(*words(news, tmp_path), *changed)
    assert (code, out) == (2, "")
    assert message in err


def test_noise_needs_labels(lines: tiny.Tiny, tmp_path: Path, said: Said):
    code, _, err = said("tune", lines.run, lines.data, "--points", 5, "--cache", tmp_path / "c", "--set", "epochs=1")
    assert code == 2
    assert "wrong labels are planted among classes" in err
