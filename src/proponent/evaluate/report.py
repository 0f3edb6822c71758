"""From numbers to the page: tables with verdicts, curves, notes."""

from collections.abc import Mapping, Sequence

import numpy as np

from proponent.evaluate.deletion import RANDOM, DeletionResult
from proponent.evaluate.intervals import Estimate
from proponent.version import __version__
from proponent.views.evaluation import EvaluationReport, Figure, MethodFigures
from proponent.views.plot import Band

BETTER, WORSE, UNSURE = "yes", "no", "within error"


def figure(name: str, estimate: Estimate) -> Figure:
    """Build a figure from an estimate; an interval without bounds is omitted."""
    bounded = bool(np.isfinite([estimate.low, estimate.high]).all())
    return Figure(name, estimate.value, estimate.low if bounded else None, estimate.high if bounded else None)


def verdict(difference: Estimate, best: str) -> str:
    """Say whether a method is better than the best control."""
    word = UNSURE if not difference.excludes_zero else BETTER if difference.value > 0 else WORSE
    return f"{word} ({best}: {difference})"


def report(
    metric: str,
    title: str,
    said: str,
    columns: Sequence[str],
    rows: Sequence[MethodFigures],
    *,
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    curves: Sequence[Band] = (),
    x_name: str = "",
    y_name: str = "",
) -> EvaluationReport:
    """Build the page."""
    ordered = sorted(rows, key=lambda one: one.control)
    return EvaluationReport(
        metric=metric,
        title=title,
        said=said,
        columns=tuple(columns),
        rows=tuple(ordered),
        curves=tuple(curves),
        x_name=x_name,
        y_name=y_name,
        facts=tuple(facts),
        notes=tuple(notes),
        version=__version__,
    )


def bands(result: DeletionResult, names: Sequence[str]) -> list[Band]:
    """Curves of case deletion with their intervals."""
    made: list[Band] = []
    ranked = [one for one in result.curves if one.method in names]
    for one in [result.curve(RANDOM, "helped"), *ranked]:
        points = [one.at(k) for k in one.ks if np.isfinite(one.changes[:, one.ks.index(k)]).sum() > 1]
        if len(points) < len(one.ks):
            continue
        name = "random rows of the same classes" if one.method == RANDOM else f"{one.method}, {one.side} deleted"
        low, high = tuple(float(p.low) for p in points), tuple(float(p.high) for p in points)
        made.append(Band(name, tuple(map(float, one.ks)), tuple(float(p.value) for p in points), low, high))
    return made


def plain_rows(
    figures: Mapping[str, Sequence[Figure]], controls: Mapping[str, object], verdicts: Mapping[str, str]
) -> list[MethodFigures]:
    """Rows of the table."""
    return [MethodFigures(name, name in controls, tuple(one), verdicts.get(name, "")) for name, one in figures.items()]
