"""Out-of-sample label scores: folds, regressions, combinations and files against slow readable truths."""

import csv
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

import proponent
import runs
from proponent.actions import held_out
from proponent.actions.cross_validation import cross_validate, joined
from proponent.actions.held_out import held_out_features, held_out_words, stratified_folds
from proponent.actions.label_errors import judge, label_errors, write_label_csv
from proponent.actions.near_duplicates import NearPairs
from proponent.actions.out_of_sample import FLOOR, TIMES, OutOfSample, combine, much_likelier, read_probabilities
from proponent.data import write_parquet
from proponent.errors import DataError, InputError, MismatchError, MissingExtraError
from proponent.store import Store
from proponent.views import LabelReport
from proponent.views.datalab import ISSUE, matched, register
from tiny import NEWS, Tiny, made, write_csv

Said = Callable[..., tuple[int, str, str]]
NAMES = ("Business", "Sports", "World")


# ---- folds ----


@given(st.data())
def test_groups_stay_together_and_classes_are_spread(data: st.DataObject):
    n = data.draw(st.integers(6, 30))
    labels = np.asarray(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    groups = np.asarray(data.draw(st.lists(st.integers(0, n), min_size=n, max_size=n)))
    folds = data.draw(st.integers(2, 5))
    if len(set(groups.tolist())) < folds:
        with pytest.raises(InputError, match="cannot be spread over"):
            stratified_folds(labels, groups, folds)
        return
    found = stratified_folds(labels, groups, folds)
    for group in set(groups.tolist()):
        assert len(set(found[groups == group].tolist())) == 1
    assert set(found.tolist()) <= set(range(folds))
    alone = stratified_folds(labels, np.arange(n), folds)
    for label in set(labels.tolist()):
        sizes = [int((alone[labels == label] == fold).sum()) for fold in range(folds)]
        assert max(sizes) - min(sizes) <= 1


def test_one_fold_is_refused_and_a_seed_changes_the_folds():
    with pytest.raises(InputError, match="need at least 2"):
        stratified_folds(np.zeros(4, dtype=np.int64), np.arange(4), 1)
    labels = np.arange(60) % 3
    first, again, other = (stratified_folds(labels, np.arange(60), 5, seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_groups_and_near_duplicates_are_joined():
    near = NearPairs(np.asarray([0, 4]), np.asarray([1, 5]), np.ones(2))
    assert joined(near, None, 6).tolist() == [0, 0, 2, 3, 4, 4]
    assert joined(near, np.asarray([0, 1, 1, 2, 3, 0]), 6).tolist() == [0, 0, 0, 3, 0, 0]


# ---- regressions ----


def slow_regression(train: np.ndarray, labels: np.ndarray, test: np.ndarray, strength: float) -> np.ndarray:
    """Minimize C times the summed loss plus half the squared weights, the intercepts left out, by its definition."""
    classes, width = int(labels.max()) + 1, train.shape[1]

    def objective(flat: np.ndarray) -> float:
        weights, bias = flat[: width * classes].reshape(width, classes), flat[width * classes :]
        logits = train @ weights + bias
        logits -= logits.max(1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return float(-strength * logs[np.arange(len(labels)), labels].sum() + 0.5 * (weights**2).sum())

    best = minimize(objective, np.zeros((width + 1) * classes), options={"maxiter": 500, "gtol": 1e-7}).x
    logits = test @ best[: width * classes].reshape(width, classes) + best[width * classes :]
    exps = np.exp(logits - logits.max(1, keepdims=True))
    return exps / exps.sum(1, keepdims=True)


def test_features_are_judged_by_a_model_of_the_other_folds(monkeypatch: pytest.MonkeyPatch):
    draw = np.random.default_rng(0)
    labels = np.arange(45) % 3
    features = draw.standard_normal((45, 3)) * [1, 20, 0.1] + np.eye(3)[labels] * [1, 20, 0.1]
    folds = stratified_folds(labels, np.arange(45), 3)
    monkeypatch.setattr(held_out, "FEATURE_STRENGTHS", (0.1,))
    found = held_out_features(features, labels, 3, folds)
    for fold in range(3):
        rest, held = folds != fold, folds == fold
        mean, spread = features[rest].mean(0), features[rest].std(0)
        wanted = slow_regression((features[rest] - mean) / spread, labels[rest], (features[held] - mean) / spread, 0.1)
        np.testing.assert_allclose(found.probabilities[held], wanted, atol=2e-3)
    own = found.probabilities[np.arange(45), labels]
    assert found.loss == pytest.approx(-np.log(own).mean())
    changed = labels.copy()
    changed[7] = (labels[7] + 1) % 3
    again = held_out_features(features, changed, 3, folds)
    fold = folds == folds[7]
    np.testing.assert_array_equal(again.probabilities[fold], found.probabilities[fold])  # its own label was not seen
    assert not np.allclose(again.probabilities[~fold], found.probabilities[~fold])


def test_the_strength_of_least_loss_is_kept(monkeypatch: pytest.MonkeyPatch):
    draw = np.random.default_rng(1)
    labels = np.arange(60) % 2
    features = draw.standard_normal((60, 8))  # no signal: the strongest ridge is best
    folds = stratified_folds(labels, np.arange(60), 5)
    found = held_out_features(features, labels, 2, folds)
    losses: list[float] = []
    for strength in (0.001, 0.01, 0.1):
        monkeypatch.setattr(held_out, "FEATURE_STRENGTHS", (strength,))
        losses.append(held_out_features(features, labels, 2, folds).loss)
    assert found.loss == min(losses)
    assert found.strength == 0.001


def test_constant_features_and_odd_ones():
    labels, features = np.arange(20) % 2, np.ones((20, 2))
    folds = stratified_folds(labels, np.arange(20), 2)
    np.testing.assert_allclose(held_out_features(features, labels, 2, folds).probabilities, 0.5, atol=1e-3)
    features[3, 1] = np.nan
    with pytest.raises(InputError, match="not finite: give another encoder"):
        held_out_features(features, labels, 2, folds)
    with pytest.raises(InputError, match="have one class"):
        held_out_features(np.ones((20, 2)), np.zeros(20, dtype=np.int64), 2, folds)


def test_words_of_the_held_fold_are_unknown():
    texts = ["cup goal", "cup team", "bank sales", "bank shares"] * 3 + ["unseen word"]
    labels = np.asarray([0, 0, 1, 1] * 3 + [0])
    folds = np.asarray([*np.arange(12) % 3, 2])
    found = held_out_words(texts, labels, 2, folds).probabilities
    assert (found[:12].argmax(1) == labels[:12]).all()
    np.testing.assert_allclose(found.sum(1), 1)
    prior = held_out_words([*texts[:12], "other"], labels, 2, folds).probabilities
    np.testing.assert_array_equal(found[12], prior[12])  # whatever an unknown word is, it says nothing
    with pytest.raises(InputError, match="no text has a word"):
        held_out_words(["", " "] * 4, np.arange(8) % 2, 2, np.arange(8) % 2)


# ---- combination ----


@given(st.data())
def test_a_combination_is_a_geometric_mean(data: st.DataObject):
    n, classes, several = (data.draw(st.integers(1, 4)), data.draw(st.integers(2, 4)), data.draw(st.integers(1, 3)))
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    sources = [draw.dirichlet(np.full(classes, 0.2), n) for _ in range(several)]
    if data.draw(st.booleans()):
        sources[0][0] = np.nan
    found = combine(sources)
    for row in range(n):
        known = [one[row] for one in sources if np.isfinite(one[row]).all()]
        if not known:
            assert np.isnan(found[row]).all()
            continue
        products = [np.prod([max(one[at], FLOOR) for one in known]) ** (1 / len(known)) for at in range(classes)]
        np.testing.assert_allclose(found[row], np.asarray(products) / sum(products), rtol=1e-9)


@given(st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=3), min_size=1, max_size=8), st.data())
def test_flags_are_much_likelier_classes(counts: list[list[int]], data: st.DataObject):
    probabilities = np.asarray(counts, dtype=np.float64)
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(counts), max_size=len(counts)))
    found = much_likelier(probabilities, np.asarray(labels), 3.0)
    for row, label, flag in zip(counts, labels, found.tolist(), strict=True):
        assert flag == any(row[at] >= 3 * row[label] for at in range(3) if at != label)


