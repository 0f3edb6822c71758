"""Sums of scores over the training examples of a label or a source."""

from typing import Any

import numpy as np
from jaxtyping import Float

from proponent.index.index import Index

COLUMNS = ("label", "source")


def group_sums(index: Index, scores: Float[np.ndarray, " n"]) -> dict[str, list[dict[str, Any]]]:
    """Sum the positive and the negative scores of one query by label and by source."""
    good = np.flatnonzero(index.store.alive & np.isfinite(scores))
    found: dict[str, list[dict[str, Any]]] = {}
    for column in COLUMNS:
        values = np.asarray(["" if one is None else str(one) for one in index.store.examples[column]], dtype=object)
        if not any(values):
            continue
        names, codes = np.unique(values[good], return_inverse=True)
        counts = np.bincount(codes, minlength=len(names))
        up = np.bincount(codes, np.maximum(scores[good], 0), minlength=len(names))
        down = np.bincount(codes, np.minimum(scores[good], 0), minlength=len(names))
        found[column] = [
            {"name": str(name), "n": int(n), "proponents": float(above), "opponents": float(below)}
            for name, n, above, below in zip(names, counts, up, down, strict=True)
        ]
    return found
