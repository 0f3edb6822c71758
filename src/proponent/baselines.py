"""Baselines: scores of training examples that need no gradient.

They are shown next to every score for comparison. Each gives one number per pair of query and
training example; positive means helped, negative hurt.

| name | score |
|---|---|
| bm25 | Lucene's BM25 over lower-cased words; never negative |
| tfidf-label | cosine of TF-IDF vectors times the product of the two error signals p - y |
| embedding | cosine of the mean-pooled last hidden states times +1 (same label) or -1 (other label) |
| label | +1 same label, -1 other label |
| random | seeded noise in [-1, 1] |

Without labels (a language model) tfidf-label and embedding are the plain cosines, and there is no label baseline.
"""

import hashlib
import importlib
import importlib.util
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from proponent.errors import InputError, LabelError, MissingExtraError
from proponent.words import lower_words

NAMES = ("bm25", "tfidf-label", "embedding", "label", "random")
"""The baselines, in display order."""

_Floats = npt.NDArray[np.float64]


class _Package(NamedTuple):
    module: str
    package: str
    install: str

    @property
    def way_out(self) -> str:
        return f"{self.package} is not installed or cannot be imported; pip install {self.install}"


_PACKAGES = {
    "bm25": _Package("bm25s", "bm25s", "bm25s"),
    "out-of-fold loss": _Package("sklearn", "scikit-learn", "scikit-learn"),
}


@dataclass(frozen=True)
class Texts:
    """The inputs that baselines may use, from a training set or from queries."""

    texts: Sequence[str]  # the raw texts; a pair, or a prompt and its target, joined by a space
    labels: Int[np.ndarray, " n"] | None = None  # class indices; None for a language model
    # the model's class probabilities at the last checkpoint; None if they were not stored
    probabilities: Float[np.ndarray, "n l"] | None = None
    # mean-pooled last hidden states at the last checkpoint; None if they were not stored
    embeddings: Float[np.ndarray, "n d"] | None = None


