"""Answers that fit the prompt of another row better than their own: swapped or shifted columns, wrong joins.

Fit is the cosine of the words of an answer and of a prompt, each word weighing by its rarity among prompts. An answer
is compared only with prompts that hold one of its rare words, so the work grows with the data set, not with its square.
"""

import numpy as np
from jaxtyping import Float, Int

from proponent.actions.near_duplicates import Sets
from proponent.actions.row_signals import Evidence, Signal, Words
from proponent.views.text_marks import clip

RARE = 100
"""A rare word stands in at most this many prompts; of few prompts, in at most a quarter."""

RIVALS = 8
"""So many prompts are compared with an answer: those with the most weight of its rare words."""

MARGIN = 0.3
"""The difference between two cosines from which an answer is as suspect as it can be."""

BLOCK = 2**15
"""Pairs that are compared at once."""


def misplaced(words: Words) -> Signal:
    """Rows whose answer fits the prompt of another row better."""
    n = len(words.prompts)
    every = np.arange(n)
    own, (best, fit) = _fit(words, every, every), _best(words)
    margin = np.where(words.usable & (best >= 0), fit - own, 0.0)
    partner = np.where(best >= 0, best, every)
    swapped = (best >= 0) & (best[partner] == every) & (margin > 0) & (margin[partner] > 0)
    both = margin + np.where(swapped, margin[partner], 0.0)
    strength = np.where(margin > 0, np.clip(both / MARGIN, 0.0, 1.0), 0.0)
    evidence: dict[int, Evidence] = {}
    for row in np.flatnonzero(strength > 0).tolist():
        said = f"the answer fits another row's prompt better ({fit[row]:.2f} against {own[row]:.2f})"
        other = int(best[row])
        evidence[row] = Evidence(
            said + (", and the other way round" if swapped[row] else ""), other, _shared(words, row, other)
        )
    return Signal(strength, evidence, np.where(words.usable, both, np.nan))


def _best(words: Words) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The other prompt that each answer fits best, -1 for none, and how well."""
    best, fit = np.full(len(words.prompts), -1), np.zeros(len(words.prompts))
    rows, others = _rivals(words)
    fits = _fit(words, rows, others)
    order = np.lexsort((others, -fits, rows))
    first = order[np.flatnonzero(np.diff(rows[order], prepend=-1))]
    best[rows[first]], fit[rows[first]] = others[first], fits[first]
    return best, fit


def _fit(words: Words, rows: Int[np.ndarray, " p"], others: Int[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    """Cosine of the answers of some rows with the prompts of other ones."""
    squares, width = words.weights**2, max(1, len(words.weights))
    spoken, asked = _norms(words, words.spoken), _norms(words, words.prompts.distinct)
    found = np.zeros(len(rows))
    for start in range(0, len(rows), BLOCK):
        cut = slice(start, start + BLOCK)
        sides = words.spoken.of_some(rows[cut]), words.prompts.distinct.of_some(others[cut])
        met, counts = np.unique(np.concatenate([at * width + number for at, number in sides]), return_counts=True)
        met = met[counts > 1]
        found[cut] = np.bincount(met // width, squares[met % width], len(rows[cut]))
    return found / np.maximum(spoken[rows] * asked[others], 1e-12)


def _norms(words: Words, sets: Sets) -> Float[np.ndarray, " n"]:
    """Length of the vector of each text's weighted words."""
    owners, numbers = sets.of_some(np.arange(len(words.prompts)))
    return np.sqrt(np.bincount(owners, words.weights[numbers] ** 2, len(words.prompts)))


def _rivals(words: Words) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
    """Rows, and other prompts with most of the rare words of their answers; not those that ask the same."""
    n, prompts = len(words.prompts), words.prompts.distinct
    holders = np.repeat(np.arange(n), np.diff(prompts.indptr))[np.argsort(prompts.numbers, kind="stable")]
    counts = np.bincount(prompts.numbers, minlength=words.spoken.count)
    begins, groups = np.concatenate([[0], np.cumsum(counts)]), words.alike.groups(n)
    rare, sizes = counts <= min(RARE, max(2, n // 4)), _norms(words, prompts)
    found = [np.zeros((2, 0), dtype=np.int64)]
    for start in range(0, n, 1024):
        rows = np.arange(start, min(start + 1024, n))
        places, numbers = words.spoken.of_some(rows)
        places, numbers = places[rare[numbers]], numbers[rare[numbers]]
        each = counts[numbers]
        ahead = np.concatenate([[0], np.cumsum(each)[:-1]]) if len(each) else each
        others = holders[np.arange(int(each.sum())) + np.repeat(begins[numbers] - ahead, each)]
        keys, inverse = np.unique(rows[np.repeat(places, each)] * n + others, return_inverse=True)
        shared = np.bincount(inverse, np.repeat(words.weights[numbers] ** 2, each), len(keys))
        found.append(_first(keys // n, keys % n, shared / np.maximum(sizes[keys % n], 1e-12), groups))
    rows, others = np.concatenate(found, axis=1)
    return rows, others


def _first(
    rows: Int[np.ndarray, " p"],
    others: Int[np.ndarray, " p"],
    fits: Float[np.ndarray, " p"],
    groups: Int[np.ndarray, " n"],
) -> Int[np.ndarray, "2 k"]:
    """The best others of each row that are not in its group."""
    order = np.lexsort((others, -fits, rows))
    order = order[groups[rows[order]] != groups[others[order]]]
    begins = np.flatnonzero(np.diff(rows[order], prepend=-1))
    place = np.arange(len(order)) - np.repeat(begins, np.diff(np.append(begins, len(order))))
    kept = order[place < RIVALS]
    return np.stack([rows[kept], others[kept]])


def _shared(words: Words, row: int, other: int) -> tuple[str, ...]:
    """The rarest words that the answer of a row shares with the prompt of another."""
    own, asked = words.spoken.of_some(np.asarray([row]))[1], words.prompts.distinct.of_some(np.asarray([other]))[1]
    met = np.intersect1d(own, asked)
    order: list[int] = met[np.argsort(-words.weights[met], kind="stable")].tolist()
    return tuple(clip(words.prompts.vocabulary[number], 40) for number in order[:3])
