"""The metrics of `proponent evaluate`, each from an experiment to its page; each announces its plan first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from proponent.errors import InputError
from proponent.evaluate.bank import read_bank, write_bank
from proponent.evaluate.budget import deletion_size, lds_size
from proponent.evaluate.controls import best_control, lexical, with_controls
from proponent.evaluate.deletion import (
    RANDOM,
    Curve,
    DeletionResult,
    plan_deletions,
    run_deletions,
    smallest_flip,
    top,
)
from proponent.evaluate.experiment import Experiment
from proponent.evaluate.intervals import Estimate, bootstrap, paired
from proponent.evaluate.lds import subset_masks
from proponent.evaluate.lds_page import lds_page
from proponent.evaluate.ranking import (
    auc_ndr,
    average_precision,
    bootstrap_rows,
    ndr,
    precision_at,
    recalls,
    reciprocal_ranks,
    roc_auc,
)
from proponent.evaluate.report import bands, figure, plain_rows, report, verdict
from proponent.evaluate.tail_patch import tail_patch
from proponent.tensors import read_tensors
from proponent.training.loop import one_thread
from proponent.training.precision import in_32_bits
from proponent.training.retraining import RetrainJob, Retrains, null_gap
from proponent.views.evaluation import EvaluationReport, Figure

SAME = 1e-6
"""Maximum difference of log-odds between two trainings of a deterministic training function."""


def deterministic(retrains: Retrains, seeds: int, *, averaged: bool) -> str:
    """Train twice with one seed; refuse an LDS on single runs of a training function that is not deterministic."""
    gap = null_gap(retrains, 0)
    if gap <= SAME:
        return f"null retrain: two trainings on all rows agree to {gap:.1e}"
    if not averaged or seeds < 2:
        raise InputError(
            f"the training is not deterministic: two trainings on the same rows with the same seed differ by {gap:.2g} "
            "in log-odds; make it deterministic, or give --seeds 2 or more so that outputs are averaged"
        )
    return f"null retrain: two trainings on all rows DIFFER by {gap:.2g}; outputs are means of {seeds} retrains"


@dataclass(frozen=True)
class LdsInputs:
    """What an LDS is made of."""

    scores: dict[str, Float[np.ndarray, "q n"]]
    controls: dict[str, Float[np.ndarray, "q n"]]
    masks: Bool[np.ndarray, "m n"]
    outputs: Float[np.ndarray, "r m q"]
    notes: list[str]


def measure_lds(subject: Experiment) -> EvaluationReport:
    """LDS of every method and control, with the ceiling and the share of it."""
    request, found, (grouping, groups) = subject.request, lds_inputs(subject), subject.groups
    if request.arrays is not None:
        scores = with_controls(found.scores, found.controls)
        write_bank(request.arrays, subject, scores, found.masks, found.outputs, groups)
    return lds_page(
        found.scores, found.controls, found.masks, found.outputs, found.notes, groups=groups, grouping=grouping,
        interval=request.interval,
    )  # fmt: skip


def lds_inputs(subject: Experiment) -> LdsInputs:
    """Train on random halves, or read a bank, and score the training set by every method and control."""
    if subject.request.bank is not None:
        kept = read_bank(subject.request.bank, subject)
        with one_thread():
            scores, controls = subject.method_scores(), subject.control_scores()
        return LdsInputs(scores, controls, kept.masks, kept.outputs, [*subject.notes, kept.note])
    request, retrains = subject.request, subject.retrains(keep_places=False)
    seeds = 2 if request.seeds is None else request.seeds
    size, queries = retrains.retrainer.size, len(subject.problem.queries)
    grouping, groups = subject.groups
    strata = groups if request.stratified else None
    half = RetrainJob(np.flatnonzero(subset_masks(size, 1, request.seed, groups=strata)[0]), 0)
    with one_thread():
        retrains.outputs([half], "timing one retrain")
        sized = lds_size(
            request.budget, _typical(retrains), queries, workers=request.workers, seeds=seeds,
            subsets=request.subsets, interval=request.interval,
        )  # fmt: skip
        request.say(f"will run {sized.said}")
        told = deterministic(retrains, seeds, averaged=True)
        masks = subset_masks(size, sized.subsets, request.seed, groups=strata)
        jobs = [
            RetrainJob(np.flatnonzero(mask), 10_000 * seed + subset)
            for seed in range(seeds)
            for subset, mask in enumerate(masks)
        ]
        found = [one.of(subject.problem.query_labels) for one in retrains.outputs(jobs)]
        outputs = np.stack(found).reshape(seeds, sized.subsets, queries)
        scores, controls = subject.method_scores(), subject.control_scores()
    notes = [*subject.notes, told]
    if request.stratified:
        notes.append(f"halves are stratified: every half has the same number of rows of each {grouping}")
    return LdsInputs(scores, controls, masks, outputs, notes)


def measure_deletion(subject: Experiment) -> EvaluationReport:
    """Case deletion of every method, of the lexical controls and of random rows."""
    request, retrains = subject.request, subject.retrains(keep_places=True)
    seeds = 3 if request.seeds is None else request.seeds
    whole, named = np.arange(retrains.retrainer.size), lexical(labelled=subject.labels is not None)
    with one_thread():
        full = retrains.outputs([RetrainJob(whole, seed) for seed in range(seeds)], "full runs")
        base = np.stack([one.of(subject.problem.query_labels) for one in full])
        noise = float(base.std(0, ddof=1).mean()) if seeds > 1 else float("nan")
        ranked = len(request.methods) + len(named)
        sized = deletion_size(
            request.budget, _typical(retrains), noise, len(subject.problem.queries), ranked, request.ks,
            workers=request.workers, seeds=seeds, sides=len(request.sides),
        )  # fmt: skip
        request.say(f"will run {sized.said}")
        told = deterministic(retrains, seeds, averaged=True)
        controls = subject.control_scores()
        named = tuple(name for name in named if name in controls)
        scores = with_controls(subject.method_scores(), {name: controls[name] for name in named})
        plan = plan_deletions(
            scores,
            sized.ks,
            range(seeds),
            subject.labels,
            queries=range(sized.points),
            sides=request.sides,
            seed=request.seed,
        )
        result = run_deletions(plan, retrains, subject.problem.query_labels)
    left = ", ".join(name for name in controls if name not in {*named, RANDOM})
    notes = [
        *subject.notes,
        told,
        f"controls measured by deletion: {', '.join((RANDOM, *named))}; {left} are left out because each would cost "
        "as many retrains: --metric lds measures all controls",
    ]
    classes = full[0].log_odds.shape[1]
    return deletion_page(result, request.methods, (RANDOM, *named), sized.points, notes, classes=classes)


def deletion_page(
    result: DeletionResult,
    methods: Sequence[str],
    controls: Sequence[str],
    points: int,
    notes: Sequence[str] = (),
    *,
    classes: int,
) -> EvaluationReport:
    """The page of a case deletion; for a classifier, with its brittleness."""
    helped = {name: result.curve(name, "helped") for name in (*methods, *controls)}
    figures: dict[str, list[Figure]] = {}
    for name, one in helped.items():
        figures[name] = [_mean_figure(f"{side} deleted", result.curve(name, side).by_query) for side in result.sides]
        figures[name] += brittleness(one) if classes > 1 else []
        for side in result.sides:
            less = np.zeros(0) if name == RANDOM else result.minus_random(name, side)
            figures[name].append(_mean_figure(f"{side} less random rows", less))
    verdicts = {name: _best_verdict(result, name, controls) for name in methods}
    told = f"{result.noise:.2f} in log-odds" if np.isfinite(result.noise) else "unknown: one seed"
    facts = [("retrains", str(result.retrains)), ("retrain noise", told)]
    facts += [("skipped", f"{result.skipped} deletions would leave a class without any row")] if result.skipped else []
    if result.unmatched:
        facts.append(("without random rows", f"{result.unmatched} deletions: a class has too few other rows"))
    flips = (
        "; a prediction flips when the model trained without these rows predicts another class" if classes > 1 else ""
    )
    answer = "the true class" if classes > 1 else "the answer (of exp(-loss))"
    counts = "the class counts of" if classes > 1 else "the number of"
    return report(
        "deletion",
        f"Case deletion over {points} queries",
        f"change of the log-odds of {answer} after deletion of the rows that helped (hurt) most and retraining, "
        f"mean over k; random rows have {counts} each method, side and k; less random rows is the "
        "difference from the change for random rows: a good score is far below 0 for rows that helped and above 0 "
        f"for rows that hurt{flips}",
        tuple(one.name for one in figures[RANDOM]),
        plain_rows(figures, dict.fromkeys(controls), verdicts),
        facts=facts,
        notes=notes,
        curves=bands(result, [*methods][:2]) if len(helped[RANDOM].ks) > 1 else (),
        x_name="rows deleted",
        y_name="change of the log-odds",
    )


def _mean_figure(name: str, by_query: Float[np.ndarray, " q"]) -> Figure:
    return figure(name, bootstrap(by_query)) if len(by_query) else Figure(name, None)


def brittleness(curve: Curve) -> list[Figure]:
    """Share of predictions that flip at the largest k, and the median over queries of the smallest flipping k."""
    flips = curve.flips_by_k
    share, median = f"flipped at k = {max(flips)}", "smallest k that flips, median"
    counted = flips[max(flips)][np.isfinite(flips[max(flips)])]
    if len(counted) == 0:
        return [Figure(share, None), Figure(median, None)]
    if curve.method == RANDOM:  # a mean over draws: no single k flips a prediction
        return [figure(share, bootstrap(counted)), Figure(median, None)]
    middle = float(np.median([np.inf if one is None else one for one in smallest_flip(flips)]))
    return [figure(share, bootstrap(counted)), Figure(median, middle if np.isfinite(middle) else None)]


def _best_verdict(result: DeletionResult, name: str, controls: Sequence[str]) -> str:
    """Compare a method with the control of largest effect; random rows are those matched to its classes."""
    own = {one: result.matched(name, "helped") if one == RANDOM else result.curve(one, "helped") for one in controls}
    known = {one: curve for one, curve in own.items() if len(curve.by_query)}
    best = best_control({one: -float(curve.by_query.mean()) for one, curve in known.items()}, known)
    return "" if best is None else _deeper(result.curve(name, "helped"), known[best])


def _deeper(ours: Curve, theirs: Curve) -> str:
    """Whether the log-odds fall further than a control's, over queries that have both."""
    mine, other = -ours.changes.mean(1), -theirs.changes.mean(1)
    both = np.isfinite(mine) & np.isfinite(other)
    return verdict(paired(mine[both], other[both]), theirs.method) if both.any() else ""


