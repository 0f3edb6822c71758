"""Influence transfer: do the scores of a small model hold for a large one, and do rows that it selects help it?

Khaddaj, Engstrom and Madry 2025, "Small-to-Large Generalization" (arXiv 2505.16260), sections 4 and 5. Scores are
numbers by training row, so gradients of different widths never meet. The scores of the small model are correlated with
outputs of the large model trained on random halves (LDS), and divided by the LDS of the large model's own scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from proponent.errors import InputError, MismatchError
from proponent.evaluate.experiment import EvaluationRequest, Experiment
from proponent.evaluate.intervals import Estimate, bootstrap, paired
from proponent.evaluate.lds import lds_replicates, lds_sides, spearman
from proponent.evaluate.lds_page import lds_page
from proponent.evaluate.metrics import LdsInputs, lds_inputs
from proponent.evaluate.report import figure
from proponent.models import Run
from proponent.models.run_record import FRESH
from proponent.training.loop import one_thread
from proponent.training.retraining import RetrainJob
from proponent.views.comparison import ComparisonReport, FigureTable
from proponent.views.evaluation import Figure, MethodFigures

ENOUGH = 0.8
"""The least lower end of the ratio at which a small model's scores may stand in for the large one's."""

RANDOM, LEXICAL = "random", "bm25"
_DRAWS = 5
"""Least number of random selections."""


@dataclass(frozen=True)
class Draws:
    """A mean LDS with its bootstrap draws."""

    value: float
    draws: Float[np.ndarray, " r"]

    @classmethod
    def of(cls, found: LdsInputs, scores: Float[np.ndarray, "q n"], groups: Int[np.ndarray, " n"] | None) -> "Draws":
        """Measure."""
        sums, outputs = lds_sides(scores, found.masks, found.outputs.mean(0), groups)
        return cls(float(spearman(sums, outputs).mean()), lds_replicates(sums, outputs))

    def over(self, other: "Draws", queries: int) -> Estimate:
        """The ratio to another."""
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = np.nanquantile(self.draws / other.draws, [0.025, 0.975])
            return Estimate(float(np.divide(self.value, other.value)), float(low), float(high), queries)


def measure_transfer(
    request: EvaluationRequest, small: Mapping[str, Run], select: int | None = None
) -> ComparisonReport:
    """LDS of small models' scores on outputs of the large one, the ratio to its own, and a selection of rows.

    Args:
        request: the large model's run, training set, queries, methods, cache, numbers of halves and seeds.
        small: runs of smaller models, by name; they are trained again on the same rows.
        select: also train the large model on so many rows with the highest mean scores for half of the queries.

    Returns:
        The page of the LDS, with a table of ratios, and of losses after selection.

    Raises:
        InputError: no small model; more rows to select than there are.
        MismatchError: classifiers with other classes.
    """
    if not small:
        raise InputError("give at least one small model (--small)")
    for name, run in small.items():
        if run.label_names != request.run.label_names or run.task.kind != request.run.task.kind:
            raise MismatchError(f"{name} and the large model predict different things: give models of the same classes")
    large = Experiment(request)
    if select is not None and not 0 < select < len(large.problem.train):
        raise InputError(f"--select {select}: the training set has {len(large.problem.train)} rows")
    if select is not None and len(large.problem.queries) < 2:
        raise InputError("--select: half of the queries choose and the others measure: give at least two queries")
    found, (grouping, groups) = lds_inputs(large), large.groups
    kept = {"train": large.problem.train, "queries": large.problem.queries}
    fresh = FRESH if request.initial == FRESH else None  # a folder of weights belongs to the large model
    with one_thread():
        proxies = {
            name: Experiment(replace(request, run=run, initial=fresh, **kept)).method_scores()
            for name, run in small.items()
        }
    named = {f"{method} of {name}": one for name, scores in proxies.items() for method, one in scores.items()}
    page = lds_page(
        {**found.scores, **named},
        found.controls,
        found.masks,
        found.outputs,
        found.notes,
        groups=groups,
        grouping=grouping,
    )
    others = [_ratios(found, proxies, groups, grouping)]
    if select is not None:
        scores = {**{f"{name} of the large model": one for name, one in found.scores.items()}, **named}
        others.append(_selection(large, scores, found.controls, select))
    parts = {name: getattr(page, name) for name in ("columns", "rows", "facts", "notes", "said", "version")}
    return ComparisonReport(
        metric="transfer", unit="method", title="Scores of small models for a large one", others=tuple(others), **parts
    )


def _ratios(
    found: LdsInputs,
    proxies: Mapping[str, Mapping[str, Float[np.ndarray, "q n"]]],
    groups: Int[np.ndarray, " n"] | None,
    grouping: str,
) -> FigureTable:
    """LDS of each small model's scores over the LDS of the large model's own, by the same method."""
    own = {method: Draws.of(found, scores, groups) for method, scores in found.scores.items()}
    lexical = next((name for name in ("tfidf-sign", "tfidf") if name in found.controls), None)
    floor = None if lexical is None else Draws.of(found, found.controls[lexical], groups)
    rows: list[MethodFigures] = []
    for name, scores in proxies.items():
        for method, one in scores.items():
            ratio = Draws.of(found, one, groups).over(own[method], int(found.outputs.shape[2]))
            above = float(np.quantile(own[method].draws, 0.025)) > 0  # a ratio of two values below 0 says nothing
            ahead = floor is None or own[method].value > floor.value
            will = ratio.low > ENOUGH and above and ahead
            said = "the small model will do" if will else "not shown"
            rows.append(MethodFigures(f"{method} of {name}: {said}", False, (figure("ratio", ratio),)))
    where = f"within {grouping}" if groups is not None else "of all halves"
    title = (
        f"LDS {where} over that of the large model's own scores; a small model will do if the interval is above "
        f"{ENOUGH:g} and the large model's own scores are above 0 and beat word overlap"
    )
    return FigureTable(title, "scores", ("ratio",), tuple(rows))


def _selection(
    large: Experiment,
    scores: Mapping[str, Float[np.ndarray, "q n"]],
    controls: Mapping[str, Float[np.ndarray, "q n"]],
    count: int,
) -> FigureTable:
    """Losses of the large model on the other queries, after training on the rows that the first half of them chose."""
    queries, size = len(large.problem.queries), len(large.problem.train)
    asked, held = np.arange(queries) % 2 == 0, np.arange(queries) % 2 == 1
    seeds = 2 if large.request.seeds is None else large.request.seeds
    ways = {**scores, **{name: controls[name] for name in (LEXICAL,) if name in controls}}
    chosen = {
        name: np.sort(np.argsort(-np.nan_to_num(one)[asked].mean(0), kind="stable")[:count])
        for name, one in ways.items()
    }
    jobs = {name: [RetrainJob(rows, seed) for seed in range(seeds)] for name, rows in chosen.items()}
    drawn = [np.sort(np.random.default_rng(seed).permutation(size)[:count]) for seed in range(max(_DRAWS, seeds))]
    jobs[RANDOM] = [RetrainJob(rows, seed) for seed, rows in enumerate(drawn)]
    retrains = large.retrains(keep_places=False)
    losses = {
        name: np.mean([one.loss for one in retrains.outputs(own, f"selection: {name}")], axis=0)[held]
        for name, own in jobs.items()
    }
    gap = "loss less that of random rows"
    rows = tuple(
        MethodFigures(
            name,
            name in (RANDOM, LEXICAL),
            (
                figure("loss", bootstrap(one)),
                Figure(gap, None) if name == RANDOM else figure(gap, paired(one, losses[RANDOM])),
            ),
        )
        for name, one in losses.items()
    )
    title = (
        f"The large model trained on {count:,} selected rows: loss on the {int(held.sum())} queries that did not "
        f"select, with intervals over them; {len(drawn)} random draws"
    )
    return FigureTable(title, "rows selected by", ("loss", gap), rows)
