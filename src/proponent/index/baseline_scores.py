"""The baselines of one index, to stand beside its own scores."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
from jaxtyping import Bool, Float

from proponent.baselines import NAMES, Baselines, Texts
from proponent.store import Store
from proponent.views import BaselineHit

_PARTS = ("text", "text_pair", "target")


class WholeTexts(Sequence[str]):
    """The training texts, second texts and targets joined by a space; read from the index a block at a time.

    Args:
        store: the index.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __len__(self) -> int:
        return self._store.n

    def __iter__(self) -> Iterator[str]:
        for segment in self._store.segments:
            names = [name for name in _PARTS if name in segment.examples.names]
            for block in zip(*(segment.examples.blocks(name) for name in names), strict=True):
                yield from (_joined(parts) for parts in zip(*block, strict=True))

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
    """What the baselines say about the training set of an index.

    Args:
        store: the index.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def scores(self, name: str, query: Texts) -> Float[np.ndarray, " n"]:
        """Score every training example for one query."""
        return np.where(~self.store.alive, np.nan, self._baselines.scores(name, query).mean(0))

    def lists(
        self, query: Texts, k: int, allowed: Bool[np.ndarray, " n"] | None = None
    ) -> tuple[dict[str, tuple[BaselineHit, ...]], list[str]]:
        """Rank the training set by every baseline that can be computed."""
        missing = self._baselines.missing()
        found: dict[str, tuple[BaselineHit, ...]] = {}
        for name in NAMES:
            if name in missing:
                continue
            scores = self.scores(name, query)
            valid = np.flatnonzero(np.isfinite(scores) & (True if allowed is None else allowed))
            best: list[int] = valid[np.lexsort((valid, -scores[valid]))][:k].tolist()
            ids, rows = (self.store.take(column, np.asarray(best, dtype=np.int64)) for column in ("id", "row"))
            hits = zip(ids, rows, scores[best].tolist(), strict=True)
            found[name] = tuple(BaselineHit(str(one), int(row), score) for one, row, score in hits)
        return found, [f"baseline {name} is not shown: {reason}" for name, reason in missing.items()]

    @cached_property
    def _baselines(self) -> Baselines:
        labels = self.store.features["labels"] if self.store.plan.labels else None
        return Baselines(Texts(WholeTexts(self.store), labels, self._whole("probabilities"), self._whole("pooled")))

    def _whole(self, name: str) -> Float[np.ndarray, "n x"] | None:
        """Rows that the index skipped may hold NaN, which no baseline takes; they are never ranked."""
        values = self.store.features.get(name)
        return None if values is None else np.where(~self.store.alive[:, None], 0.0, values)