# ---- an index ----


def planted_news(wrong: Sequence[int]) -> list[dict[str, str]]:
    """Rows of clear words, some with the label of the next class, and a column of groups."""
    rows = [dict(row) for row in runs.rows(60)]
    for at in wrong:
        rows[at]["label"] = NAMES[(NAMES.index(rows[at]["label"]) + 1) % 3]
    return [row | {"feed": f"f{at % 7}"} for at, row in enumerate(rows)]


WRONG = (4, 17, 33, 50)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return made(tmp_path_factory.mktemp("noisy"), planted_news(WRONG))


@pytest.fixture(scope="module")
def sampled(noisy: Tiny) -> OutOfSample:
    return cross_validate(Store(noisy.index))


def test_planted_errors_come_first_with_their_right_labels(noisy: Tiny, sampled: OutOfSample):
    store = Store(noisy.index)
    clean = [row["label"] for row in planted_news(())]
    for ranking in ("combined", "out-of-sample"):
        report = label_errors(store, ranking, sampled)
        assert {one.row for one in report.rows[: len(WRONG)]} == set(WRONG)
        for one in report.rows[: len(WRONG)]:
            assert one.predicted_label == clean[one.row]
            assert one.suggested_label == (clean[one.row] if one.is_label_issue else None)
        assert {one.row for one in report.rows if one.is_label_issue} <= set(WRONG)
        assert report.flagged > 0
        assert report.ranking.startswith(f"{ranking}: ")
    assert label_errors(store, None, sampled).ranking.startswith("combined")
    assert label_errors(store).ranking.startswith("mean-probability")
    with pytest.raises(InputError, match="needs out-of-sample probabilities: give --cross-validate"):
        label_errors(store, "combined")


