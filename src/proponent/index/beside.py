"""The baselines of one index, to stand beside its own scores."""

from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from proponent.baselines import NAMES, Baselines, Texts
from proponent.store import Store
from proponent.views import BaselineHit


class Beside:
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
        ids, rows = self._names
        found: dict[str, tuple[BaselineHit, ...]] = {}
        for name in NAMES:
            if name in missing:
                continue
            scores = self.scores(name, query)
            valid = np.flatnonzero(np.isfinite(scores) & (True if allowed is None else allowed))
            best: list[int] = valid[np.lexsort((valid, -scores[valid]))][:k].tolist()
            found[name] = tuple(BaselineHit(ids[place], rows[place], float(scores[place])) for place in best)
        return found, [f"baseline {name} is not shown: {reason}" for name, reason in missing.items()]

    @cached_property
    def _names(self) -> tuple[list[str], list[int]]:
        return list(map(str, self.store.examples["id"])), list(map(int, self.store.examples["row"]))

    @cached_property
    def _baselines(self) -> Baselines:
        features, columns = self.store.features, self.store.examples
        texts = [
            " ".join(str(part) for part in parts if part is not None)
            for parts in zip(columns["text"], columns["text_pair"], columns["target"], strict=True)
        ]
        labels = None if self.store.plan.label_names is None else features["labels"]
        return Baselines(Texts(texts, labels, self._whole("probabilities"), self._whole("pooled")))

    def _whole(self, name: str) -> Float[np.ndarray, "n x"] | None:
        """Rows that the index skipped may hold NaN, which no baseline takes; they are never ranked."""
        values = self.store.features.get(name)
        return None if values is None else np.where(~self.store.alive[:, None], 0.0, values)