def measure_tail_patch(subject: Experiment, k: int = 5) -> EvaluationReport:
    """Tail-patch of every method and control."""
    run = in_32_bits(subject.scored_runs[0])  # one step is less than half precision can tell
    last, problem = run.checkpoints[-1], replace(subject.problem, run=in_32_bits(subject.problem.run))
    moments = None if last.moments is None else read_tensors(last.moments)
    rate = last.learning_rate
    model, classes = run.load(last), problem.query_labels
    what = "exp(-loss) of the answer" if run.task.answers else "the target's probability"
    scores, controls = subject.method_scores(), subject.control_scores()
    steps = (len(scores) + len(controls)) * k * len(problem.queries)
    subject.request.say(f"will take at most {steps} single steps of rate {rate:.3g}, no retraining")
    means: dict[str, np.ndarray] = {}
    for name, one in with_controls(scores, controls).items():
        rows = [top(row, min(k, len(row)), "helped") for row in one]
        means[name] = tail_patch(problem, model, rows, classes, rate, moments).mean(1)
    return _compared(
        "tailpatch",
        f"Tail-patch over {len(problem.queries)} queries",
        f"change of {what} (percentage points) after one step on one of the {k} training examples that helped most",
        "percentage points",
        means,
        controls,
        facts=[("step size", f"{rate:.3g}"), ("step", "Adam's" if moments is not None else "plain")],
        notes=subject.notes,
    )


