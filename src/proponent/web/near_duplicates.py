"""Near-duplicates of one training example."""

from threading import Lock

import numpy as np

from proponent.data import ExampleColumns, WordSets

LEAST = 0.5
"""Texts that share half of their words, or more, are shown as near-duplicates."""

MOST = 10


class NearDuplicates:
    """Finds near-duplicates; the sets of words are made when they are first needed.

    Args:
        whole: the examples.
    """

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
        near = np.flatnonzero(alike >= LEAST)
        best: list[int] = near[np.lexsort((near, -alike[near]))][:MOST].tolist()
        return [(one, float(alike[one])) for one in best]
