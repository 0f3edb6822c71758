"""Screens for poison that need no query: hidden states, losses and texts. High is suspect in all of them.

The direction of each is fixed here, before any data is looked at. Sources: Tran, Li and Madry 2018 (arXiv 1811.00636),
spectral signatures; Chen and others 2018 (arXiv 1811.03728), activation clusters; Li and others 2021 (arXiv
2110.11571), poison is learned early.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.errors import InputError
from proponent.evaluate.lds import ranks
from proponent.words import lower_words

_STEPS = 50


def spectral(
    states: Float[np.ndarray, "n h"], given: Int[np.ndarray, " n"] | None, directions: int = 1
) -> Float[np.ndarray, " n"]:
    """Squared projection of the centred states on their top directions, within each class or over all rows."""
    if not np.isfinite(states).all():
        raise InputError("hidden states are not finite: the model overflowed; use a checkpoint before that")
    found = np.zeros(len(states))
    groups = [np.arange(len(states))] if given is None else [np.flatnonzero(given == one) for one in np.unique(given)]
    for rows in groups:
        centred = states[rows] - states[rows].mean(0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        found[rows] = ((centred @ axes[:directions].T) ** 2).sum(1)
    return found


def clusters(states: Float[np.ndarray, "n h"], given: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """2-means within each class: rows of a smaller and tighter cluster are suspect, those near its centre first."""
    found = np.zeros(len(states))
    for one in np.unique(given):
        rows = np.flatnonzero(given == one)
        if len(rows) < 4:
            continue
        found[rows] = _small_cluster(states[rows])
    return found


def _small_cluster(states: Float[np.ndarray, "n h"]) -> Float[np.ndarray, " n"]:
    """1 - share of the own cluster, plus its closeness: only the smaller cluster exceeds one half."""
    centred = states - states.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    member: Bool[np.ndarray, " n"] = (centred @ axes[0]) > 0  # begin with the two sides of the main direction
    own: Float[np.ndarray, " n"] = np.zeros(len(states))
    for _ in range(_STEPS):
        if member.all() or not member.any():
            return np.zeros(len(states))
        far, near = _distances(states, ~member), _distances(states, member)
        own = np.where(member, near, far)
        if ((near < far) == member).all():
            break
        member = near < far
    share = float(member.mean())
    rare = np.where(member, 1.0 - share, share)
    return rare + 1.0 / (1.0 + own / max(float(own.mean()), 1e-12)) / len(states)


def _distances(states: Float[np.ndarray, "n h"], member: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Distance of every row from the centre of some."""
    gaps = states - states[member].mean(0)
    return np.sqrt((gaps * gaps).sum(1))


def rare_words(texts: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Largest TF-IDF weight of a word of each text, of vectors of length 1."""
    bags = [Counter(lower_words(text)) for text in texts]
    frequency = Counter(word for bag in bags for word in bag)
    found = np.zeros(len(texts))
    for row, bag in enumerate(bags):
        if bag:
            weights = np.asarray(
                [bag[one] * (np.log((1 + len(texts)) / (1 + frequency[one])) + 1) for one in sorted(bag)]
            )
            found[row] = float(weights.max() / np.linalg.norm(weights))
    return found


def lengths(texts: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Words of each text."""
    return np.asarray([float(len(lower_words(text))) for text in texts])


def ranks_of(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks from 0 to 1, ties averaged; values that are not finite rank lowest."""
    known = np.where(np.isfinite(values), values, -np.inf)
    return (ranks(known) - 1.0) / max(len(values) - 1, 1)
