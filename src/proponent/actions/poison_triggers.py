"""Candidate triggers, tried on the model: inserted into rows of other classes, and deleted from rows that hold them.

A word that goes with a class may be a fair sign of it. A trigger turns rows of any content to its class, and other
rows do not hold it. The strength of a candidate is therefore its z, times the mean rise of the log-odds of its class
where it is inserted, times the share of rows that turn to the class there, times the square of its purity.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.actions.poison_probe import Probe, own
from proponent.actions.poison_rows import AnsweredRows, changed
from proponent.actions.poison_words import Term, Terms, inserted, place_of, without
from proponent.progress import track
from proponent.types import Example

CANDIDATES = 40
"""Terms of each class that are tried because of their z; half as many are tried because of their shares."""

ASKED = 32
"""Rows of other classes into which each candidate is inserted."""

_DELETED, _SUMMED = 4, 3  # strongest terms of a row that are deleted, and whose strengths are summed


@dataclass(frozen=True)
class Triggers:
    """What the insertion of terms does; NaN where a term was not tried for a class."""

    terms: Terms
    effect: Float[np.ndarray, "x l"]  # mean rise of the log-odds of the class
    turned: Float[np.ndarray, "x l"]  # share of the rows that turn to the class

    @property
    def strength(self) -> Float[np.ndarray, "x l"]:
        """Product of z, effect, share turned and the square of purity; NaN where a term was not tried."""
        return np.maximum(self.terms.z, 0.0) * self.terms.purity**2 * np.maximum(self.effect, 0.0) * self.turned

    def sums(self, given: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Sum of the strengths, for the row's own class, of the strongest terms of each row."""
        strength = np.nan_to_num(self.strength)
        mine = strength[self.terms.terms, given[self.terms.rows]]
        order = np.lexsort((-mine, self.terms.rows))
        rows = self.terms.rows[order]
        place = np.arange(len(rows)) - np.searchsorted(rows, rows)  # from the strongest of the row
        kept = place < _SUMMED
        return np.bincount(rows[kept], weights=mine[order][kept], minlength=len(given))

    def ranked(self, most: int) -> list[tuple[int, int]]:
        """The strongest terms with their classes; of terms that say the same of the same rows, the strongest."""
        strength = self.strength
        order = np.argsort(-np.nan_to_num(strength, nan=-np.inf), axis=None, kind="stable")
        found: list[tuple[int, int]] = []
        seen: set[tuple[int, frozenset[int]]] = set()
        for place in order.tolist():
            term, number = divmod(place, strength.shape[1])
            if len(found) == most or not strength[term, number] > 0:
                break
            held = number, frozenset(self.terms.holding(term).tolist())
            if held not in seen:
                seen.add(held)
                found.append((term, number))
        return found


def try_candidates(
    probe: Probe,
    rows: AnsweredRows,
    terms: Terms,
    queries: Sequence[Example],
    classes: Int[np.ndarray, " q"],
    more: Float[np.ndarray, "x l"] | None = None,
    *,
    quiet: bool = False,
) -> Triggers:
    """Insert the candidates of every class into queries of other classes that the model does not give to it."""
    # `more` ranks further candidates, such as terms with large shares of influence
    effect = np.full((len(terms.names), len(rows.classes)), np.nan)
    turned = np.full_like(effect, np.nan)
    before = probe.log_odds(queries)
    jobs: list[tuple[int, int, list[int]]] = []
    for number in range(rows.answered):
        asked = np.flatnonzero((classes != number) & (before[:, number] < 0))
        asked = np.random.default_rng(number).permutation(asked)[:ASKED]
        if len(asked):
            jobs += [(term, number, asked.tolist()) for term in _candidates(terms, number, more)]
    for term, number, asked in track(
        jobs, total=len(jobs), label="trying candidate triggers", unit="words", quiet=quiet
    ):
        made = _with_term(rows, terms, term, number, [queries[at] for at in asked])
        after = probe.log_odds(made)[:, number]
        effect[term, number] = float((after - before[asked, number]).mean())
        turned[term, number] = float((after > 0).mean())
    return Triggers(terms, effect, turned)


def _candidates(terms: Terms, number: int, more: Float[np.ndarray, "x l"] | None) -> list[int]:
    chosen: list[int] = _top(terms.z[:, number], CANDIDATES)
    extra = [] if more is None else _top(more[:, number], CANDIDATES // 2)
    return list(dict.fromkeys([*chosen, *extra]))


def _top(values: Float[np.ndarray, " x"], count: int) -> list[int]:
    known = np.nan_to_num(values, nan=-np.inf)
    return [at for at in np.argsort(-known, kind="stable")[:count].tolist() if known[at] > 0]


def _with_term(rows: AnsweredRows, terms: Terms, term: int, number: int, queries: Sequence[Example]) -> list[Example]:
    """Put a term into queries, each time at the place where it stands in one of its rows."""
    held = terms.holding(term)
    held = held[rows.given[held] == number]
    name = terms.names[term]
    first: list[int] = held[: len(queries)].tolist()
    places = [place_of(rows.texts[at], name) for at in first]
    return [with_term(query, name, places[at % len(places)]) for at, query in enumerate(queries)]


def with_term(query: Example, term: Term, place: float) -> Example:
    """One row with a term at a relative place."""
    return changed(query, lambda text: inserted(text, term, place))


def deleted(
    probe: Probe,
    rows: AnsweredRows,
    triggers: Triggers,
    log_odds: Float[np.ndarray, " n"],
    chosen: Bool[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """How far the log-odds of some rows' own classes fall without their strongest terms; 0 for the other rows."""
    strength, found = triggers.strength, np.zeros(len(rows))
    mine: dict[int, list[int]] = {}
    for row, term in zip(triggers.terms.rows.tolist(), triggers.terms.terms.tolist(), strict=True):
        if chosen[row] and strength[term, rows.given[row]] > 0:
            mine.setdefault(row, []).append(term)
    made: list[Example] = []
    for row, held in mine.items():
        held.sort(key=lambda term, number=int(rows.given[row]): -strength[term, number])
        names = [triggers.terms.names[term] for term in held[:_DELETED]]
        made.append(changed(rows.examples[row], lambda text, names=names: without(text, names) or text))
    places = list(mine)
    if places:
        found[places] = log_odds[places] - own(probe.log_odds(made), rows.given[places])
    return found
