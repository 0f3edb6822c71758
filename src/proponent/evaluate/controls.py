"""The controls that stand beside every figure: what can be had without any gradient, and chance."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from proponent.baselines import Baselines, Texts

LOSS = "loss"
SHUFFLED = "shuffled"


def controls(
    train: Texts, queries: Texts, losses: Float[np.ndarray, " n"] | None = None
) -> tuple[dict[str, Float[np.ndarray, "q n"]], tuple[str, ...]]:
    """Score the training set by every control that can be computed.

    Args:
        train: the training set.
        queries: the queries.
        losses: of the training examples at the last checkpoint: the control that ranks by loss alone, low loss first.

    Returns:
        Scores by name, positive = helped, and one line for each control that is missing.
    """
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


def shuffled(scores: Float[np.ndarray, "q n"], seed: int = 0) -> Float[np.ndarray, "q n"]:
    """Shuffle the rows of each query: what a broken harness would still reward.

    Args:
        scores: of a method.
        seed: of the shuffle.

    Returns:
        The same values, given to other rows.
    """
    return np.random.default_rng(seed).permuted(scores, axis=1)


def best_control(figures: Mapping[str, float], names: Mapping[str, object]) -> str | None:
    """Find the control of largest figure.

    Args:
        figures: by method and control.
        names: of the controls.

    Returns:
        Its name; None when there is no control.
    """
    known = [name for name in figures if name in names]
    return max(known, key=lambda name: figures[name]) if known else None
