"""Which training examples FastIF compares a query with: what the index keeps of each decides, no gradient is taken."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.index.queries import QueryBatch
from proponent.method import Retaken
from proponent.store import Store

BLOCK = 65_536
"""Examples compared at a time."""


class Nearest:
    """Chooses candidates.

    Args:
        store: the index.
        method: says how many, and by what.
    """

    def __init__(self, store: Store, method: Retaken) -> None:
        self.store, self.method = store, method

    def __call__(self, asked: QueryBatch, row: int, allowed: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
        """Find the candidates of a query."""
        if self._by_signal:
            far = -self._likeness(asked.pooled[row], _signal(asked, row))
        else:
            far = self._distances(asked.pooled[row])
        order = np.argsort(np.where(allowed, far, np.inf), kind="stable")
        return np.sort(order[: min(self._most(), int(allowed.sum()))])

    def description(self) -> str:
        """Say which examples were compared."""
        most, n = self._most(), int(self.store.alive.sum())
        if most >= n:
            return "every training example is a candidate"
        if self._by_signal:
            return (
                f"candidates: the {most:,} of {n:,} training examples whose error signal and mean last hidden state "
                "together are most like the query's, or most opposed to it; the others were not scored"
            )
        return (
            f"candidates: the {most:,} of {n:,} training examples nearest by their mean last hidden state; "
            "examples outside the candidates were not scored; opponents are often among them"
        )

    @property
    def _by_signal(self) -> bool:
        return self.method.nearest != "features" and "probabilities" in self.store.features

    def _distances(self, feature: Float[np.ndarray, " d"]) -> Float[np.ndarray, " n"]:
        """Squared distances of the features."""
        parts = [((some.astype(np.float64) - feature) ** 2).sum(1) for some in self._blocks("pooled")]
        return np.concatenate(parts)

    def _likeness(self, feature: Float[np.ndarray, " d"], signal: Float[np.ndarray, " l"]) -> Float[np.ndarray, " n"]:
        """|< p - y, p' - y' > cos(h, h')|: the product of the last layer's gradients, its features at norm 1."""
        labels, start = np.asarray(self.store.features["labels"]), 0
        found: list[np.ndarray] = []
        for p, h in zip(self._blocks("probabilities"), self._blocks("pooled"), strict=True):
            own = labels[start : start + len(p)]
            error = p.astype(np.float64) @ signal - signal[own]
            norms = np.linalg.norm(h.astype(np.float64), axis=1) * np.linalg.norm(feature)
            found.append(np.abs(error * (h @ feature) / np.maximum(norms, 1e-30)))
            start += len(p)
        return np.concatenate(found)

    def _blocks(self, name: str) -> Iterator[np.ndarray]:
        for segment in self.store.segments:
            held = segment.features(name)
            yield from (held[start : start + BLOCK] for start in range(0, len(held), BLOCK))

    def _most(self) -> int:
        n, asked = int(self.store.alive.sum()), self.method.candidates
        return min(n, max(1, round(asked * n) if asked <= 1 else int(asked)))


def _signal(asked: QueryBatch, row: int) -> Float[np.ndarray, " l"]:
    """Gradient of what is asked in the query's logits: p - y, or the difference of two classes' y."""
    p = np.asarray(asked.probabilities[row], dtype=np.float64)
    if asked.against is not None:
        return np.eye(len(p))[asked.against] - np.eye(len(p))[asked.labels[row]]
    return p - np.eye(len(p))[asked.labels[row]]
