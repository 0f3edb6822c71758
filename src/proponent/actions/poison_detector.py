"""Our detector of poison: what it takes from texts, model and index, and how its parts are combined.

The parts and their weights were chosen on SST-2 (docs/log.md): candidate triggers decide, and a tenth or two of the
rank in three calmer parts orders rows that hold the same ones. A plain mean of ranks was much worse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.actions.poison_influence import WordShares, has_word_shares, word_shares
from proponent.actions.poison_probe import Probe, own
from proponent.actions.poison_rows import AnsweredRows
from proponent.actions.poison_screens import ranks_of
from proponent.actions.poison_triggers import Triggers, deleted, try_candidates
from proponent.actions.poison_words import ANYWHERE, Terms
from proponent.errors import InputError
from proponent.evaluate.chat import as_questions
from proponent.index import Index
from proponent.types import Example

TRIGGER, DELETION, CERTAIN, CONTRAST = "trigger", "deletion", "certainty", "influence"
PARTS: dict[str, str] = {
    TRIGGER: "sum of the strengths of the row's three strongest candidate triggers, as log(1 + sum) in the suspicion",
    DELETION: "fall of the log-odds of the class when the row's strongest candidates are deleted",
    CERTAIN: "log-odds of the class: poison is learned well",
    CONTRAST: "influence on the most suspect rows of the class, less that on other rows of the class",
}
"""The parts of the detector, in words; high is suspect."""

WEIGHTS: dict[str, float] = {DELETION: 0.2, CERTAIN: 0.1, CONTRAST: 0.1}
"""Weights of the ranks (0 to 1) of the calm parts."""

THRESHOLD, _MEASURED = 5.0, 2000
"""Strength from which a word is flagged in data of that many rows; in larger data it grows with the root of the rows,
as z does for a word of the same frequency."""

TURNED = 0.7
"""Share of rows that a flagged word turns to its class, at least: a natural word of opinion can come near it."""

ASKED = 40
"""Queries whose influence is taken by the published rules and the controls."""

_SEEDS, _OTHERS = 10, 30  # rows of a class whose influence is compared


@dataclass(frozen=True)
class Subject:
    """What a detector looks at."""

    index: Index
    rows: AnsweredRows
    probe: Probe
    queries: tuple[Example, ...]  # clean rows, or training rows in random order
    query_classes: Int[np.ndarray, " q"]
    query_places: Int[np.ndarray, " q"] | None = None  # of training rows as queries
    quiet: bool = False

    @property
    def usable(self) -> Bool[np.ndarray, " n"]:
        """Rows that are in the index and whose answer is a class."""
        return self.index.store.alive & (self.rows.given < self.rows.answered)

    def query_scores(self, index: Index, queries: Sequence[Example]) -> Float[np.ndarray, "q n"]:
        """Scores for the first queries, or for transforms of them; of a training row on itself, none."""
        scores = scores_of(index, queries)
        if self.query_places is not None:
            scores[np.arange(len(queries)), self.query_places[: len(queries)]] = 0.0
        return scores


@dataclass(frozen=True)
class Findings:
    """What the detector says of every row and word."""

    terms: Terms
    triggers: Triggers
    shares: Float[np.ndarray, "x l"] | None  # mean share of influence of a word within a class
    log_odds: Float[np.ndarray, " n"]  # of each row's own class; NaN of rows without one
    parts: Mapping[str, Float[np.ndarray, " n"]]
    suspicion: Float[np.ndarray, " n"]
    threshold: float
    flagged_terms: tuple[tuple[int, int], ...]  # term and class
    flagged: Bool[np.ndarray, " n"]
    notes: tuple[str, ...]


def threshold_of(rows: int) -> float:
    """Strength from which a word is flagged."""
    return THRESHOLD * max(1.0, (rows / _MEASURED) ** 0.5)


def find_poison(subject: Subject, threshold: float | None = None) -> Findings:
    """Look for triggers, and rank the rows."""
    threshold = threshold_of(len(subject.rows)) if threshold is None else threshold
    rows, usable = subject.rows, subject.usable
    losses = subject.index.store.features["losses"]
    if not np.isfinite(losses[:, usable]).all():
        raise InputError("the losses of some rows are not finite numbers: leave these rows out, or index them again")
    terms = Terms.of(rows)
    shares, notes = _shares(subject, terms)
    triggers = try_candidates(
        subject.probe, rows, terms, subject.queries, subject.query_classes, shares, quiet=subject.quiet
    )
    if not np.isfinite(triggers.effect).any():
        notes.append("no query can be turned to another class, so no candidate trigger was tried: give --queries")
    log_odds = own(subject.probe.log_odds(rows.examples), rows.given)
    strength = np.maximum(np.nan_to_num(triggers.strength), 0.0)
    together = triggers.sums(rows.given)
    parts = {
        TRIGGER: together,
        DELETION: deleted(subject.probe, rows, triggers, log_odds, usable),
        CERTAIN: log_odds,
        CONTRAST: contrast(subject, together, usable),
    }
    suspicion = combined(parts, usable)
    acting = (strength >= threshold) & (np.nan_to_num(triggers.turned) >= TURNED)
    found = tuple(one for one in triggers.ranked(strength.size) if acting[one])
    flagged = usable & (terms.best(np.where(acting, 1.0, 0.0), rows.given) > 0)
    return Findings(terms, triggers, shares, log_odds, parts, suspicion, threshold, found, flagged, tuple(notes))


def combined(parts: Mapping[str, Float[np.ndarray, " n"]], usable: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Log of the strengths, and weighted ranks of the calm parts; 0 for rows that cannot be judged."""
    total = np.zeros(len(usable))
    total[usable] = np.log1p(parts[TRIGGER][usable])
    for name, weight in WEIGHTS.items():
        total[usable] += weight * ranks_of(parts[name][usable])
    return total


