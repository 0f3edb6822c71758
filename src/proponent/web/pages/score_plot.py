"""The histogram of label scores above the table: each bar leads to its examples."""

import math
from collections.abc import Mapping
from dataclasses import replace

from proponent.actions.decisions import Decision
from proponent.views.histogram import Histogram, ScoreBin, Threshold, flagged_scores
from proponent.web.states import TableState
from proponent.web.table import ExampleTable


def score_plot(table: ExampleTable, state: TableState, decisions: Mapping[str, Decision]) -> Histogram | None:
    """Label scores of what a state selects, whatever its own bounds of the score; None for a language model."""
    judged = table.judged
    if judged is None:
        return None
    places = table.select(replace(state, low=None, high=None, sort=()), decisions).places
    plot = flagged_scores(judged.quality[places], judged.flagged[places], "label score", low=True)
    if plot is None:
        return None
    last = plot.bins[-1].high
    bounds = (("score from", state.low), ("score to", state.high))
    chosen = tuple(Threshold(value, f"{name} {value:.3g}") for name, value in bounds if value is not None)
    chosen = tuple(one for one in chosen if plot.bins[0].low <= one.at <= last)
    bins = tuple(replace(one, url=_url(state, one, one.high == last)) for one in plot.bins)
    return replace(plot, bins=bins, thresholds=(*plot.thresholds, *chosen))


def _url(state: TableState, one: ScoreBin, last: bool) -> str:
    """The table of exactly the examples of a bin; empty for an empty one."""
    if not one.count:
        return ""
    high = one.high if last else math.nextafter(one.high, -math.inf)
    return state.url("/table", low=one.low, high=high, page=1)
