"""Out-of-sample class probabilities: a multinomial logistic regression on the other folds of the training set.

Rows of one group, and near-duplicates, stay in one fold: a model that has seen a copy of a row with the same wrong
label would confirm it.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from proponent.errors import InputError
from proponent.words import lower_words

_linear: Any = import_module("sklearn.linear_model")  # scikit-learn has no types
_text: Any = import_module("sklearn.feature_extraction.text")
_exceptions: Any = import_module("sklearn.exceptions")

FOLDS = 5
"""Folds by default."""

FEATURE_STRENGTHS = (0.001, 0.01, 0.1)
"""Inverse ridges (C) that are tried on standardized features of an encoder."""

WORD_STRENGTHS = (1.0, 10.0, 100.0)
"""The same on TF-IDF vectors."""

_STEPS = 300


@dataclass(frozen=True)
class HeldOut:
    """Probabilities of n rows for l classes, each by a model that has not seen the row or a near-duplicate of it."""

    probabilities: Float[np.ndarray, "n l"]  # rows sum to 1; 0 for a class that the other folds lack
    strength: float  # inverse ridge of the regression, of least out-of-sample loss
    loss: float  # mean out-of-sample loss of the given labels, in nats


def stratified_folds(
    labels: Int[np.ndarray, " n"], groups: Int[np.ndarray, " n"], folds: int = FOLDS, seed: int = 0
) -> Int[np.ndarray, " n"]:
    """Assign rows to folds, so that each group is in one fold and every class is spread over the folds.

    Args:
        labels: class of each row.
        groups: group of each row, by any numbers.
        folds: number of folds.
        seed: of the order among groups of one size.

    Returns:
        Fold of each row, 0 to folds - 1. Without groups, two folds differ by at most one row of each class.

    Raises:
        InputError: fewer than two folds, or fewer groups than folds.
    """
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if folds < 2:
        raise InputError(f"{folds} folds: out-of-sample probabilities need at least 2")
    if len(sizes) < folds:
        raise InputError(
            f"{len(sizes)} groups of rows cannot be spread over {folds} folds: take fewer folds, or another column of "
            "groups"
        )
    classes, label = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(sizes), len(classes)), dtype=np.int64)
    np.add.at(counts, (number, label), 1)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]  # the largest first: small ones even out
    held, rows = np.zeros((folds, len(classes)), dtype=np.int64), np.zeros(folds, dtype=np.int64)
    chosen = np.zeros(len(sizes), dtype=np.int64)
    for group in order.tolist():
        main = int(counts[group].argmax())
        fold = int(np.lexsort((rows, held[:, main]))[0])
        chosen[group] = fold
        held[fold] += counts[group]
        rows[fold] += sizes[group]
    return chosen[number]


def held_out_features(
    features: Float[np.ndarray, "n h"], labels: Int[np.ndarray, " n"], classes: int, folds: Int[np.ndarray, " n"]
) -> HeldOut:
    """Out-of-sample probabilities from numbers, which are standardized by the rows of the other folds."""

    def prepared(rest: Int[np.ndarray, " m"], held: Int[np.ndarray, " k"]) -> tuple[Any, Any]:
        mean, spread = features[rest].mean(0), features[rest].std(0)
        spread = np.where(spread > 1e-6 * max(1.0, float(np.abs(features).max())), spread, 1.0)
        return (features[rest] - mean) / spread, (features[held] - mean) / spread

    if not np.isfinite(features).all():
        raise InputError("the features of some texts are not finite: give another encoder")
    return _held_out(prepared, labels, classes, folds, FEATURE_STRENGTHS)


def held_out_words(
    texts: Sequence[str], labels: Int[np.ndarray, " n"], classes: int, folds: Int[np.ndarray, " n"]
) -> HeldOut:
    """Out-of-sample probabilities from TF-IDF vectors of lower-cased words, of which the other folds know the words."""

    def prepared(rest: Int[np.ndarray, " m"], held: Int[np.ndarray, " k"]) -> tuple[Any, Any]:
        vectorizer = _text.TfidfVectorizer(analyzer=lower_words)
        known = vectorizer.fit_transform([texts[row] for row in rest.tolist()])
        return known, vectorizer.transform([texts[row] for row in held.tolist()])

    if sum(bool(lower_words(text)) for text in texts) < 2:
        raise InputError("no text has a word: out-of-sample probabilities need words, or the features of an --encoder")
    return _held_out(prepared, labels, classes, folds, WORD_STRENGTHS)


def _held_out(
    prepared: Any, labels: Int[np.ndarray, " n"], classes: int, folds: Int[np.ndarray, " n"], strengths: Sequence[float]
) -> HeldOut:
    """Fit each strength on each fold's complement; keep the strength of least loss on the given labels."""
    found = {strength: np.zeros((len(labels), classes)) for strength in strengths}
    for fold in np.unique(folds).tolist():
        held, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        known = np.unique(labels[rest])
        if len(known) < 2:
            raise InputError(
                "all rows of the other folds have one class: cross-validation needs at least two classes in several "
                "folds; take more rows or fewer folds"
            )
        train, test = prepared(rest, held)
        for strength, made in found.items():
            made[np.ix_(held, known)] = _fitted(strength, train, labels[rest]).predict_proba(test)
    everyone = np.arange(len(labels))
    losses = {one: float(-np.log(np.maximum(made[everyone, labels], 1e-9)).mean()) for one, made in found.items()}
    best = min(losses, key=lambda one: losses[one])
    return HeldOut(found[best], best, losses[best])


def _fitted(strength: float, vectors: Any, labels: Int[np.ndarray, " m"]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", _exceptions.ConvergenceWarning)  # a fit that is nearly done serves as well
        return _linear.LogisticRegression(C=strength, max_iter=_STEPS).fit(vectors, labels)