class Baselines:
    """The baselines of one training set; each is fitted on first use and cached."""

    def __init__(self, train: Texts, seed: int = 0) -> None:
        _check(train, "the training set")
        self._train = train
        self._seed = seed

    def missing(self) -> dict[str, str]:
        """The baselines that cannot be computed for this training set."""
        reasons: dict[str, str] = {}
        for name in NAMES:
            lacking = _lacking(name, self._train, self._labelled)
            if lacking:
                reasons[name] = "no labels" if lacking == "labels" else f"the index has no {lacking}"
            elif name in _PACKAGES and importlib.util.find_spec(_PACKAGES[name].module) is None:
                reasons[name] = _PACKAGES[name].way_out
        return reasons

    def scores(self, name: str, queries: Texts) -> Float[np.ndarray, "q n"]:
        """Scores every training example for every query."""
        if name not in NAMES:
            raise InputError(f"unknown baseline '{name}'; choose one of {', '.join(NAMES)}")
        lacking = _lacking(name, self._train, self._labelled)
        if lacking:
            raise InputError(f"the baseline '{name}' cannot be computed: the index has no {lacking}")
        self._check_queries(name, queries)
        compute = {
            "bm25": self._bm25,
            "tfidf-label": self._tfidf_label,
            "embedding": self._embedding,
            "label": self._label_sign,
            "random": self._random,
        }[name]
        return compute(queries)

    @property
    def _labelled(self) -> bool:
        return self._train.labels is not None

    def _check_queries(self, name: str, queries: Texts) -> None:
        _check(queries, "the queries")
        lacking = _lacking(name, queries, self._labelled)
        if lacking:  # ignoring labels that the training set has would change the meaning of the baseline
            raise InputError(f"the baseline '{name}' cannot be computed: the queries have no {lacking}")
        for what, ours, theirs in (
            ("class probabilities", queries.probabilities, self._train.probabilities),
            ("embeddings", queries.embeddings, self._train.embeddings),
        ):
            if ours is not None and theirs is not None and ours.shape[1] != theirs.shape[1]:
                raise InputError(
                    f"the {what} of the queries have {ours.shape[1]} columns, those of the training set "
                    f"{theirs.shape[1]}; both must come from the same model"
                )
        if self._train.probabilities is not None:
            _check_labels(queries.labels, self._train.probabilities.shape[1], "the queries")

    def _bm25(self, queries: Texts) -> _Floats:
        scores = np.zeros((len(queries.texts), len(self._train.texts)))
        vocabulary, index = self._bm25_index
        for row, text in zip(scores, queries.texts, strict=True):
            known = [vocabulary[word] for word in lower_words(text) if word in vocabulary]
            if known:
                row[:] = index.get_scores_from_ids(known)
        return scores

    def overlap_by_word(self, text: str) -> dict[str, Float[np.ndarray, " n"]]:
        """BM25 of every training example for each word of a query: what one occurrence of the word adds."""
        vocabulary, index = self._bm25_index
        known = dict.fromkeys(word for word in lower_words(text) if word in vocabulary)
        return {word: np.asarray(index.get_scores_from_ids([vocabulary[word]]), dtype=np.float64) for word in known}

    @cached_property
    def _bm25_index(self) -> tuple[dict[str, int], Any]:
        bm25s = _import("bm25", "bm25s")
        vocabulary: dict[str, int] = {}
        documents = [
            array("i", [vocabulary.setdefault(word, len(vocabulary)) for word in lower_words(text)])
            for text in self._train.texts
        ]  # four bytes per word: lists would take eight times as much
        index = bm25s.BM25(method="lucene")
        if vocabulary:  # a training set without words has nothing to index or to look up
            index.index((documents, vocabulary), create_empty_token=False, show_progress=False)
        return vocabulary, index

    def _tfidf_label(self, queries: Texts) -> _Floats:
        cosine = np.zeros((len(queries.texts), len(self._train.texts)))
        for row, text in zip(cosine, queries.texts, strict=True):
            row[:] = self._tfidf.cosines(text)
        if self._train.labels is None or not queries.texts:
            return cosine
        return cosine * (_error_signal(queries) @ _error_signal(self._train).T)

    @cached_property
    def _tfidf(self) -> "WordVectors":
        return WordVectors.of(self._train.texts)

    def _embedding(self, queries: Texts) -> _Floats:
        cosine = _unit(queries.embeddings) @ self._unit_embeddings.T
        return cosine if self._train.labels is None else cosine * self._label_sign(queries)

    @cached_property
    def _unit_embeddings(self) -> _Floats:
        return _unit(self._train.embeddings)

    def _label_sign(self, queries: Texts) -> _Floats:
        ours, theirs = np.asarray(queries.labels), np.asarray(self._train.labels)
        return np.where(ours[:, None] == theirs[None, :], 1.0, -1.0)

    def _random(self, queries: Texts) -> _Floats:
        size = len(self._train.texts)
        rows = [_noise(self._seed, text, size) for text in queries.texts]
        return np.array(rows, dtype=np.float64).reshape(len(rows), size)


@dataclass(frozen=True)
class WordVectors:
    """TF-IDF vectors of n texts, of norm 1: counts of lower-cased words times ln((1 + n) / (1 + texts with it)) + 1."""

    # the weights of scikit-learn's TfidfVectorizer, without its import, which takes most of the time of a first answer
    vocabulary: dict[str, int]
    idf: Float[np.ndarray, " v"]
    owners: Int[np.ndarray, " m"]  # the text of each weight
    words: Int[np.ndarray, " m"]  # its word
    weights: Float[np.ndarray, " m"]
    n: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> "WordVectors":
        """Count the words of a training set."""
        vocabulary: dict[str, int] = {}
        numbers, ends = array("q"), array("q", [0])
        for text in texts:
            numbers.extend(vocabulary.setdefault(word, len(vocabulary)) for word in lower_words(text))
            ends.append(len(numbers))
        held = np.repeat(np.arange(len(texts)), np.diff(np.asarray(ends)))
        keys, counts = np.unique(held * max(1, len(vocabulary)) + np.asarray(numbers), return_counts=True)
        owners, words = np.divmod(keys, max(1, len(vocabulary)))
        holding = np.bincount(words, minlength=len(vocabulary))
        idf = np.log((1 + len(texts)) / (1 + holding)) + 1
        weights = counts * idf[words]
        norms = np.sqrt(np.bincount(owners, weights=weights**2, minlength=len(texts)))
        return cls(vocabulary, idf, owners, words, weights / norms[owners], len(texts))

    def vector(self, text: str) -> dict[str, float]:
        """Weight of each known word of a text."""
        counts = Counter(word for word in lower_words(text) if word in self.vocabulary)
        found = {word: count * float(self.idf[self.vocabulary[word]]) for word, count in counts.items()}
        norm = sum(weight**2 for weight in found.values()) ** 0.5
        return {word: weight / norm for word, weight in found.items()}

    def cosines(self, text: str) -> Float[np.ndarray, " n"]:
        """Cosine of a text with every text of the training set."""
        asked = np.zeros(len(self.vocabulary))
        for word, weight in self.vector(text).items():
            asked[self.vocabulary[word]] = weight
        return np.bincount(self.owners, weights=self.weights * asked[self.words], minlength=self.n).astype(np.float64)


