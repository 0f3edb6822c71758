"""The LDS page: plain and within groups, each with its ceiling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.errors import InputError
from proponent.evaluate.controls import best_control, with_controls
from proponent.evaluate.intervals import Estimate, widened
from proponent.evaluate.lds import Ceiling, ceiling, lds_replicates, lds_sides, spearman
from proponent.evaluate.report import figure, plain_rows, report, verdict
from proponent.views.evaluation import EvaluationReport, Figure


def lds_page(
    scores: Mapping[str, Float[np.ndarray, "q n"]],
    controls: Mapping[str, Float[np.ndarray, "q n"]],
    masks: Bool[np.ndarray, "m n"],
    outputs: Float[np.ndarray, "r m q"],
    notes: Sequence[str] = (),
    *,
    groups: Int[np.ndarray, " n"] | None = None,
    grouping: str = "class",
    interval: float | None = None,
) -> EvaluationReport:
    """The LDS page, plain and within groups, from scores and outputs alone; verdicts compare within groups."""
    queries = outputs.shape[2]
    everything = with_controls(scores, controls)
    limits, columns = _lds_columns(everything, masks, outputs, ("LDS", "of ceiling", None))
    facts = [("subsets", str(len(masks))), ("retrains", str(outputs.shape[0] * outputs.shape[1])), *limits]
    figures = {name: list(one.figures) for name, one in columns.items()}
    where = ""
    if groups is not None:
        names = (f"LDS within {grouping}", f"of ceiling within {grouping}", groups)
        try:
            limits, columns = _lds_columns(everything, masks, outputs, names)
        except InputError as error:
            notes = [*notes, f"LDS within {grouping} is missing: {error}; verdicts compare plain LDS"]
        else:
            facts += [(f"{name} within {grouping}", value) for name, value in limits]
            figures = {name: [*figures[name], *one.figures] for name, one in columns.items()}
            where = f" within {grouping}"
    notes = [*notes, *_too_wide({name: columns[name] for name in scores}, interval, len(masks))]
    best = best_control({name: one.value for name, one in columns.items()}, controls)
    verdicts = {
        name: verdict(_ahead(columns[name], columns[best], queries), best + where)
        for name in scores
        if best is not None
    }
    if len(outputs) > 1:
        facts.append(("retrain noise", f"{outputs.std(0, ddof=1).mean():.2f} in log-odds"))
    else:
        notes = [*notes, "one seed: the noise ceiling is unknown; use --seeds 2"]
    return report(
        "lds",
        f"LDS over {queries} queries",
        "rank correlation between summed scores and the outputs of models trained on random halves; 0 is chance, the "
        "ceiling is the value that a perfect score would reach given the noise of retraining"
        + (
            f"; within {grouping}: the part that is explained by the {grouping} counts of the halves is removed from "
            "both sides" * bool(where)
        ),
        [one.name for one in next(iter(figures.values()))],
        plain_rows(figures, controls, verdicts),
        facts=facts,
        notes=notes,
    )


@dataclass(frozen=True)
class _LdsColumn:
    """LDS of one method: its figures, its value and its bootstrap replicates."""

    figures: tuple[Figure, Figure]
    value: float
    draws: Float[np.ndarray, " r"]


def _lds_columns(
    everything: Mapping[str, Float[np.ndarray, "q n"]],
    masks: Bool[np.ndarray, "m n"],
    outputs: Float[np.ndarray, "r m q"],
    names: tuple[str, str, Int[np.ndarray, " n"] | None],
) -> tuple[list[tuple[str, str]], dict[str, _LdsColumn]]:
    """The noise ceiling in words, and the LDS of every method and control, within groups where there are any."""
    first, second, groups = names
    limit: Ceiling | None = ceiling(outputs, masks, groups) if len(outputs) > 1 else None
    found: dict[str, _LdsColumn] = {}
    for name, one in everything.items():
        sums, left = lds_sides(one, masks, outputs.mean(0), groups)
        value, draws = float(spearman(sums, left).mean()), lds_replicates(sums, left)
        share = None if limit is None or not limit.known else value / limit.value
        estimate = figure(first, widened(value, draws, int(outputs.shape[2])))
        found[name] = _LdsColumn((estimate, Figure(second, share)), value, draws)
    if limit is None:
        return [], found
    whole = (
        f"{limit.value:.3f} [{limit.low:.3f}, {limit.high:.3f}] (reliability of one retrain {limit.reliability:.3f})"
    )
    if not limit.known:
        whole += (
            "; its interval holds zero, so that no share of it is given: two retrains of the same halves do not agree "
            "(use more --subsets or --seeds, or train longer)"
        )
    return [("noise ceiling", whole)], found


def _too_wide(columns: Mapping[str, _LdsColumn], interval: float | None, subsets: int) -> list[str]:
    """A line on the widest interval of a method, if it is wider than asked; its width falls with the root of halves."""
    if interval is None or not columns:
        return []
    widths = {
        name: (one.figures[0].high - one.figures[0].low) / 2
        for name, one in columns.items()
        if one.figures[0].low is not None and one.figures[0].high is not None
    }
    widest = max(widths, key=lambda name: widths[name], default=None)
    if widest is None or widths[widest] <= interval:
        return []
    needed = int(np.ceil(subsets * (widths[widest] / interval) ** 2))
    return [
        f"the interval of {widest} is +-{widths[widest]:.3f}, wider than the +-{interval:g} that was asked for: about "
        f"{needed} halves would do (--subsets {needed})"
    ]


def _ahead(ours: _LdsColumn, theirs: _LdsColumn, queries: int) -> Estimate:
    return widened(ours.value - theirs.value, ours.draws - theirs.draws, queries)
