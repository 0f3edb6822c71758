"""Filters: which training examples may appear in rankings."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from proponent.errors import InputError, LabelError
from proponent.store import Segment, Store
from proponent.suggest import nearest


@dataclass(frozen=True)
class Where:
    """Which examples may appear in rankings; None allows all.

    Attributes:
        labels: names of their classes.
        sources: values of their source column.
        ids: their ids.
    """

    labels: Collection[str] | None = None
    sources: Collection[str] | None = None
    ids: Collection[str] | None = None

    @classmethod
    def of(cls, given: "Where | Mapping[str, Any]") -> "Where":
        """Read a filter, or a dict such as {"source": "wiki"} or {"labels": ["a", "b"]}.

        Args:
            given: the filter.

        Returns:
            The filter.

        Raises:
            InputError: it is neither, or the dict has other keys.
        """
        if isinstance(given, cls):
            return given
        names = {one.name for one in fields(cls)}
        found: dict[str, Any] = {}
        for key, value in given.items() if isinstance(given, Mapping) else [("", None)]:
            name = key if key in names else f"{key}s"
            if name not in names or name in found:
                raise InputError(f"where is {given!r}: give proponent.Where(labels=[...], sources=[...], ids=[...])")
            found[name] = [value] if isinstance(value, str) else value
        return cls(**found)

    @property
    def open(self) -> bool:
        """Whether everything is allowed."""
        return all(getattr(self, one.name) is None for one in fields(self))

    def check(self, store: Store) -> None:
        """Refuse a filter that matches no example.

        Args:
            store: the index.

        Raises:
            LabelError: there is no such class.
            InputError: no example has such a source or id.
        """
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, str) or not isinstance(value, Collection | None):
                raise InputError(f"{one.name} of a filter is {value!r}: give a list of texts, such as ['{value}']")
        names = store.plan.labels.names
        for label in self.labels or ():
            if label not in names:
                held = f"classes: {', '.join(names)}" if names else "this run is a language model and has no classes"
                raise LabelError(f"unknown class {label!r}{nearest(label, names)}; {held}")
        for column, wanted in (("source", self.sources), ("id", self.ids)):
            if wanted is None:
                continue
            found = {one for segment in store.segments for one in _values(segment, column, set(wanted))}
            missing = sorted(set(wanted) - found)
            if missing:
                more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
                raise InputError(
                    f"no training example of {store.folder} has the {column} {', '.join(map(repr, missing[:5]))}{more}"
                )

    def allowed(self, segment: Segment) -> Bool[np.ndarray, " n"]:
        """Return which examples of a segment are allowed.

        Args:
            segment: the segment.

        Returns:
            Alive and allowed by every filter.
        """
        return segment.alive & self._chosen(segment)

    def mask(self, store: Store) -> Bool[np.ndarray, " n"]:
        """Return which examples of an index are allowed.

        Args:
            store: the index.

        Returns:
            Alive and allowed by every filter.
        """
        return np.concatenate([self.allowed(one) for one in store.segments])

    def rows(self, store: Store) -> Int[np.ndarray, " m"]:
        """Row numbers of the examples that every filter matches, including those without a gradient."""
        found = [one.offset + np.flatnonzero(self._chosen(one)) for one in store.segments]
        return np.concatenate([np.zeros(0, dtype=np.int64), *found])

    def _chosen(self, segment: Segment) -> Bool[np.ndarray, " n"]:
        chosen = np.ones(segment.n, dtype=np.bool_)
        for column, wanted in (("label", self.labels), ("source", self.sources), ("id", self.ids)):
            if wanted is not None:
                own = np.zeros(segment.n, dtype=np.bool_)
                if column in segment.examples.names:
                    own[segment.examples.select(column, set(wanted))] = True
                chosen &= own
        return chosen


ANY = Where()
"""All training examples are allowed."""


def _values(segment: Segment, column: str, wanted: set[str]) -> set[str]:
    if column not in segment.examples.names:
        return set()
    values = segment.examples.column(column)
    return {str(values[place]) for place in segment.examples.select(column, wanted).tolist()}
