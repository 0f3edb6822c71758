"""Control rankings without gradients: baselines and chance."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from proponent.baselines import NAMES, Baselines, Texts
from proponent.errors import InputError

LOSS = "loss"
SIGNED = {"tfidf-sign": "tfidf-label", "bm25-sign": "bm25"}
"""Signed word overlap, by the baseline it uses: positive for the query's class, negative for other classes."""
CONTROLS = (*NAMES, *SIGNED, LOSS)


def controls(
    train: Texts, queries: Texts, losses: Float[np.ndarray, " n"] | None = None
) -> tuple[dict[str, Float[np.ndarray, "q n"]], tuple[str, ...]]:
    """Score the training set by every available control."""
    known = Baselines(train)
    missing = known.missing()
    found = {
        name: known.scores(name, queries)
        for name in ("label", "bm25", "tfidf-label", "embedding", "random")
        if name not in missing
    }
    if train.labels is not None and queries.labels is not None:
        sign = np.where(queries.labels[:, None] == train.labels[None], 1.0, -1.0)
        bare = Baselines(Texts(train.texts)), Texts(queries.texts)
        found |= {name: bare[0].scores(of, bare[1]) * sign for name, of in SIGNED.items() if of not in missing}
    if losses is not None:
        found[LOSS] = np.tile(-np.asarray(losses, dtype=np.float64), (len(queries.texts), 1))
    return found, tuple(f"control {name} is missing: {reason}" for name, reason in missing.items())


def lexical(*, labelled: bool) -> tuple[str, ...]:
    """Controls by word overlap whose packages are installed; a case deletion retrains for them."""
    missing = Baselines(Texts([])).missing()
    return tuple(name if labelled else of for name, of in SIGNED.items() if of not in missing)


def refuse_clashes(methods: Sequence[str]) -> None:
    """Refuse a repeated method, and a method with the name of a control."""
    for place, name in enumerate(methods):
        if name in methods[:place]:
            raise InputError(f"--methods names {name} twice: name each method once")
        if name in CONTROLS:
            raise InputError(f"--methods {name}: it is a control and is always measured; remove it from --methods")


def with_controls(
    scores: Mapping[str, Float[np.ndarray, "q n"]], controls: Mapping[str, Float[np.ndarray, "q n"]]
) -> dict[str, Float[np.ndarray, "q n"]]:
    """Merge the scores of methods and controls; refuse a name that stands for both."""
    both = [name for name in scores if name in controls]
    if both:
        raise InputError(f"{both[0]} is the name of a control: give the method another name")
    return {**scores, **controls}


def best_control(figures: Mapping[str, float], names: Mapping[str, object]) -> str | None:
    """Return the control with the largest figure."""
    known = [name for name in figures if name in names]
    return max(known, key=lambda name: figures[name]) if known else None
