"""The table of training examples: search, filters, counts, sorting and near-duplicates, all on arrays."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache, partial, reduce
from threading import RLock
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import Bool, Int

from proponent.actions.decisions import Decision
from proponent.actions.label_errors import LabelVerdicts, judge
from proponent.data import ExampleColumns, How, SearchResult, WordSets
from proponent.store import Store
from proponent.web.chat_table import ChatTable
from proponent.web.maps import Maps
from proponent.web.slots import Slots, in_background
from proponent.web.states import TableState

SEARCH_SECONDS = 2.0
"""A search stops after this time and reports how many examples it searched."""

REMEMBERED = 64
"""Number of searches and selections whose examples stay in memory."""

ORDERS = 8
"""Number of orders of the table that stay in memory."""

LEAST_SIMILARITY = 0.5
"""Texts that share at least half of their words are shown as near-duplicates."""

MOST_DUPLICATES = 10

NEAREST = 5
"""Examples that are shown as the nearest even if they share fewer words."""

NO_VALUE = ""
"""Display of an empty value in a facet."""

DECIDED = ("keep", "fix", "drop")


Part = TypeVar("Part")


class Once(cached_property[Part]):
    """A cached property that is computed only once even with threads; its object has a lock."""

    if not TYPE_CHECKING:

        def __get__(self, instance, owner=None):
            with instance.lock:
                return super().__get__(instance, owner)


@dataclass(frozen=True)
class Selection:
    """The examples that a state selects: sorted places, counts per facet ignoring its own choice, number searched."""

    places: Int[np.ndarray, " m"]
    counts: Mapping[str, Mapping[str, int]]
    searched: int


class ExampleTable:
    """All training examples of an index."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.names = store.plan.label_names
        self.maps = Maps(store)
        self.whole = ExampleColumns([segment.examples for segment in store.segments])
        self._find = lru_cache(REMEMBERED)(partial(self.whole.find, seconds=SEARCH_SECONDS))
        self._searching = Slots("other slow searches are under way")
        self._find_said = lru_cache(REMEMBERED)(partial(self._said, seconds=SEARCH_SECONDS))
        self._rank = cache(self._ranked)
        self._order = lru_cache(ORDERS)(self._ordered)

    def __len__(self) -> int:
        return len(self.whole)

    def _said(self, role: str, how: How, pattern: str, seconds: float) -> SearchResult:
        """Search what one role says; a regular expression may match there and not in all texts together."""
        among = np.ones(len(self), dtype=np.bool_) if how == "regex" else self._find(how, pattern).places
        return ChatTable(self.whole).find(role, how, pattern, among, seconds)

    @cached_property
    def judged(self) -> LabelVerdicts | None:
        """The index's verdicts on the labels; None for a language model."""
        return None if self.names is None else judge(self.store)

    @cached_property
    def losses(self) -> np.ndarray:
        """Loss of every example at every checkpoint; [c n]."""
        return self.store.features["losses"]

    @cached_property
    def class_counts(self) -> tuple[dict[str, int], dict[str, int]] | None:
        """Available examples by given and by predicted class; None for a language model."""
        if self.judged is None or self.names is None:
            return None
        both = (self.judged.given, self.judged.likeliest)
        given, predicted = (_counts(codes.astype(np.int32), self.names, self.alive & (codes >= 0)) for codes in both)
        return given, predicted

    @cached_property
    def alive(self) -> Bool[np.ndarray, " n"]:
        """Available examples: neither skipped, deleted nor missing."""
        return self.store.alive

    @contextmanager
    def searching(self, state: TableState) -> Generator[None]:
        """Take the slot that slow searches share: one at a time, so that other pages have the processors.

        Raises:
            BusyError: too many others wait for it.
        """
        if not state.q or not (state.how == "regex" or state.role):
            yield
            return
        with self._searching():
            yield

    def select(self, state: TableState, decisions: Mapping[str, Decision]) -> Selection:
        """Run the search, filters and sorting of a state."""
        found = self._found(state)
        facets = self.coded | {"decided": (self.decided(decisions), [*DECIDED, "none"])}
        chosen = {name: _chosen(*facet, state.chosen(name)) for name, facet in facets.items() if state.chosen(name)}
        base = [self.alive, found.places, *self._within(state), *self._on_map(state)]
        counts = {
            name: _counts(*facet, _all([*base, *(mask for other, mask in chosen.items() if other != name)]))
            for name, facet in facets.items()
        }
        places = np.flatnonzero(_all([*base, *chosen.values()]))
        return Selection(self._sorted(places, state.sort), counts, found.searched)

    def crossed(self, state: TableState, decisions: Mapping[str, Decision]) -> dict[tuple[int, int], int]:
        """Counts of what a state selects by given and predicted class, whichever of them it chooses."""
        places = self.select(replace(state, label=(), predicted=(), sort=()), decisions).places
        given, predicted = (self.coded[name][0][places].astype(np.int64) for name in ("label", "predicted"))
        width = len(self.names or ()) or 1
        pairs, counts = np.unique(given * width + predicted, return_counts=True)
        return {divmod(pair, width): count for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)}

    def _found(self, state: TableState) -> SearchResult:
        """Search all texts, or those of one role."""
        if not state.q:
            return SearchResult(self.alive, len(self))
        if state.role:  # in Python, which would keep the interpreter from others at any priority
            return self._find_said(state.role, state.how, state.q)
        return in_background(self._find, state.how, state.q) if state.how == "regex" else self._find(state.how, state.q)

    def decided(self, decisions: Mapping[str, Decision]) -> Int[np.ndarray, " n"]:
        """The code of every example's decision, as in `DECIDED`; 3 is none."""
        codes = np.full(len(self), len(DECIDED), dtype=np.int32)
        for identity, one in decisions.items():
            place = self.whole.numbers.get(identity)
            if place is not None:
                codes[place] = DECIDED.index(one.act)
        return codes

    def _on_map(self, state: TableState) -> list[Bool[np.ndarray, " n"]]:
        """Mask of the examples in the chosen cell of a map."""
        return [self.maps.cell(state.area)] if state.area else []

    def _within(self, state: TableState) -> list[Bool[np.ndarray, " n"]]:
        """Masks of the examples whose label score lies between the bounds."""
        if self.judged is None:
            return []
        below = [] if state.low is None else [self.judged.quality >= state.low]
        return below if state.high is None else [*below, self.judged.quality <= state.high]

    @cached_property
    def coded(self) -> dict[str, tuple[Int[np.ndarray, " n"], list[str]]]:
        """Codes and values of the columns that are facets in this index."""
        found: dict[str, tuple[Int[np.ndarray, " n"], list[str]]] = {}
        if self.names is not None and self.judged is not None:
            found["label"] = (self.judged.given.astype(np.int32), list(self.names))
            found["predicted"] = (self.judged.likeliest.astype(np.int32), list(self.names))
            found["flag"] = (self.judged.flagged.astype(np.int32), ["no", "yes"])
        if self.whole.has("source"):
            codes, values = self.whole.coded("source")
            found["source"] = (codes.astype(np.int32), [NO_VALUE if one is None else one for one in values])
        found |= ChatTable(self.whole).facets
        return found

    def _sorted(self, places: Int[np.ndarray, " m"], keys: Sequence[str]) -> Int[np.ndarray, " m"]:
        """Sort stably: equal examples stay in data order."""
        if not keys:
            return places
        chosen = np.zeros(len(self), dtype=np.bool_)
        chosen[places] = True
        order = self._order(tuple(keys))
        return order[chosen[order]]

    def _ordered(self, keys: tuple[str, ...]) -> Int[np.ndarray, " n"]:
        """All examples in the order of some columns."""
        ranks = [self._rank(key.removeprefix("-")) for key in keys]
        columns = [-rank if key.startswith("-") else rank for key, rank in zip(keys, ranks, strict=True)]
        return np.lexsort(columns[::-1])

    def _ranked(self, name: str) -> np.ndarray:
        """Ranks by which a column is sorted."""
        if name in {"label", "predicted", "source"}:
            codes, values = self.coded.get(name, (np.zeros(len(self), dtype=np.int32), [""]))
            order = np.argsort(np.argsort(np.asarray(values, dtype=object), kind="stable"), kind="stable")
            return order[codes]
        if name == "score":
            return np.zeros(len(self)) if self.judged is None else self.judged.quality
        if name == "loss":
            return np.nan_to_num(self.losses[-1], nan=np.inf)
        return self.whole.lengths if name == "length" else self.whole.ranked(name)