def tfidf_weights(train: Sequence[str], texts: Sequence[str]) -> list[dict[str, float]]:
    """TF-IDF weight of each word of each text, in lower case, with the idf of the training texts; texts of norm 1."""
    made = WordVectors.of(train)
    return [made.vector(text) for text in texts]


def held_out_losses(
    texts: Sequence[str], labels: Int[np.ndarray, " n"], folds: int = 5, seed: int = 0
) -> Float[np.ndarray, " n"]:
    """Loss of each label under a logistic regression on TF-IDF that is fitted on the other folds; NaN without words."""
    text, linear = ("sklearn.feature_extraction.text", "sklearn.linear_model")
    vectorizer = _import("out-of-fold loss", text).TfidfVectorizer(analyzer=lower_words)
    regression = _import("out-of-fold loss", linear).LogisticRegression
    found: _Floats = np.full(len(texts), np.nan)
    if not any(lower_words(text) for text in texts):
        return found
    vectors = vectorizer.fit_transform(texts)
    fold = np.random.default_rng(seed).permutation(len(texts)) % folds
    for number in range(folds):
        held, rest = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        known = np.unique(labels[rest])
        if len(held) and len(known) > 1:
            made = regression(max_iter=500).fit(vectors[rest], labels[rest]).predict_log_proba(vectors[held])
            places = np.minimum(np.searchsorted(known, labels[held]), len(known) - 1)
            right = known[places] == labels[held]
            found[held] = np.where(right, -made[np.arange(len(held)), places], -np.log(1e-12))
    return found


def _lacking(name: str, texts: Texts, labelled: bool) -> str:
    """Inputs that a baseline needs and `texts` lacks; empty if nothing is missing."""
    if texts.labels is None and (name == "label" or (labelled and name in {"tfidf-label", "embedding"})):
        return "labels"
    if texts.probabilities is None and labelled and name == "tfidf-label":
        return "class probabilities"
    if texts.embeddings is None and name == "embedding":
        return "embeddings"
    return ""


def _check(texts: Texts, owner: str) -> None:
    size = len(texts.texts)
    if texts.labels is not None and len(texts.labels) != size:
        raise InputError(f"{owner}: {size} texts came with {len(texts.labels)} labels; pass one label for each text")
    for what, rows in (("class probabilities", texts.probabilities), ("embeddings", texts.embeddings)):
        if rows is None:
            continue
        if len(rows) != size:
            raise InputError(f"{owner}: {size} texts came with {len(rows)} rows of {what}; pass one row for each text")
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            raise InputError(
                f"{owner}: the {what} of text {bad[0]} are not finite ({bad.size} such texts); the model overflowed "
                "there, so leave these texts out or compute them in float32"
            )
    _check_labels(texts.labels, None if texts.probabilities is None else texts.probabilities.shape[1], owner)


def _check_labels(labels: Int[np.ndarray, " n"] | None, classes: int | None, owner: str) -> None:
    if labels is None:
        return
    bad = np.flatnonzero((labels < 0) | (labels >= (np.inf if classes is None else classes)))
    if bad.size:
        known = "classes are numbered from 0" if classes is None else f"the model has the classes 0 to {classes - 1}"
        raise LabelError(f"{owner}: text {bad[0]} has the label {labels[bad[0]]}, but {known}; check the labels")


def _import(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"the baseline '{name}' cannot be computed: {_PACKAGES[name].way_out}") from error


def _error_signal(texts: Texts) -> _Floats:
    """Errors p - y: the gradient of the loss with respect to the logits."""
    signal = np.array(texts.probabilities, dtype=np.float64)
    signal[np.arange(len(signal)), np.asarray(texts.labels)] -= 1.0
    return signal


def _noise(seed: int, text: str, size: int) -> _Floats:
    """Noise seeded by the text, not by its position among the queries: the same query always gets the same noise."""
    digest = hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng(int.from_bytes(digest)).uniform(-1.0, 1.0, size)


def _unit(embeddings: Float[np.ndarray, "n d"] | None) -> _Floats:
    rows = np.asarray(embeddings, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
