"""The honest baselines against slow, readable versions of themselves."""

import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent.baselines import NAMES, Baselines, Texts
from proponent.data import StoredExamples, parquet_bytes, parquet_files
from proponent.errors import InputError, LabelError, MissingExtraError
from proponent.index.baseline_scores import WholeTexts
from proponent.store import Store
from proponent.words import split

TRAIN = [
    "Retail sales slid in August, August was bad",
    "the cat sat on the mat",
    "The CAT isn't here; the dog is",
    "",
    "中文字 cat 3.14",
    "stocks rose in August",
]
QUERIES = ["sales in august august", "the cat isn't", "unseen zzz", "", "中 3.14 !"]
LABELS, QUERY_LABELS = np.array([0, 1, 1, 2, 2, 0]), np.array([0, 1, 2, 2, 1])

ENGINES = {"bm25": "bm25s"}
INSTALL = {"bm25": "bm25s"}


def softmax_rows(rows: int, classes: int, seed: int) -> np.ndarray:
    raw = np.exp(np.random.default_rng(seed).normal(size=(rows, classes)))
    return raw / raw.sum(axis=1, keepdims=True)


def classified(texts: Sequence[str], labels: np.ndarray, seed: int) -> Texts:
    embeddings = np.random.default_rng(seed).normal(size=(len(texts), 4)).astype(np.float32)
    return Texts(texts, labels, softmax_rows(len(texts), 3, seed), embeddings)


@pytest.fixture
def train() -> Texts:
    return classified(TRAIN, LABELS, 1)


@pytest.fixture
def queries() -> Texts:
    return classified(QUERIES, QUERY_LABELS, 2)


# --- slow versions ---------------------------------------------------------------------------------------------------


def tokens(text: str) -> list[str]:
    return [text[start:end].lower() for start, end in split(text) if text[start:end].strip()]


def slow_bm25(train: Sequence[str], query: str, k1: float = 1.5, b: float = 0.75) -> list[float]:
    documents = [Counter(tokens(text)) for text in train]
    average = sum(document.total() for document in documents) / len(documents)
    scores = [0.0] * len(documents)
    for word in tokens(query):
        holding = sum(word in document for document in documents)
        idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        for row, document in enumerate(documents):
            if document[word]:
                length = 1 - b + b * document.total() / average
                scores[row] += idf * document[word] / (document[word] + k1 * length)
    return scores


def slow_tfidf(train: Sequence[str], query: str) -> list[float]:
    documents = [Counter(tokens(text)) for text in train]

    def vector(counts: Counter[str]) -> dict[str, float]:
        weights: dict[str, float] = {}
        for word, count in counts.items():
            holding = sum(word in document for document in documents)
            if holding:
                weights[word] = count * (math.log((1 + len(documents)) / (1 + holding)) + 1)
        norm = math.sqrt(sum(weight**2 for weight in weights.values()))
        return {word: weight / norm for word, weight in weights.items()}

    asked = vector(Counter(tokens(query)))
    return [sum(asked.get(word, 0.0) * weight for word, weight in vector(document).items()) for document in documents]


def slow_cosine(left: np.ndarray, right: np.ndarray) -> float:
    norm = math.sqrt(float(left @ left)) * math.sqrt(float(right @ right))
    return float(left @ right) / norm if norm else 0.0


# --- each baseline ---------------------------------------------------------------------------------------------------


def test_bm25_equals_the_slow_one(train: Texts, queries: Texts) -> None:
    scores = Baselines(train).scores("bm25", queries)
    assert scores == pytest.approx(np.array([slow_bm25(TRAIN, query) for query in QUERIES]), rel=1e-5, abs=1e-6)
    assert (scores >= 0).all()
    assert scores[0, 0] > scores[0, 5] > 0
    assert not scores[2:4].any()