def measure_facts(subject: Experiment, gold: Sequence[Sequence[str]], k: int = 10) -> EvaluationReport:
    """Fact tracing: ranks of the passages that state the fact."""
    places = {one.id: row for row, one in enumerate(subject.problem.train)}
    unknown = next((one for ids in gold for one in ids if one not in places), None)
    if unknown is not None:
        raise InputError(
            f"the gold id {unknown!r} is not the id of a training row: check --gold-column and --id-column"
        )
    rows = [[places[one] for one in ids] for ids in gold]
    scores, controls = subject.method_scores(), subject.control_scores()
    everything = {name: np.nan_to_num(one, nan=-np.inf) for name, one in with_controls(scores, controls).items()}
    first = {name: reciprocal_ranks(one, rows) for name, one in everything.items()}
    return _compared(
        "facts",
        f"Fact tracing over {len(rows)} facts",
        f"mean of 1 / rank of the first row that states the fact; recall among the first {k}",
        "MRR",
        first,
        controls,
        notes=subject.notes,
        second=(f"recall@{k}", {name: recalls(one, rows, k) for name, one in everything.items()}),
    )


def measure_noise(subject: Experiment, wrong: Bool[np.ndarray, " n"], *, planted: bool) -> EvaluationReport:
    """Planted noise or real label errors: whether the mean score on clean queries detects them."""
    scores, controls = subject.method_scores(), subject.control_scores()
    names = ("NDR@30%", "AUC_NDR") if planted else ("ROC AUC", "average precision", "precision at the errors' number")
    figures: dict[str, list[Figure]] = {}
    values: dict[str, float] = {}
    for name, one in with_controls(scores, controls).items():
        mean = np.nan_to_num(one).mean(0)
        measures = _noise_measures(int(wrong.sum()), planted=planted)
        ends = [bootstrap_rows(measure, mean, wrong) for measure in measures]
        found = [measure(mean, wrong) for measure in measures]
        figures[name] = [Figure(names[at], found[at], *ends[at]) for at in range(len(names))]
        values[name] = found[1 if planted else 0]
    best = best_control(values, controls)
    verdicts = {
        name: f"{'yes' if values[name] > values[best] else 'no'} ({best}: {values[best]:.3f})"
        for name in scores
        if best is not None
    }
    kind = "ndr" if planted else "mislabel"
    return report(
        kind,
        f"{'Planted noise' if planted else 'Label errors'} among {len(wrong):,} rows",
        "rows are ranked by their mean score on clean queries, lowest first; a random ranking has "
        + (".30 and .556 at 20 % noise" if planted else "an AUC of .5"),
        names,
        plain_rows(figures, controls, verdicts),
        facts=[("wrong rows", str(int(wrong.sum()))), ("queries", str(len(subject.problem.queries)))],
        notes=subject.notes,
    )


