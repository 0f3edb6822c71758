"""Scores of the baselines for one index, shown next to its own scores."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, overload

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.baselines import NAMES, Baselines, Texts
from proponent.store import Store
from proponent.views import BaselineHit

_PARTS = ("text", "text_pair", "target")


class WholeTexts(Sequence[str]):
    """The training texts, second texts and targets joined by a space; read from the index one block at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __len__(self) -> int:
        return self._store.n

    def __iter__(self) -> Iterator[str]:
        for segment in self._store.segments:
            names = [name for name in _PARTS if name in segment.examples.names]
            # the blocks of columns have lengths of their own: long texts come in shorter ones
            columns = (chain.from_iterable(segment.examples.blocks(name)) for name in names)
            yield from map(_joined, zip(*columns, strict=True))

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        shown = self._store.row(range(len(self))[place])
        return _joined([shown.get(name) for name in _PARTS])


def _joined(parts: Iterable[object]) -> str:
    return " ".join(str(part) for part in parts if part is not None)


class BaselineScores:
    """Scores of the baselines for the training set of an index."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def scores(self, name: str, query: Texts) -> Float[np.ndarray, " n"]:
        """Score every training example for one query."""
        return np.where(~self.store.alive, np.nan, self._baselines.scores(name, query).mean(0))

    def overlap_by_word(self, text: str) -> dict[str, Float[np.ndarray, " n"]]:
        """BM25 of every training example for each word of a text."""
        return self._baselines.overlap_by_word(text)

    def lists(
        self, query: Texts, k: int, allowed: Bool[np.ndarray, " n"]
    ) -> tuple[dict[str, tuple[BaselineHit, ...]], list[str]]:
        """Rank the training set by every available baseline."""
        hits = baseline_hits(self._baselines, query, k, allowed, self.store.take)
        return hits, [f"baseline {name} is not shown: {reason}" for name, reason in self._baselines.missing().items()]

    @cached_property
    def _baselines(self) -> Baselines:
        labels = self.store.features["labels"] if self.store.plan.labels else None
        return Baselines(Texts(WholeTexts(self.store), labels, self._whole("probabilities"), self._whole("pooled")))

    def _whole(self, name: str) -> Float[np.ndarray, "n x"] | None:
        """A feature of all examples; skipped rows may hold NaN, which no baseline accepts, and are never ranked."""
        values = self.store.features.get(name)
        return None if values is None else np.where(~self.store.alive[:, None], 0.0, values)


def baseline_hits(
    baselines: Baselines,
    query: Texts,
    k: int,
    allowed: Bool[np.ndarray, " n"],
    take: Callable[[str, Int[np.ndarray, " k"]], Iterable[Any]],
) -> dict[str, tuple[BaselineHit, ...]]:
    """Rank the allowed examples by every available baseline; `take` reads a column of selected examples."""
    missing, found = baselines.missing(), dict[str, tuple[BaselineHit, ...]]()
    for name in NAMES:
        if name not in missing:
            scores = baselines.scores(name, query).mean(0)
            valid = np.flatnonzero(np.isfinite(scores) & allowed)
            best = valid[np.argsort(-scores[valid], kind="stable")][:k]
            hits = zip(take("id", best), take("row", best), scores[best].tolist(), strict=True)
            found[name] = tuple(BaselineHit(str(one), int(row), score) for one, row, score in hits)
    return found