def test_scores_flags_and_confidence_are_those_of_the_combination(noisy: Tiny, sampled: OutOfSample):
    store = Store(noisy.index)
    means, labels = store.features["mean_probabilities"].astype(np.float64), store.features["labels"]
    both = combine([sampled.sources["words"], means])
    report = label_errors(store, None, sampled)
    own = both[np.arange(60), labels]
    assert [one.row for one in report.rows] == sorted(range(60), key=lambda row: (own[row], row))
    for one in report.rows:
        assert one.label_score == pytest.approx(own[one.row])
        assert one.confidence == pytest.approx(both[one.row].max())
        assert one.is_label_issue == bool(both[one.row].max() >= TIMES * own[one.row])
    assert any("pairs of near-duplicates are kept in one fold" in note for note in report.notes)
    plain = judge(store)
    np.testing.assert_allclose(plain.confidence, means.max(1))


def test_features_of_an_encoder_are_a_source_of_their_own(noisy: Tiny):
    store = Store(noisy.index)
    clean = [row["label"] for row in planted_news(())]

    def features(examples: Sequence[proponent.Example]) -> np.ndarray:
        return np.eye(3)[[NAMES.index(clean[one.row]) for one in examples]]

    found = cross_validate(store, features, encoder="oracle")
    assert list(found.sources) == ["words", "oracle"]
    assert (found.sources["oracle"].argmax(1) == [NAMES.index(one) for one in clean]).all()