corpus = st.lists(
    st.lists(st.sampled_from(["a", "B", "b", "isn't", "中", "!", "3.14", "\n"]), max_size=8).map(" ".join),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(corpus, corpus)
def test_lexical_baselines_equal_the_slow_ones_on_any_corpus(train: list[str], queries: list[str]) -> None:
    baselines = Baselines(Texts(train))
    bm25 = np.array([slow_bm25(train, query) if any(map(tokens, train)) else [0.0] * len(train) for query in queries])
    assert baselines.scores("bm25", Texts(queries)) == pytest.approx(bm25, rel=1e-5, abs=1e-6)
    tfidf = np.array([slow_tfidf(train, query) for query in queries])
    assert baselines.scores("tfidf-label", Texts(queries)) == pytest.approx(tfidf, abs=1e-9)


def test_tfidf_without_labels_is_the_plain_cosine() -> None:
    scores = Baselines(Texts(TRAIN)).scores("tfidf-label", Texts(QUERIES, QUERY_LABELS))
    assert scores == pytest.approx(np.array([slow_tfidf(TRAIN, query) for query in QUERIES]), abs=1e-9)
    assert Baselines(Texts(TRAIN)).scores("tfidf-label", Texts(TRAIN))[1, 1] == pytest.approx(1)


def test_tfidf_label_multiplies_the_error_signals(train: Texts, queries: Texts) -> None:
    scores = Baselines(train).scores("tfidf-label", queries)
    for q, query in enumerate(QUERIES):
        for n, cosine in enumerate(slow_tfidf(TRAIN, query)):
            theirs = [train.probabilities[n][c] - (c == LABELS[n]) for c in range(3)]
            ours = [queries.probabilities[q][c] - (c == QUERY_LABELS[q]) for c in range(3)]
            product = sum(a * b for a, b in zip(ours, theirs, strict=True))
            assert scores[q, n] == pytest.approx(cosine * product, abs=1e-9)


def test_a_text_helps_itself_and_hurts_its_mislabelled_twin() -> None:
    half = np.array([[0.5, 0.5], [0.5, 0.5]])
    twins = Texts(["same words here"] * 2, np.array([0, 1]), half, np.ones((2, 3)))
    baselines = Baselines(twins)
    query = Texts(["same words here"], np.array([0]), half[:1], np.ones((1, 3)))
    for name in ("tfidf-label", "embedding", "label"):
        helped, hurt = baselines.scores(name, query)[0]
        assert helped > 0 > hurt


def test_embedding_is_the_signed_cosine(train: Texts, queries: Texts) -> None:
    scores = Baselines(train).scores("embedding", queries)
    for q in range(len(QUERIES)):
        for n in range(len(TRAIN)):
            sign = 1 if QUERY_LABELS[q] == LABELS[n] else -1
            cosine = slow_cosine(queries.embeddings[q], train.embeddings[n])
            assert scores[q, n] == pytest.approx(sign * cosine, abs=1e-6)


def test_embedding_without_labels_has_no_sign_and_no_trouble_with_zeros() -> None:
    embeddings = np.array([[0.0, 0.0], [3.0, 4.0]])
    scores = Baselines(Texts(["a", "b"], embeddings=embeddings)).scores(
        "embedding", Texts(["c"], embeddings=-embeddings[1:])
    )
    assert scores == pytest.approx(np.array([[0.0, -1.0]]))


def test_label_is_the_sign_of_agreement(train: Texts, queries: Texts) -> None:
    scores = Baselines(train).scores("label", queries)
    assert scores[0].tolist() == [1, -1, -1, -1, -1, 1]
    assert scores[2].tolist() == [-1, -1, -1, 1, 1, -1]


def test_random_depends_on_seed_and_query_text_alone(train: Texts) -> None:
    forward = Baselines(train, seed=7).scores("random", Texts(["a", "b\ud800", "c"]))
    backward = Baselines(train, seed=7).scores("random", Texts(["c", "b\ud800", "a"]))
    assert (forward == backward[::-1]).all()
    assert (np.abs(forward) <= 1).all()
    assert len(np.unique(forward)) == forward.size
    assert not (forward == Baselines(train, seed=8).scores("random", Texts(["a", "b\ud800", "c"]))).any()


def test_random_fills_its_range_on_both_sides() -> None:
    noise = Baselines(Texts(["x"] * 4000)).scores("random", Texts(["a"]))[0]
    assert abs(noise.mean()) < 0.05
    assert noise.min() < -0.98
    assert noise.max() > 0.98


# --- shapes, order, edges --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_query_is_scored_by_itself(name: str, train: Texts, queries: Texts) -> None:
    baselines = Baselines(train)
    together = baselines.scores(name, queries)
    assert together.shape == (len(QUERIES), len(TRAIN))
    assert together.dtype == np.float64
    for q in range(len(QUERIES)):
        one = slice(q, q + 1)
        alone = Texts(QUERIES[one], QUERY_LABELS[one], queries.probabilities[one], queries.embeddings[one])
        assert baselines.scores(name, alone)[0] == pytest.approx(together[q], abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_score_gives_an_empty_table(name: str, train: Texts, queries: Texts) -> None:
    nothing = Texts([], np.zeros(0, dtype=np.int64), np.zeros((0, 3)), np.zeros((0, 4)))
    assert Baselines(train).scores(name, nothing).shape == (0, len(TRAIN))
    assert Baselines(nothing).scores(name, queries).shape == (len(QUERIES), 0)


@pytest.mark.parametrize("name", ["bm25", "tfidf-label"])
def test_texts_without_words_score_zero(name: str) -> None:
    assert Baselines(Texts(["", " \n"])).scores(name, Texts(["a", ""])).tolist() == [[0, 0], [0, 0]]


def test_what_is_fitted_is_kept(train: Texts, queries: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    baselines = Baselines(train)
    first = {name: baselines.scores(name, queries) for name in NAMES}
    for module in ("bm25s", "sklearn", "sklearn.feature_extraction.text"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in NAMES:
        assert (baselines.scores(name, queries) == first[name]).all()


# --- what is missing -------------------------------------------------------------------------------------------------


def test_nothing_is_missing_when_all_is_there(train: Texts) -> None:
    assert Baselines(train).missing() == {}


def test_a_language_model_has_no_label_baseline() -> None:
    assert Baselines(Texts(TRAIN)).missing() == {"label": "no labels", "embedding": "the index has no embeddings"}
    assert Baselines(Texts(TRAIN, embeddings=np.ones((6, 2)))).missing() == {"label": "no labels"}


def test_labels_without_probabilities_leave_no_error_signal() -> None:
    baselines = Baselines(Texts(TRAIN, LABELS))
    assert baselines.missing()["tfidf-label"] == "the index has no class probabilities"
    with pytest.raises(InputError, match=r"tfidf-label.*the index has no class probabilities"):
        baselines.scores("tfidf-label", Texts(QUERIES, QUERY_LABELS))


@pytest.mark.parametrize("name", ENGINES)
def test_a_missing_extra_is_named_with_the_way_out(
    name: str, train: Texts, queries: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [loaded for loaded in sys.modules if loaded.split(".")[0] == ENGINES[name]] or [ENGINES[name]]:
        monkeypatch.setitem(sys.modules, module, None)
    baselines = Baselines(train)
    missing = baselines.missing()
    assert set(missing) == {name}
    way_out = f"pip install {INSTALL[name]}"
    assert way_out in missing[name]
    with pytest.raises(MissingExtraError, match=rf"{name}.*{re.escape(way_out)}"):
        baselines.scores(name, queries)
    others = [other for other in NAMES if other != name]
    assert all(baselines.scores(other, queries).shape == (5, 6) for other in others)


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("nope", Texts(QUERIES), "unknown baseline 'nope'; choose one of bm25, tfidf-label, embedding, label, random"),
        ("label", Texts(QUERIES), "the queries have no labels"),
        ("embedding", Texts(QUERIES, embeddings=np.ones((5, 4))), "the queries have no labels"),
        ("embedding", Texts(QUERIES, QUERY_LABELS), "the queries have no embeddings"),
        ("tfidf-label", Texts(QUERIES, QUERY_LABELS), "the queries have no class probabilities"),
        ("embedding", Texts(QUERIES, QUERY_LABELS, None, np.ones((5, 9))), "embeddings of the queries have 9 columns"),
        ("tfidf-label", Texts(QUERIES, QUERY_LABELS, np.ones((5, 4))), "probabilities of the queries have 4 columns"),
        ("bm25", Texts(QUERIES, np.array([0, 1])), "5 texts came with 2 labels"),
        ("bm25", Texts(QUERIES, embeddings=np.ones((2, 4))), "5 texts came with 2 rows of embeddings"),
    ],
)
def test_queries_that_do_not_fit_are_refused(name: str, asked: Texts, message: str, train: Texts) -> None:
    with pytest.raises(InputError, match=message):
        Baselines(train).scores(name, asked)


def test_labels_out_of_range_are_refused(train: Texts) -> None:
    with pytest.raises(
        LabelError, match="the training set: text 5 has the label 3, but the model has the classes 0 to 2"
    ):
        Baselines(Texts(TRAIN, np.array([0, 1, 1, 2, 2, 3]), train.probabilities))
    with pytest.raises(LabelError, match="text 1 has the label -1, but classes are numbered from 0"):
        Baselines(Texts(["a", "b"], np.array([0, -1])))
    with pytest.raises(LabelError, match="the queries: text 0 has the label 3"):
        Baselines(train).scores("label", Texts(["a"], np.array([3])))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    rows = np.array([[0.1, 0.9], [bad, 0.2]])
    with pytest.raises(InputError, match="the embeddings of text 1 are not finite"):
        Baselines(Texts(["a", "b"], embeddings=rows))
    with pytest.raises(InputError, match="the class probabilities of text 1 are not finite"):
        Baselines(Texts(["a", "b"], np.array([0, 1]), rows))


def test_texts_are_joined_whatever_the_blocks_of_their_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text {row} " + "x" * (row % 7 * 40) for row in range(50)]
    pairs = [None if row % 3 else f"pair {row}" for row in range(50)]
    places = list(range(50))
    held = {"id": list(map(str, places)), "row": places, "place": places, "text": texts, "text_pair": pairs}
    (tmp_path / "x.parquet").write_bytes(parquet_bytes(held))
    monkeypatch.setattr(parquet_files, "BATCH", 600)  # few long texts are read at a time, and many short ones
    stored = StoredExamples(tmp_path / "x.parquet")
    assert len(list(stored.blocks("text"))) != len(list(stored.blocks("text_pair")))
    store = Store.__new__(Store)
    store.segments = cast("Any", [SimpleNamespace(examples=stored)])
    joined = [text if pair is None else f"{text} {pair}" for text, pair in zip(texts, pairs, strict=True)]
    assert [*iter(WholeTexts(store))] == joined
