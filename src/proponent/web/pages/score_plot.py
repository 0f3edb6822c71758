"""The histogram of label scores above the table: each bar leads to its examples."""

import math
from collections.abc import Mapping
from dataclasses import replace

from proponent.actions.decisions import Decision
from proponent.views.histogram import Histogram, ScoreBin, Threshold
from proponent.views.score_counts import flagged_scores
from proponent.web.states import TableState
from proponent.web.table import ExampleTable, Selection


def score_plot(
    table: ExampleTable, state: TableState, selection: Selection, decisions: Mapping[str, Decision]
) -> Histogram | None:
    """Label scores of what a state selects by all but its score and flag; None for a language model."""
    judged = table.judged
    if judged is None:
        return None
    bounded = state.low is not None or state.high is not None or state.flag
    wider = replace(state, low=None, high=None, flag="", sort=())
    places = (table.select(wider, decisions) if bounded else selection).places
    plot = flagged_scores(judged.quality[places], judged.flagged[places], "label score", low=True)
    if plot is None:
        return None
    last = plot.bins[-1].high
    bounds = (("score from", state.low), ("score to", state.high))
    chosen = tuple(Threshold(value, f"{name} {value:.3g}") for name, value in bounds if value is not None)
    chosen = tuple(one for one in chosen if plot.bins[0].low <= one.at <= last)
    bins = tuple(_linked(state, one, one.high == last) for one in plot.bins)
    return replace(plot, bins=bins, thresholds=(*plot.thresholds, *chosen))


def _linked(state: TableState, one: ScoreBin, last: bool) -> ScoreBin:
    """A bin with the table of exactly those of its examples that the state selects; without it if there are none."""
    count = {"yes": one.part, "no": one.count - one.part, "": one.count}[state.flag]
    high = one.high if last else math.nextafter(one.high, -math.inf)
    return replace(one, url=state.url("/table", low=one.low, high=high, page=1), linked=count) if count else one