def contrast(
    subject: Subject, best: Float[np.ndarray, " n"], usable: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Mean score of each row for the most suspect rows of its class, less that for other rows of the class."""
    found = np.zeros(len(best))
    for number in range(subject.rows.answered):
        own_class = np.flatnonzero(usable & (subject.rows.given == number))
        if len(own_class) < _SEEDS + 2:
            continue
        order = own_class[np.argsort(-best[own_class], kind="stable")]
        seeds, rest = order[:_SEEDS], order[_SEEDS:]
        others = np.sort(np.random.default_rng(number).permutation(rest)[:_OTHERS])
        found[own_class] = (_mean_score(subject, seeds) - _mean_score(subject, others))[own_class]
    return found


def _mean_score(subject: Subject, places: Int[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
    """Mean score for some training rows as queries; the score of a row on itself is left out."""
    chosen: list[int] = places.tolist()
    asked = [subject.rows.examples[at] for at in chosen]
    scores = scores_of(subject.index, asked)
    scores[np.arange(len(places)), places] = 0.0
    counted = np.full(scores.shape[1], float(len(places)))
    counted[places] -= 1.0
    return scores.sum(0) / np.maximum(counted, 1.0)


def scores_of(index: Index, queries: Sequence[Example]) -> Float[np.ndarray, "q n"]:
    """Scores for the true labels or answers of some rows; 0 for training rows that have none."""
    asked = as_questions(queries, [index.store.example(0)])
    return np.nan_to_num(index.scores(asked))


def _shares(subject: Subject, terms: Terms) -> tuple[Float[np.ndarray, "x l"] | None, list[str]]:
    """Mean share of influence of each word within each class, if the index has shares of words."""
    store = subject.index.store
    if not has_word_shares(store):
        return None, [f"the method {subject.index.method} has no shares of words: candidates are chosen by z alone"]
    found = word_shares(store, subject.rows.given, ~subject.usable)
    return mean_shares(found, terms, subject.rows.given), []


def mean_shares(found: WordShares, terms: Terms, given: Int[np.ndarray, " n"]) -> Float[np.ndarray, "x l"]:
    """Mean share of each word in the rows of each class, over the other rows of the class; NaN for other terms."""
    numbers = {term.text: at for at, term in enumerate(terms.names) if term.where == ANYWHERE}
    places = np.asarray([numbers.get(word, -1) for word in found.words], dtype=np.int64)
    known = places >= 0
    classes = terms.z.shape[1]
    cells = places[known] * classes + given[found.rows[known]]
    size = len(terms.names) * classes
    total = np.bincount(cells, weights=found.shares[known], minlength=size).reshape(-1, classes)
    count = np.bincount(cells, minlength=size).reshape(-1, classes)
    return np.divide(total, count * (count - 1.0), out=np.full_like(total, np.nan), where=count >= 3)