def test_copies_with_one_wrong_label_do_not_confirm_each_other(tmp_path: Path):
    """Two copies of one odd text with one wrong label: in different folds, one would vouch for the other."""
    rows = planted_news(())
    for at in (6, 12):
        rows[at] |= {"text": "Zebra quagga okapi giraffe.", "label": "World"}
    one = made(tmp_path, rows)
    found = cross_validate(Store(one.index)).sources["words"]
    assert found[6, 2] < 0.5
    assert found[12, 2] < 0.5
    np.testing.assert_allclose(found[6], found[12])


def test_a_class_in_one_fold_is_judged_by_the_run(tmp_path: Path):
    rows = planted_news(())
    rows[5]["label"] = "Weather"
    one = made(tmp_path, rows)
    store = Store(one.index)
    found = cross_validate(store)
    assert np.isnan(found.sources["words"][5]).all()
    assert np.isfinite(np.delete(found.sources["words"], 5, 0)).all()
    assert any("class Weather has too few rows" in note for note in found.notes)
    for ranking in ("combined", "out-of-sample"):
        (row,) = (one for one in label_errors(store, ranking, found).rows if one.row == 5)
        assert row.label_score == pytest.approx(float(store.features["mean_probabilities"][5].max(initial=0, where=[
            name == "Weather" for name in store.plan.labels.names])))  # fmt: skip


def test_deleted_rows_take_no_part(noisy: Tiny, tmp_path: Path):
    one = made(tmp_path, planted_news(WRONG))
    proponent.store.delete(one.index, np.asarray([0, 1]))
    store = Store(one.index)
    found = cross_validate(store)
    assert np.isnan(found.sources["words"][:2]).all()
    assert label_errors(store, None, found).n_examples == 58


def test_a_language_model_has_no_labels(lines: Tiny, tmp_path: Path):
    for work in (cross_validate, lambda store: read_probabilities(store, tmp_path / "p.csv")):
        with pytest.raises(InputError, match="language model, which has no labels"):
            work(Store(lines.index))


# ---- files of probabilities ----


def table() -> dict[str, list[Any]]:
    draw = np.random.default_rng(3).dirichlet(np.ones(3), len(NEWS))
    return {"id": [row["id"] for row in NEWS]} | {name: draw[:, at].tolist() for at, name in enumerate(NAMES)}


def rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_probabilities_are_read_by_id(news: Tiny, tmp_path: Path):
    columns, store = table(), Store(news.index)
    write_parquet(tmp_path / "p.parquet", columns)
    rows = rows_of(columns)
    write_csv(
        tmp_path / "p.csv", [{name: row[name] for name in ("World", "id", "Sports", "Business")} for row in rows[::-1]]
    )
    for name in ("p.parquet", "p.csv"):
        found = read_probabilities(store, tmp_path / name)
        wanted = np.asarray([columns[one] for one in NAMES]).T
        np.testing.assert_allclose(found.sources["file"], wanted, rtol=1e-9)
        assert str(tmp_path / name) in found.notes[0]


BAD: list[tuple[str, Callable[[list[dict[str, Any]]], Any], type[Exception], str]] = [
    (
        "a class is missing",
        lambda rows: [row.pop("World") for row in rows],
        DataError,
        "no column 'World'; it has 'id', 'Business', 'Sports': name the columns",
    ),
    (
        "a class is misspelled",
        lambda rows: [row.update(Wrold=row.pop("World")) for row in rows],
        DataError,
        r"no column 'World' \(did you mean 'Wrold'\?\)",
    ),
    ("no ids", lambda rows: [row.pop("id") for row in rows], DataError, "no column 'id'"),
    (
        "another column",
        lambda rows: [row.update(Science=0) for row in rows],
        DataError,
        "column 'Science' is not one of 'id', 'Business', 'Sports', 'World': remove it",
    ),
    (
        "no number",
        lambda rows: rows[2].update(World="high"),
        DataError,
        r"column 'World', row 2 \(line 4\) holds 'high': it must be a finite number",
    ),
    ("an empty cell", lambda rows: rows[2].update(World=""), DataError, "is empty: it must be a finite number"),
    ("not finite", lambda rows: rows[2].update(World="inf"), DataError, "holds 'inf'"),
    (
        "logits",
        lambda rows: rows[1].update(World=-2.5),
        DataError,
        r"row 1 \(line 3\): a probability is below 0: give probabilities, not logits",
    ),
    (
        "sums",
        lambda rows: rows[1].update(Business=0.9, Sports=0.9, World=0.1),
        DataError,
        r"of 1 rows do not sum to 1 \(row 1 \(line 3\); the first sums to 1\.9\)",
    ),
    ("a repeated id", lambda rows: rows[1].update(id=rows[0]["id"]), DataError, "ids must be unique"),
    (
        "a stranger's id",
        lambda rows: rows.append(rows[0] | {"id": "nobody"}),
        MismatchError,
        r"1 ids are not in .* \(nobody, row 60",
    ),
    (
        "a lost row",
        lambda rows: rows.pop(3),
        MismatchError,
        r"1 of 60 rows of .* have no probabilities \(the first: id n3\): add them",
    ),
]


