"""The controls that stand beside every figure: what can be had without any gradient, and chance."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from proponent.baselines import Baselines, Texts

LOSS = "loss"


def controls(
    train: Texts, queries: Texts, losses: Float[np.ndarray, " n"] | None = None
) -> tuple[dict[str, Float[np.ndarray, "q n"]], tuple[str, ...]]:
    """Score the training set by every control that can be computed."""
    known = Baselines(train)
    missing = known.missing()
    found = {
        name: known.scores(name, queries)
        for name in ("label", "bm25", "tfidf-label", "embedding", "random")
        if name not in missing
    }
    if losses is not None:
        found[LOSS] = np.tile(-np.asarray(losses, dtype=np.float64), (len(queries.texts), 1))
    return found, tuple(f"control {name} is missing: {reason}" for name, reason in missing.items())


def best_control(figures: Mapping[str, float], names: Mapping[str, object]) -> str | None:
    """Find the control of largest figure."""
    known = [name for name in figures if name in names]
    return max(known, key=lambda name: figures[name]) if known else None