def _noise_measures(errors: int, *, planted: bool) -> list[Callable[[np.ndarray, np.ndarray], float]]:
    if planted:
        return [lambda mean, wrong: ndr(mean, wrong, 0.3), auc_ndr]
    return [
        lambda mean, wrong: roc_auc(-mean, wrong),
        lambda mean, wrong: average_precision(-mean, wrong),
        lambda mean, wrong: precision_at(-mean, wrong, errors),
    ]


def _compared(
    metric: str,
    title: str,
    said: str,
    column: str,
    values: Mapping[str, Float[np.ndarray, " q"]],
    controls: Mapping[str, object],
    *,
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    second: tuple[str, Mapping[str, Float[np.ndarray, " q"]]] | None = None,
) -> EvaluationReport:
    """A table of means over queries, with paired comparisons to the best control."""
    estimates: dict[str, Estimate] = {name: bootstrap(one) for name, one in values.items()}
    figures = {name: [figure(column, one)] for name, one in estimates.items()}
    if second is not None:
        for name, one in second[1].items():
            figures[name].append(figure(second[0], bootstrap(one)))
    best = best_control({name: one.value for name, one in estimates.items()}, controls)
    verdicts = {
        name: verdict(paired(values[name], values[best]), best)
        for name in values
        if best is not None and name not in controls
    }
    columns = (column,) if second is None else (column, second[0])
    return report(metric, title, said, columns, plain_rows(figures, controls, verdicts), facts=facts, notes=notes)


def _typical(retrains: Retrains) -> float:
    """Median seconds per retrain."""
    return float(np.median(retrains.seconds()))
