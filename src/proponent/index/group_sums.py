"""Sums of scores over the training examples with one value of a column."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from proponent.index.group_columns import group_columns
from proponent.index.index import Index
from proponent.types import Span
from proponent.views import Explanation

Sums = dict[str, list[dict[str, Any]]]
"""By column: for each value its name, the number of examples, the sums of positive and of negative scores."""


def group_sums(
    index: Index, scores: Float[np.ndarray, " n"], columns: Mapping[str, Sequence[str]] | None = None
) -> Sums:
    """Sum the positive and the negative scores of one query by some columns; without any, by those of the index."""
    good = np.flatnonzero(index.store.alive & np.isfinite(scores))
    found: Sums = {}
    for column, values in (group_columns(index.store) if columns is None else columns).items():
        names, codes = np.unique(np.asarray(values, dtype=object)[good], return_inverse=True)
        counts = np.bincount(codes, minlength=len(names))
        up = np.bincount(codes, np.maximum(scores[good], 0), minlength=len(names))
        down = np.bincount(codes, np.minimum(scores[good], 0), minlength=len(names))
        found[column] = [
            {"name": str(name), "n": int(n), "proponents": float(above), "opponents": float(below)}
            for name, n, above, below in zip(names, counts, up, down, strict=True)
        ]
    return found


def answered_scores(
    index: Index,
    query: Mapping[str, Any],
    answer: Explanation,
    *,
    against: str | None = None,
    span: str | Span | None = None,
    generate: bool = False,
    against_target: str | None = None,
) -> Float[np.ndarray, " n"]:
    """Scores of all training examples for a question that `explain` has answered, with the same options."""
    asked = dict(query)
    if generate:
        asked["target"] = answer.query.turns[-1].text if answer.query.turns else answer.query.target
    queries = [asked if span is None else {**asked, "span": span}]
    if against_target is None:
        return index.scores(queries, against=against)[0]
    return index.contrast_scores(queries[0], against_target)
