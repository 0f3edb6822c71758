"""A test set of a language model: the loss of each row."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from proponent.index.error_hits import BLOCK
from proponent.index.known_rows import known_rows
from proponent.index.predicting import Predicting
from proponent.row_losses import RowLosses
from proponent.types import Example
from proponent.views.loss_report import LossReport, LossRow

WORST = 100
"""Rows of the highest loss that a report names."""


def losses_in_blocks(index: Predicting, rows: Sequence[Example]) -> RowLosses:
    """Measure rows, and say how far it is."""
    found: list[RowLosses] = []
    for start in range(0, max(1, len(rows)), BLOCK):
        found.append(index.losses(rows[start : start + BLOCK]))
        index.say(f"measured {min(start + BLOCK, len(rows)):,} of {len(rows):,} rows")
    return RowLosses(
        *(np.concatenate([getattr(one, name) for one in found]) for name in ("losses", "tokens", "truncated"))
    )


def report_losses(index: Predicting, rows: Sequence[Example], name: str) -> LossReport:
    """A test set as a language model predicts it."""
    queries = [replace(one, label=None) for one in rows]
    found = losses_in_blocks(index, queries)
    some = found.measured
    order = np.argsort(-np.where(some, found.losses, -np.inf), kind="stable")
    worst: list[int] = order[: min(WORST, int(some.sum()))].tolist()
    perplexity = found.perplexity
    return LossReport(
        data=name,
        rows=len(rows),
        measured=int(some.sum()),
        tokens=int(found.tokens[some].sum()),
        loss=found.loss,
        perplexity=perplexity if perplexity is not None and np.isfinite(perplexity) else None,
        truncated=int(found.truncated.sum()),
        trained=int(known_rows(index.store, rows, "target").sum()),
        losses=tuple(float(loss) if good else None for loss, good in zip(found.losses, some, strict=True)),
        counts=tuple(map(int, found.tokens)),
        worst=tuple(
            LossRow(
                id=rows[at].id,
                row=rows[at].row,
                text="\n".join(rows[at].parts),
                loss=float(found.losses[at]),
                tokens=int(found.tokens[at]),
            )
            for at in worst
        ),
    )