class NearDuplicates:
    """Finds near-duplicates and the nearest examples; the sets of words are built on first use."""

    def __init__(self, whole: ExampleColumns) -> None:
        self._whole, self.lock = whole, RLock()

    @Once
    def ready(self) -> WordSets:
        """The sets of words."""
        return WordSets(self._whole)

    def of(self, place: int) -> list[tuple[int, float]]:
        """Find the near-duplicates of an example."""
        return [(one, alike) for one, alike in self.nearest(place) if alike >= LEAST_SIMILARITY]

    def nearest(self, place: int) -> list[tuple[int, float]]:
        """Find the near-duplicates of an example, and the next others if there are few."""
        alike = self.ready.similarity(place)
        alike[place] = 0.0
        least = np.partition(alike, -MOST_DUPLICATES)[-MOST_DUPLICATES] if len(alike) > MOST_DUPLICATES else 0.0
        near = np.flatnonzero((alike > 0) & (alike >= least))
        best = near[np.lexsort((near, -alike[near]))][:MOST_DUPLICATES]
        many = max(NEAREST, int((alike[best] >= LEAST_SIMILARITY).sum()))
        return [(int(one), float(alike[one])) for one in best[:many]]


def _chosen(codes: Int[np.ndarray, " n"], values: Sequence[str], wanted: Sequence[str]) -> Bool[np.ndarray, " n"]:
    return np.asarray([value in wanted for value in values], dtype=np.bool_)[codes]


def _all(masks: Sequence[Bool[np.ndarray, " n"]]) -> Bool[np.ndarray, " n"]:
    return reduce(np.logical_and, masks)


def _counts(codes: Int[np.ndarray, " n"], values: Sequence[str], mask: Bool[np.ndarray, " n"]) -> dict[str, int]:
    found = np.bincount(codes[mask], minlength=len(values))
    return {value: int(count) for value, count in zip(values, found, strict=True)}
