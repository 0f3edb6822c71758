"""The table of training examples: search, filters, counts, sorting and near-duplicates, all on arrays."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from proponent.actions.decisions import Decision
from proponent.actions.label_errors import LabelVerdicts, judge
from proponent.data import ExampleColumns, SearchResult, WordSets
from proponent.store import Store
from proponent.web.states import TableState

SEARCH_SECONDS = 2.0
"""A search stops after this time and reports how many examples it searched."""

REMEMBERED = 64
"""Searches and selections whose examples stay in memory."""

LEAST_SIMILARITY = 0.5
"""Texts that share half of their words, or more, are shown as near-duplicates."""

MOST_DUPLICATES = 10

NO_VALUE = ""
"""How a facet writes examples without a value."""

DECIDED = ("keep", "fix", "drop")


@dataclass(frozen=True)
class Selection:
    """What a state of the table selects: sorted places, counts per facet without its own choice, examples searched."""

    places: Int[np.ndarray, " m"]
    counts: Mapping[str, Mapping[str, int]]
    searched: int


class ExampleTable:
    """All training examples of an index."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.names = store.plan.label_names
        self.whole = ExampleColumns([segment.examples for segment in store.segments])
        self._searches: OrderedDict[tuple[str, str], SearchResult] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.whole)

    @cached_property
    def judged(self) -> LabelVerdicts | None:
        """What the index says of the labels; None for a language model."""
        return None if self.names is None else judge(self.store)

    @cached_property
    def losses(self) -> np.ndarray:
        """Loss of every example at every checkpoint; [c n]."""
        return self.store.features["losses"]

    @cached_property
    def alive(self) -> Bool[np.ndarray, " n"]:
        """Examples that may be found."""
        return self.store.alive

    def select(self, state: TableState, decisions: Mapping[str, Decision]) -> Selection:
        """Carry out a state."""
        found = self._found(state)
        facets = self._facets(state, decisions)
        base = self._base(state) & found.places
        chosen = {name: _chosen(codes, values, wanted) for name, (codes, values, wanted) in facets.items()}
        counts = {
            name: _counts(codes, values, base & _all(chosen, name)) for name, (codes, values, _) in facets.items()
        }
        mask = base & _all(chosen, None)
        return Selection(self._sorted(np.flatnonzero(mask), state.sort), counts, found.searched)

    def decided(self, decisions: Mapping[str, Decision]) -> Int[np.ndarray, " n"]:
        """Number every example by its decision, as in `DECIDED`; 3 is none."""
        codes = np.full(len(self), len(DECIDED), dtype=np.int32)
        for identity, one in decisions.items():
            place = self.whole.numbers.get(identity)
            if place is not None:
                codes[place] = DECIDED.index(one.act)
        return codes

    def _found(self, state: TableState) -> SearchResult:
        if not state.q:
            return SearchResult(np.ones(len(self), dtype=np.bool_), len(self))
        key = (state.how, state.q)
        with self._lock:
            if key in self._searches:
                self._searches.move_to_end(key)
                return self._searches[key]
        found = self.whole.find(state.how, state.q, SEARCH_SECONDS)
        with self._lock:
            self._searches[key] = found
            while len(self._searches) > REMEMBERED:
                self._searches.popitem(last=False)
        return found

    def _base(self, state: TableState) -> Bool[np.ndarray, " n"]:
        mask = self.alive.copy()
        if self.judged is not None:
            if state.low is not None:
                mask &= self.judged.quality >= state.low
            if state.high is not None:
                mask &= self.judged.quality <= state.high
        return mask

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
        return found

    def _facets(
        self, state: TableState, decisions: Mapping[str, Decision]
    ) -> dict[str, tuple[Int[np.ndarray, " n"], list[str], Sequence[str]]]:
        wanted: dict[str, Sequence[str]] = {
            "label": state.label,
            "predicted": state.predicted,
            "flag": (state.flag,) if state.flag else (),
            "source": state.source,
        }
        facets = {name: (codes, values, wanted[name]) for name, (codes, values) in self.coded.items()}
        facets["decided"] = (self.decided(decisions), [*DECIDED, "none"], state.decided)
        return facets

    def _sorted(self, places: Int[np.ndarray, " m"], keys: Sequence[str]) -> Int[np.ndarray, " m"]:
        """Stable: equal examples stay in data order."""
        columns: list[np.ndarray] = []
        for key in reversed(keys):
            values = self._ranks.get(key.removeprefix("-"))
            if values is None:
                values = self._rank(key.removeprefix("-"))
            columns.append(-values[places] if key.startswith("-") else values[places])
        return places[np.lexsort(columns)] if columns else places

    @cached_property
    def _ranks(self) -> dict[str, np.ndarray]:
        return {}

    def _rank(self, name: str) -> np.ndarray:
        """Numbers to sort a column by."""
        if name in {"label", "predicted", "source"}:
            codes, values = self.coded.get(name, (np.zeros(len(self), dtype=np.int32), [""]))
            order = np.argsort(np.argsort(np.asarray(values, dtype=object), kind="stable"), kind="stable")
            made = order[codes]
        elif name == "score":
            made = np.zeros(len(self)) if self.judged is None else self.judged.quality
        elif name == "loss":
            made = np.nan_to_num(self.losses[-1], nan=np.inf)
        elif name == "length":
            made = self.whole.lengths
        else:
            made = self.whole.ranked(name)
        self._ranks[name] = made
        return made


class NearDuplicates:
    """Finds near-duplicates; the sets of words are made when they are first needed."""

    def __init__(self, whole: ExampleColumns) -> None:
        self._whole, self._lock = whole, Lock()
        self._sets: WordSets | None = None

    @property
    def ready(self) -> WordSets:
        """The sets of words."""
        with self._lock:
            if self._sets is None:
                self._sets = WordSets(self._whole)
            return self._sets

    def of(self, place: int) -> list[tuple[int, float]]:
        """Find the near-duplicates of an example."""
        alike = self.ready.similarity(place)
        alike[place] = 0.0
        near = np.flatnonzero(alike >= LEAST_SIMILARITY)
        best: list[int] = near[np.lexsort((near, -alike[near]))][:MOST_DUPLICATES].tolist()
        return [(one, float(alike[one])) for one in best]


def _chosen(
    codes: Int[np.ndarray, " n"], values: Sequence[str], wanted: Sequence[str]
) -> Bool[np.ndarray, " n"] | None:
    if not wanted:
        return None
    allowed = np.asarray([value in wanted for value in values], dtype=np.bool_)
    return allowed[codes]


def _all(chosen: Mapping[str, Bool[np.ndarray, " n"] | None], but: str | None) -> Any:
    mask: Any = True
    for name, one in chosen.items():
        if one is not None and name != but:
            mask = one & mask
    return mask


def _counts(codes: Int[np.ndarray, " n"], values: Sequence[str], mask: Bool[np.ndarray, " n"]) -> dict[str, int]:
    found = np.bincount(codes[mask], minlength=len(values))
    return {value: int(count) for value, count in zip(values, found, strict=True)}
