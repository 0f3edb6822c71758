"""Label errors: slow readable truths for the rule, the rankings and the file."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proponent
from proponent.actions.label_errors import RANKINGS, confident_errors, label_errors, support, write_label_csv
from proponent.errors import InputError
from proponent.store import Segment, Store, delete
from tiny import NEWS, Tiny

DATALAB = ["is_label_issue", "label_score", "given_label", "predicted_label"]


def slow_confident_errors(probabilities: list[list[float]], given: list[int]) -> list[int | None]:
    """The rule in plain words: the class to change each label to, or None."""
    classes = range(len(probabilities[0]))
    threshold: dict[int, float] = {}
    for number in classes:
        own = [row[number] for row, label in zip(probabilities, given, strict=True) if label == number]
        if own:
            threshold[number] = sum(own) / len(own)
    better: list[int | None] = []
    for row, label in zip(probabilities, given, strict=True):
        confident = [
            number for number in classes if number != label and number in threshold and row[number] >= threshold[number]
        ]
        best = max(confident, key=lambda number: row[number], default=None)
        better.append(best if best is not None and row[best] > row[label] else None)
    return better


@given(st.data())
def test_confident_errors_follow_the_rule(data: st.DataObject):
    classes = data.draw(st.integers(2, 4))
    n = data.draw(st.integers(1, 12))
    # eighths are exact: a mean of them meets its bound exactly, or not at all
    counts = data.draw(
        st.lists(st.lists(st.integers(0, 8), min_size=classes, max_size=classes), min_size=n, max_size=n)
    )
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n))
    probabilities = np.asarray(counts, dtype=np.float64) / 8
    flagged, better = confident_errors(probabilities, np.asarray(labels))
    wanted = slow_confident_errors(probabilities.tolist(), labels)
    sizes = {labels.count(number) for number in set(labels)}
    if all(size & (size - 1) == 0 for size in sizes):  # means over 1, 2, 4, 8 rows are exact too
        assert [int(one) if flag else None for one, flag in zip(better, flagged, strict=True)] == wanted


def test_a_class_that_nobody_carries_is_never_suggested():
    flagged, _ = confident_errors(np.array([[0.1, 0.0, 0.9], [0.4, 0.6, 0.0]]), np.array([0, 1]))
    assert flagged.tolist() == [False, False]
    flagged, better = confident_errors(np.array([[0.3, 0.7], [0.1, 0.9], [0.5, 0.5]]), np.array([0, 1, 1]))
    assert (flagged.tolist(), better[0]) == ([True, False, False], 1)


@pytest.fixture(scope="module")
def stores(news: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, proponent.Index]:
    folder = tmp_path_factory.mktemp("methods")
    wanted = {
        "plain": {"method": "tracin-we-adam-unit"},
        "adam": {"method": "tracin-we-adam"},
        "unit": {"method": "tracin-we-adam-unit", "unit_norm": True},
        "both": {"method": "tracin-we-adam", "unit_norm": True},
        "top": {"method": "tracin-we-topk", "top": 4},
        "cosine": {"method": "tracin-we-adam-unit", "similarity": "cosine"},
        "cosine-adam": {"method": "tracin-we-adam", "similarity": "cosine"},
        "grad-cos": {"method": "grad-cos"},
        "idf": {"method": "tracin-we-idf"},
        "grad-cos-equal": {"method": "grad-cos", "layers": "linear", "weights": "equal", "similarity": "dot"},
    }
    return {
        name: proponent.build(news.run, news.data, folder / name, quiet=True, **options)
        for name, options in wanted.items()
    }


METHODS = ["plain", "adam", "unit", "both", "top", "cosine", "cosine-adam", "grad-cos", "grad-cos-equal", "idf"]


@pytest.mark.parametrize("name", METHODS)
def test_support_is_the_column_sum_of_all_scores(stores: dict[str, proponent.Index], name: str):
    """Every training text asked about with its own label: what all others did to it, and what it did to itself."""
    index = stores[name]
    scores = index.scores([row["text"] for row in NEWS], [row["label"] for row in NEWS])
    others = [sum(float(scores[query, row]) for row in range(len(NEWS)) if row != query) for query in range(len(NEWS))]
    size = np.abs(scores).sum(1)
    assert (np.abs(support(index.store) - others) <= 1e-4 * size).all()
    assert (np.abs(support(index.store, itself=True) - scores.diagonal()) <= 1e-4 * size).all()
    assert (support(index.store, itself=True) > 0).all()


@pytest.mark.parametrize("ranking", list(RANKINGS))
def test_rows_stand_in_the_order_of_the_ranking(news: Tiny, ranking: str):
    store = Store(news.index)
    report = label_errors(store, ranking)  # type: ignore[arg-type]
    losses = store.features["losses"]
    own = store.features["mean_probabilities"][np.arange(len(NEWS)), store.features["labels"]].astype(float)
    suspicion = {
        "mean-probability": -own,
        "mean-loss": losses.mean(0),
        "last-loss": losses[-1],
        "influence": -support(store),
        "self-influence": support(store, itself=True),
    }[ranking]
    assert [one.row for one in report.rows] == sorted(range(len(NEWS)), key=lambda row: (-suspicion[row], row))
    assert [one.rank for one in report.rows] == list(range(1, len(NEWS) + 1))
    assert report.n_examples == len(NEWS)
    assert report.ranking == f"{ranking}: {RANKINGS[ranking]}"  # type: ignore[index]
    scores = [one.label_score for one in report.rows]
    assert scores == sorted(scores)
    assert 0 < scores[0] <= scores[-1] <= 1
    if ranking == "mean-probability":
        np.testing.assert_allclose(scores, np.sort(own), rtol=1e-12)
    if ranking == "mean-loss":
        np.testing.assert_allclose(scores, np.exp(-np.sort(losses.mean(0))[::-1]), rtol=1e-12)
    if ranking == "influence":
        np.testing.assert_allclose(scores, np.arange(1, len(NEWS) + 1) / len(NEWS))


@pytest.fixture
def features(news: Tiny, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """The arrays over the examples as every store of the test then gives them, to be changed."""
    changed = dict(Store(news.index).features)
    monkeypatch.setattr(Store, "features", changed)
    monkeypatch.setattr(Segment, "features", lambda _, name: changed[name].copy())
    return changed


def test_ties_stand_in_data_order(news: Tiny, features: dict[str, np.ndarray]):
    store = Store(news.index)
    features["losses"][:] = 0.5
    assert [one.row for one in label_errors(store, "mean-loss").rows] == list(range(len(NEWS)))


def test_flags_and_suggestions_agree(news: Tiny):
    store = Store(news.index)
    given = store.features["labels"]
    wanted = slow_confident_errors(store.features["mean_probabilities"].tolist(), given.tolist())
    names = store.plan.label_names
    assert names is not None
    by_row = {one.row: one for one in label_errors(store).rows}
    for row, better in enumerate(wanted):
        one = by_row[row]
        assert one.is_label_issue == (better is not None)
        assert one.suggested_label == (None if better is None else names[better])
        assert one.given_label == NEWS[row]["label"]
        assert one.predicted_label == names[int(store.features["mean_probabilities"][row].argmax())]
        assert (one.id, one.text) == (NEWS[row]["id"], NEWS[row]["text"])


def test_skipped_rows_are_not_ranked(news: Tiny, features: dict[str, np.ndarray]):
    store = Store(news.index)
    features["skipped"][3] = True
    features["losses"][:, 3] = np.nan
    features["mean_probabilities"][3] = np.nan
    for ranking in RANKINGS:
        report = label_errors(store, ranking)
        assert report.n_examples == len(NEWS) - 1
        assert 3 not in {one.row for one in report.rows}
        assert all(np.isfinite(one.label_score) for one in report.rows)


def test_the_file_reads_back(news: Tiny, tmp_path: Path):
    report = label_errors(Store(news.index))
    guarded = write_label_csv(report, tmp_path / "labels.csv")
    assert guarded == 1  # the text that begins with =
    with (tmp_path / "labels.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == [*DATALAB, "suggested_label", "rank", "id", "row", "text", "confidence"]
    assert [row["id"] for row in read] == [row["id"] for row in NEWS]
    by_row = {one.row: one for one in report.rows}
    for place, row in enumerate(read):
        one = by_row[place]
        assert row["is_label_issue"] == str(one.is_label_issue)
        assert float(row["label_score"]) == one.label_score
        assert row["suggested_label"] == (one.suggested_label or one.given_label)
        assert (row["given_label"], row["predicted_label"]) == (one.given_label, one.predicted_label)
        assert int(row["rank"]) == one.rank
        text = NEWS[place]["text"]
        assert row["text"] == (f"'{text}" if text.startswith("=") else text)


def test_pairs_show_both_texts(pairs: Tiny):
    one = next(one for one in label_errors(Store(pairs.index)).rows if one.row == 0)
    assert one.text == f"{pairs.rows[0]['text']} {pairs.rows[0]['text_pair']}"


def test_what_cannot_be_ranked(news: Tiny, lines: Tiny, tmp_path: Path):
    with pytest.raises(InputError, match="language model, which has no labels"):
        label_errors(Store(lines.index))
    with pytest.raises(InputError, match="tracin-we-idf-bm25 of this index computes other scores"):
        support(Store(lines.index))  # word overlap is no product of gradients
    whole = proponent.build(lines.run, lines.data, tmp_path / "whole", "tracin-we", quiet=True)
    with pytest.raises(InputError, match="tracin-we of this index computes other scores"):
        support(whole.store)  # the head shares the table: products meet outside equal tokens
    for method in ("tracin-we-syn", "tracin-last", "label", "representer", "ekfac", "fastif"):
        index = proponent.build(news.run, news.data, tmp_path / method, method=method, quiet=True)
        with pytest.raises(InputError, match="use --ranking mean-probability"):
            label_errors(index.store, "influence")
        assert len(label_errors(index.store).rows) == len(NEWS)


def test_support_of_the_input_path_of_a_language_model(lines: Tiny, tmp_path: Path):
    index = proponent.build(lines.run, lines.data, tmp_path / "input", "tracin-we", path="input", quiet=True)
    rows = lines.rows
    scores = index.scores([row["text"] for row in rows], targets=[row["target"] for row in rows])
    wanted = scores.sum(1) - scores.diagonal()
    assert (np.abs(support(index.store) - wanted) <= 1e-4 * np.abs(scores).sum(1)).all()


def test_cosines_of_deleted_examples_do_not_count(news: Tiny, tmp_path: Path):
    index = proponent.build(news.run, news.data, tmp_path / "index", method="grad-cos", quiet=True)
    delete(index.store.folder, np.asarray([0, 7]))
    index = proponent.open(index.store.folder)
    scores = index.scores([row["text"] for row in NEWS], [row["label"] for row in NEWS])
    wanted = np.nansum(scores, axis=1) - scores.diagonal()
    alive = index.store.alive
    assert (np.abs(support(index.store) - wanted)[alive] <= 1e-4 * np.nansum(np.abs(scores), axis=1)[alive]).all()


def test_self_influence_under_a_cosine_says_that_it_ranks_nothing(stores: dict[str, proponent.Index]):
    report = label_errors(stores["grad-cos"].store, "self-influence")
    assert any("every example has the same score on itself" in note for note in report.notes)
    report = label_errors(stores["idf"].store, "self-influence")
    assert any("every example has the same score on itself" in note for note in report.notes)
    for name, ranking in (("grad-cos", "influence"), ("cosine-adam", "self-influence"), ("plain", "self-influence")):
        assert not any("the same score on itself" in note for note in label_errors(stores[name].store, ranking).notes)