@pytest.mark.parametrize(("spoil", "error", "match"), [one[1:] for one in BAD], ids=[one[0] for one in BAD])
def test_bad_files_are_named(
    news: Tiny, tmp_path: Path, spoil: Callable[[list[dict[str, Any]]], Any], error: type[Exception], match: str
):
    rows = rows_of(table())
    spoil(rows)
    write_csv(tmp_path / "p.csv", rows)
    with pytest.raises(error, match=match):
        read_probabilities(Store(news.index), tmp_path / "p.csv")


def test_no_file_and_an_empty_one(news: Tiny, tmp_path: Path):
    with pytest.raises(DataError, match="no such file"):
        read_probabilities(Store(news.index), tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("id,Business,Sports,World\n", encoding="utf-8")
    with pytest.raises(DataError, match="has no rows"):
        read_probabilities(Store(news.index), tmp_path / "p.csv")


# ---- the command ----


def test_the_command_cross_validates(said: Said, noisy: Tiny, tmp_path: Path):
    words = ("labels", noisy.index, "--out", tmp_path / "l.csv", "--cross-validate")
    code, out, err = said(*words)
    assert code == 0
    assert "combined: probability of the given label" in " ".join(out.split())
    assert "words alone are cross-validated: the run was trained from scratch" in err
    with (tmp_path / "l.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["rank"]))
    assert {int(row["row"]) for row in rows[: len(WRONG)]} == set(WRONG)
    assert all(0 < float(row["confidence"]) <= 1 for row in rows)
    code, _, err = said(*words, "--encoder", "run", "--group-column", "feed", "--ranking", "out-of-sample", "-q")
    assert (code, err) == (0, "")


def test_groups_of_a_column_are_kept_in_one_fold(noisy: Tiny):
    store = Store(noisy.index)
    feeds = [row["feed"] for row in noisy.rows]
    assert (cross_validate(store).sources["words"] != cross_validate(store, groups=feeds).sources["words"]).any()
    with pytest.raises(InputError, match="groups of rows cannot be spread over 5 folds"):
        cross_validate(store, groups=["one"] * 60)


def test_the_command_reads_probabilities(said: Said, news: Tiny, tmp_path: Path):
    write_csv(tmp_path / "p.csv", rows_of(table()))
    words = ("labels", news.index, "--out", tmp_path / "l.csv", "--probabilities", tmp_path / "p.csv", "-q", "--json")
    code, out, _ = said(*words)
    assert code == 0
    assert f"out-of-sample probabilities of {tmp_path / 'p.csv'}" in out
    code, both, _ = said(*words, "--cross-validate", "--encoder", "none")
    assert code == 0
    assert both != out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--encoder", "run"), "--encoder is for --cross-validate: add it"),
        (("--group-column", "feed"), "--group-column is for --cross-validate: add it"),
        (("--data", "x.csv"), "--data is for --cross-validate: add it"),
        (("--ranking", "combined"), "the ranking combined needs out-of-sample probabilities"),
        (("--ranking", "combine"), "(did you mean 'combined'?)"),
        (("--cross-validate", "--group-column", "fed"), "the data has no column 'fed' (did you mean 'feed'?)"),
        (("--cross-validate", "--encoder", "no/such"), "--encoder no/such: no such folder"),
        (("--cross-validate", "--encoder", "./nowhere"), "--encoder ./nowhere: there is no such folder"),
        (("--cross-validate", "--folds", "1"), "Invalid value for '--folds'"),
        (("--probabilities", "nowhere.csv"), "'nowhere.csv': no such file"),
    ],
)
def test_what_the_command_refuses(
    said: Said, noisy: Tiny, tmp_path: Path, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = said("labels", noisy.index, "--out", tmp_path / "l.csv", *words)
    assert (code, out) == (2, "")
    assert message in err


def test_the_command_without_the_run(said: Said, noisy: Tiny, tmp_path: Path):
    words = ("labels", noisy.index, "--out", tmp_path / "l.csv", "--cross-validate", "--run", tmp_path / "gone")
    code, _, err = said(*words)
    assert code == 0
    assert "words alone are cross-validated, without the features of the run" in err
    code, _, err = said(*words, "--encoder", "run")
    assert code == 2
    assert "gone" in err


def test_a_language_model_is_not_cross_validated(said: Said, lines: Tiny, tmp_path: Path):
    code, _, err = said("labels", lines.index, "--out", tmp_path / "l.csv", "--cross-validate")
    assert code == 2
    assert "--cross-validate is for a classifier" in err


# ---- cleanlab's Datalab ----


def test_a_report_meets_other_data_by_id(noisy: Tiny, sampled: OutOfSample):
    report = label_errors(Store(noisy.index), None, sampled)
    ids = [row["id"] for row in noisy.rows][::-1]
    found = matched(report, 61, [*ids, "new"], [*[row["label"] for row in noisy.rows][::-1], "World"])
    by_row = {one.row: one for one in report.rows}
    for at in range(60):
        one = by_row[59 - at]
        assert (found["issue"][at], found["score"][at]) == (one.is_label_issue, one.label_score)
        assert found["suggested_label"][at] == one.suggested_label
    assert (found["issue"][60], found["score"][60], found["confidence"][60]) == (False, 1.0, None)
    by_number = matched(report, 60, None, [NAMES.index(row["label"]) for row in noisy.rows])
    assert by_number["score"] == [by_row[at].label_score for at in range(60)]


def test_a_report_of_other_data_is_refused(noisy: Tiny):
    report = label_errors(Store(noisy.index))
    ids = [row["id"] for row in noisy.rows]
    with pytest.raises(MismatchError, match="of the report is not in the data set"):
        matched(report, 59, None, None)
    with pytest.raises(MismatchError, match="ids of the data set repeat"):
        matched(report, 60, ["twice"] * 60, None)
    labels = [row["label"] for row in noisy.rows]
    labels[9] = labels[10]
    with pytest.raises(MismatchError, match=r"in the data set and .* in the index"):
        matched(report, 60, ids, labels)
    swap = {"World": "Sports", "Sports": "World"}
    with pytest.raises(MismatchError, match=r"in the data set and .* in the index"):
        matched(report, 60, ids, [swap.get(row["label"], row["label"]) for row in noisy.rows])
    labels = [row["label"] for row in noisy.rows]
    labels[9] = "Weather"
    with pytest.raises(MismatchError, match="several labels of the data set stand for"):
        matched(report, 60, ids, labels)
    twice = replace(report, rows=(*report.rows[:1], replace(report.rows[1], row=report.rows[0].row)))
    with pytest.raises(MismatchError, match="rows of several files have the same numbers"):
        matched(twice, 60, None, None)


def test_rows_without_a_group_stand_alone(noisy: Tiny):
    groups = [""] * 50 + ["one"] * 10
    found = cross_validate(Store(noisy.index), groups=groups)
    ungrouped = cross_validate(Store(noisy.index), groups=[f"g{at}" for at in range(50)] + ["one"] * 10)
    np.testing.assert_allclose(found.sources["words"], ungrouped.sources["words"])


def test_features_of_the_run_itself_are_said_to_have_seen_the_labels(said: Said, noisy: Tiny, tmp_path: Path):
    words = ["labels", noisy.index, "--out", tmp_path / "s.csv", "--cross-validate", "--json"]
    code, out, _ = said(*words, "--encoder", "run", "-q")
    assert code == 0
    assert any("trained on every label that it judges" in one for one in json.loads(out)["notes"])
    code, out, _ = said(*words, "--encoder", "none", "-q")
    assert not any("trained on every label" in one for one in json.loads(out)["notes"])


def test_without_cleanlab_there_is_a_way_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setitem(sys.modules, "cleanlab.datalab", None)
    monkeypatch.setitem(sys.modules, "cleanlab.datalab.internal.issue_manager", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cleanlab\[datalab\]"):
        register()


class Manager:
    """What an issue manager of cleanlab 2.9 is to its subclasses."""

    def __init__(self, datalab: Any) -> None:
        self.datalab = datalab

    @classmethod
    def make_summary(cls, score: float) -> float:
        return score


class Lab:
    """What a Datalab is to its issue managers."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        datasets = pytest.importorskip("datasets")
        self.data, self.label_name = datasets.Dataset.from_list(list(rows)), "label"


def test_the_issue_manager_takes_over_a_report(noisy: Tiny, sampled: OutOfSample, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("pandas")
    home, factory = ModuleType("issue_manager"), ModuleType("factory")
    home.IssueManager = Manager  # type: ignore[attr-defined]
    factory.register = lambda kind: kind  # type: ignore[attr-defined]
    real = importlib.import_module
    named = {
        "cleanlab.datalab.internal.issue_manager": home,
        "cleanlab.datalab.internal.issue_manager_factory": factory,
    }
    monkeypatch.setattr("proponent.views.datalab.import_module", lambda name: named.get(name) or real(name))
    manager = register()(Lab(noisy.rows))
    report = label_errors(Store(noisy.index), None, sampled)
    manager.find_issues(report=report)
    assert manager.issue_name == ISSUE
    flagged = {one.row for one in report.rows if one.is_label_issue}
    assert set(np.flatnonzero(manager.issues[f"is_{ISSUE}_issue"])) == flagged != set()
    assert manager.summary == pytest.approx(np.mean([one.label_score for one in report.rows]))
    assert manager.info["ranking"] == report.ranking
    with pytest.raises(InputError, match="needs a report of suspected label errors"):
        manager.find_issues()


def test_a_real_datalab_lists_the_issues(noisy: Tiny, sampled: OutOfSample, capsys: pytest.CaptureFixture[str]):
    cleanlab = pytest.importorskip("cleanlab", reason="cleanlab is optional")
    register()
    lab = cleanlab.Datalab(Lab(noisy.rows).data, label_name="label")
    report = label_errors(Store(noisy.index), None, sampled)
    assert isinstance(report, LabelReport)
    lab.find_issues(issue_types={ISSUE: {"report": report}})
    flagged = {one.row for one in report.rows if one.is_label_issue}
    assert set(np.flatnonzero(lab.get_issues(ISSUE)[f"is_{ISSUE}_issue"])) == flagged != set()
    lab.report()
    assert f"{ISSUE} issues" in capsys.readouterr().out


def test_the_file_holds_the_confidence(noisy: Tiny, sampled: OutOfSample, tmp_path: Path):
    report = label_errors(Store(noisy.index), None, sampled)
    write_label_csv(report, tmp_path / "l.csv")
    with (tmp_path / "l.csv").open(encoding="utf-8", newline="") as file:
        read = {int(row["row"]): float(row["confidence"]) for row in csv.DictReader(file)}
    assert read == {one.row: one.confidence for one in report.rows}
