"""Scores counted for a histogram; apart from it, because a process that only shows answers does without numpy."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from proponent.views.axes import LEFT, RIGHT, Scale
from proponent.views.counted_scores import LARGEST, ScoreCounts
from proponent.views.histogram import BINS, Histogram, ScoreBin, Threshold


def count_scores(scores: Float[np.ndarray, " n"]) -> ScoreCounts | None:
    """Count the scores of all examples for one question; None without a finite one."""
    plot = histogram(scores, title="", value_name="")
    if plot is None:
        return None
    counts = tuple(one.count for one in plot.bins)
    return ScoreCounts(plot.bins[0].low, plot.bins[-1].high, counts, plot.left_out)


def histogram(
    scores: Float[np.ndarray, " n"] | Sequence[float],
    part: Bool[np.ndarray, " n"] | Sequence[bool] | None = None,
    *,
    title: str,
    value_name: str,
    part_name: str = "",
    between: tuple[float, float] | None = None,
) -> Histogram | None:
    """Count all finite scores; None without any. Without `between`, the bins span the scores."""
    values = np.asarray(scores, dtype=np.float64)
    good = np.isfinite(values) & (np.abs(values) < LARGEST)
    if not good.any():
        return None
    chosen = np.zeros(len(values), dtype=np.bool_) if part is None else np.asarray(part, dtype=np.bool_)
    scale = Scale.of([float(values[good].min()), float(values[good].max())], LEFT, RIGHT)
    low, high = between or (scale.low, scale.high)
    low, high = min(low, float(values[good].min())), max(high, float(values[good].max()))
    counts, edges = np.histogram(values[good], BINS, (low, high))
    parts, _ = np.histogram(values[good & chosen], BINS, (low, high))
    bins = tuple(
        ScoreBin(low=start, high=stop, count=count, part=some)
        for start, stop, count, some in zip(
            edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), parts.tolist(), strict=True
        )
    )
    return Histogram(title=title, value_name=value_name, part_name=part_name, bins=bins, left_out=int((~good).sum()))


def flagged_scores(
    scores: Float[np.ndarray, " n"] | Sequence[float],
    flags: Bool[np.ndarray, " n"] | Sequence[bool],
    name: str,
    *,
    low: bool,
    between: tuple[float, float] | None = (0.0, 1.0),
) -> Histogram | None:
    """Scores with those of flagged rows, and the last flagged score as a threshold; `low`: low scores are suspect."""
    values, chosen = np.asarray(scores, dtype=np.float64), np.asarray(flags, dtype=np.bool_)
    plot = histogram(values, chosen, title=f"Examples by {name}", value_name=name, part_name="flagged", between=between)
    flagged = values[chosen & np.isfinite(values)]
    if plot is None or not len(flagged):
        return plot
    bound = float(flagged.max() if low else flagged.min())
    text = f"no example {'above' if low else 'below'} {bound:.3g} is flagged"
    return replace(plot, thresholds=(Threshold(bound, text),))
