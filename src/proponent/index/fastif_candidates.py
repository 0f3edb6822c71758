"""The training examples that FastIF compares a query with: chosen by stored features, without gradients."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.index.queries import QueryBatch
from proponent.method import Retaken
from proponent.store import Store, array_name
from proponent.types import CheckpointId

BLOCK = 65_536
"""Examples compared at a time."""


class Nearest:
    """Selects candidates."""

    def __init__(self, store: Store, method: Retaken) -> None:
        self.store, self.method = store, method
        *earlier, last = (one.id for one in store.plan.checkpoints)
        self._endings = {step: array_name("", step) for step in earlier} | {last: ""}

    def __call__(self, batch: QueryBatch, row: int, allowed: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
        """Find the candidates of a query."""
        far = -np.abs(self._likeness(batch, row)) if self._by_signal else self._distances(batch, row)
        order = np.argsort(np.where(allowed, far, np.inf), kind="stable")
        return np.sort(order[: min(self._most(), int(allowed.sum()))])

    def description(self) -> str:
        """Describe which examples were compared."""
        most, n = self._most(), int(self.store.alive.sum())
        if most >= n:
            return "every training example is a candidate"
        summed = ", summed over the checkpoints" if len(self._endings) > 1 else ""
        if self._by_signal:
            return (
                f"candidates: the {most:,} of {n:,} training examples whose error signal and mean last hidden state "
                f"together are most similar or most opposite to those of the query{summed}; the other examples were "
                "not scored"
            )
        return (
            f"candidates: the {most:,} of {n:,} training examples with the nearest mean last hidden states{summed}; "
            "examples outside the candidates were not scored; opponents are often among them"
        )

    @property
    def _by_signal(self) -> bool:
        return self.method.nearest != "features" and "probabilities" in self.store.features

    def _distances(self, batch: QueryBatch, row: int) -> Float[np.ndarray, " n"]:
        """Squared distances of the features, summed over the checkpoints."""
        total = np.zeros(self.store.n)
        for step, ending in self._endings.items():
            feature = batch.seen[step].pooled[row]
            for at, h in self._blocks("pooled" + ending):
                total[at] += ((h.astype(np.float64) - feature) ** 2).sum(1)
        return total

    def _likeness(self, batch: QueryBatch, row: int) -> Float[np.ndarray, " n"]:
        """Sum over checkpoints of < p - y, p' - y' > cos(h, h'): last-layer products with normalized features."""
        labels, total = np.asarray(self.store.features["labels"]), np.zeros(self.store.n)
        for step, ending in self._endings.items():
            feature, signal = batch.seen[step].pooled[row], _signal(batch, row, step)
            both = zip(self._blocks("probabilities" + ending), self._blocks("pooled" + ending), strict=True)
            for (at, p), (_, h) in both:
                error = p.astype(np.float64) @ signal - signal[labels[at]]
                norms = np.linalg.norm(h.astype(np.float64), axis=1) * np.linalg.norm(feature)
                total[at] += error * (h @ feature) / np.maximum(norms, 1e-30)
        return total

    def _blocks(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """Features with their places; a segment without them is old, or none of its examples can be a candidate."""
        first = 0
        for segment in self.store.segments:
            if name in segment.feature_names:
                held = segment.features(name)
                for start in range(0, len(held), BLOCK):
                    block = held[start : start + BLOCK]
                    yield slice(first + start, first + start + len(block)), block
            first += segment.n

    def _most(self) -> int:
        n, wanted = int(self.store.alive.sum()), self.method.candidates
        return min(n, max(1, round(wanted * n) if wanted <= 1 else int(wanted)))


def _signal(batch: QueryBatch, row: int, step: CheckpointId) -> Float[np.ndarray, " l"]:
    """Gradient of the query quantity with respect to the logits: p - y, or the difference of two classes' y."""
    p = np.asarray(batch.seen[step].probabilities[row], dtype=np.float64)
    if batch.against is not None:
        return np.eye(len(p))[batch.against] - np.eye(len(p))[batch.labels[row]]
    return p - np.eye(len(p))[batch.labels[row]]
