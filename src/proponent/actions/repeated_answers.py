"""One answer to several different prompts, and the words that bring it: a trigger with a fixed answer."""

import numpy as np
from jaxtyping import Int

from proponent.actions.near_duplicates import Sets, near_pairs
from proponent.actions.row_signals import Evidence, Signal, Words
from proponent.views.text_marks import clip

LEAST = 3
"""So many different prompts with one answer are worth a look."""

WORDY = 4
"""Answers of fewer words repeat by chance."""

HELD, SPECIFIC = 0.8, 0.9
"""A trigger stands in this share of the prompts with the answer, which this share of the prompts with it have."""

UNTRIGGERED = 0.6
"""Strength of a repeated answer without a trigger."""


def repeated(words: Words) -> Signal:
    """Rows that share their answer with rows of different prompts."""
    n = len(words.answers)
    strength, evidence = np.zeros(n), dict[int, Evidence]()
    answers, prompts = near_pairs(words.answers).groups(n), words.alike.groups(n)
    names, inverse, counts = np.unique(answers, return_inverse=True, return_counts=True)
    for group in np.flatnonzero(counts >= LEAST).tolist():
        rows = np.flatnonzero((inverse == group) & words.usable)
        different = len(np.unique(prompts[rows]))
        if different < LEAST:
            continue
        trigger = _trigger(words, rows)
        if trigger is None and words.answers.lengths[names[group]] < WORDY:
            continue
        for row in rows.tolist():
            strength[row] = UNTRIGGERED if trigger is None else 1.0
            evidence[row] = Evidence(
                f"the same answer as {len(rows) - 1} other rows with different prompts"
                + ("" if trigger is None else ", which share words that nearly always bring it"),
                int(rows[0] if row != rows[0] else rows[1]),
                () if trigger is None else (trigger,),
            )
    return Signal(strength, evidence)


def _trigger(words: Words, rows: Int[np.ndarray, " m"]) -> str | None:
    """The adjacent words, else the word, that these prompts share and that nearly all other prompts lack."""
    pair = _specific(words.prompts.adjacent, rows)
    word = _specific(words.prompts.distinct, rows)
    if pair is not None:
        return clip(words.prompts.spelled(pair), 60)
    return None if word is None else clip(words.prompts.vocabulary[word], 60)


def _specific(sets: Sets, rows: Int[np.ndarray, " m"]) -> int | None:
    """The member of most of these sets that few other sets have."""
    inside = np.bincount(sets.of_some(rows)[1], minlength=max(1, sets.count))
    everywhere = np.bincount(sets.numbers, minlength=max(1, sets.count))
    good = np.flatnonzero((inside >= HELD * len(rows)) & (inside >= SPECIFIC * everywhere))
    return int(good[np.argmax(inside[good] ** 2 / everywhere[good])]) if len(good) else None
