"""Select layers, method and aggregation by planted label noise, with a single fine-tuning run.

Vitel and Chhabra 2025 (arXiv 2511.04715): the best layers differ between models, and how well a method detects planted
noise predicts how useful it will be. One half of the rows selects, the other half evaluates the choice: the best of
many candidates looks better than it is on the rows that selected it.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float

from proponent.disk import remove_tree
from proponent.evaluate.candidates import DISJOINT, Candidate, candidates
from proponent.evaluate.experiment import Experiment
from proponent.evaluate.ranking import Measure, auc_ndr, bootstrap_gap, bootstrap_rows, ndr
from proponent.evaluate.report import plain_rows, report
from proponent.method import METHOD, Baseline, Gradients, Term
from proponent.models import Run
from proponent.progress import track
from proponent.search.aggregation import RULES, How, aggregate
from proponent.tensors import read_tensors, write_tensors
from proponent.training.loop import one_thread
from proponent.views.evaluation import EvaluationReport, Figure

SHARE = 0.3
"""Share of the ranking that the noise detection rate covers."""


@dataclass(frozen=True)
class Tuned:
    """Result of tuning."""

    # description: how the method was selected, for its file

    page: EvaluationReport  # the table of all trials
    method: Term  # the best method
    description: dict[str, Any]


@dataclass(frozen=True)
class TrialResult:
    """One way to rank the rows."""

    name: str  # of the candidate or control
    how: How  # the rule that aggregates queries (and groups)
    values: Float[np.ndarray, " n"]  # one per row, low = suspicious
    candidate: Candidate | None = None  # its candidate; None for a control, and for groups that vote together


def trials(
    scores: Mapping[str, Float[np.ndarray, "_ q n"]],
    queries: Bool[np.ndarray, " q"] | None = None,
    k: float = 0.2,
) -> list[TrialResult]:
    """Aggregate scores by every rule."""
    return [
        TrialResult(name, how, aggregate(one, how, k=k, queries=queries))
        for name, one in scores.items()
        for how in RULES
    ]


def tune(
    subject: Experiment,
    wrong: Bool[np.ndarray, " n"],
    methods: Sequence[str],
    groups: Sequence[str],
    *,
    correct_only: bool = True,
) -> Tuned:
    """Select the method that detects planted noise best."""
    tried, notes = candidates(subject.request.run, methods, groups)
    with one_thread():
        subject.request.say(forecast(subject, wrong, tried))
        run = subject.scored_runs[0]
        outputs = subject.problem.outputs(run.load(run.checkpoints[-1]))
        right = outputs.predicted == subject.problem.query_labels
        found: dict[str, Float[np.ndarray, "_ q n"]] = {}
        quiet = subject.request.quiet
        for one in track(tried, total=len(tried), label="scoring", unit="methods", quiet=quiet):
            found[one.name] = scored(subject, run, one)[None]
        joined = _together(tried, found)
        controls = {name: one[None] for name, one in subject.control_scores().items()}
    by_name = {one.name: one for one in tried}
    count = right if correct_only else None
    made = [replace(one, candidate=by_name.get(one.name)) for one in trials({**found, **joined, **controls}, count)]
    facts = [
        ("planted", f"{int(wrong.sum())} of {len(wrong)} labels, seed {subject.request.seed}"),
        ("queries", f"{int(right.sum()) if correct_only else len(right)} of {len(right)} that count"),
        ("held-out accuracy of the model trained on noise", f"{right.mean():.3f}"),
    ]
    notes = [*subject.notes, *notes]
    return chosen(made, wrong, controls, seed=subject.request.seed, facts=facts, notes=notes, quiet=quiet)


def _together(
    tried: Sequence[Candidate], found: Mapping[str, Float[np.ndarray, "_ q n"]]
) -> dict[str, Float[np.ndarray, "_ q n"]]:
    """Scores of each method's disjoint groups, concatenated: they rank and vote together."""
    joined: dict[str, Float[np.ndarray, "_ q n"]] = {}
    for method in dict.fromkeys(one.label for one in tried):
        own = [found[one.name] for one in tried if one.label == method and one.group in DISJOINT]
        if len(own) > 1:
            joined[f"{method}, together"] = np.concatenate(own)
    return joined


def chosen(
    made: Sequence[TrialResult],
    wrong: Bool[np.ndarray, " n"],
    controls: Mapping[str, object],
    *,
    seed: int,
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    quiet: bool = True,
) -> Tuned:
    """Measure all trials, select on half of the rows, and evaluate the choice on the other half."""
    first = halves(wrong, seed)
    open_to_choice = [one for one in made if one.candidate is not None]
    best = max(open_to_choice, key=lambda one: auc_ndr(one.values[first], wrong[first]))
    assert best.candidate is not None
    held = _figure("", auc_ndr, best.values[~first], wrong[~first])
    figures, verdicts, control = _measured(made, wrong, controls, quiet=quiet)
    told: dict[str, Any] = {
        "aggregation": best.how,
        "auc_ndr": held.value,
        "interval": [held.low, held.high],
        "best_control": control.name,
        "better_than_it": verdicts[best.name],
        "noise": float(wrong.mean()),
        "seed": seed,
        "rows": len(wrong),
        "tried": len(open_to_choice),
    }
    rows = plain_rows(figures, controls, verdicts)
    page = report(
        "tune",
        f"{len(open_to_choice)} methods x aggregation rules on planted noise among {len(wrong):,} rows",
        "AUC_NDR of each aggregation rule, and NDR@30% of the best rule; 1 is perfect, random is "
        f"{_chance(wrong):.3f} and .300",
        (*(f"AUC_NDR, {how}" for how in RULES), "NDR@30%"),
        sorted(rows, key=lambda one: max(figure.value or 0.0 for figure in one.figures[:-1]), reverse=True),
        facts=[
            ("chosen", f"{best.name}, aggregated by {best.how}"),
            ("its AUC_NDR on the half of the rows that was not used to choose it", held.text),
            ("best control", f"{control.name}, aggregated by {control.how}"),
            *facts,
        ],
        notes=[
            *notes,
            "together: layer groups without a common layer, ranked as several indexes; this is not a single method, "
            "so it is never chosen",
            "planted noise is uniform, real label errors are not; other uses of a score are not measured here",
        ],
    )
    return Tuned(page, best.candidate.method, told)


def _measured(
    made: Sequence[TrialResult], wrong: Bool[np.ndarray, " n"], controls: Mapping[str, object], *, quiet: bool
) -> tuple[dict[str, list[Figure]], dict[str, str], TrialResult]:
    """Figures by name; for all but controls, whether the best rule beats the best control; and that control."""
    names = list(dict.fromkeys(one.name for one in made))
    figures: dict[str, list[Figure]] = {}
    tops: dict[str, TrialResult] = {}
    for name in track(names, total=len(names), label="resampling", unit="rankings", quiet=quiet):
        own = [one for one in made if one.name == name]
        tops[name] = max(own, key=lambda one: auc_ndr(one.values, wrong))
        figures[name] = [_figure(one.how, auc_ndr, one.values, wrong) for one in own]
        figures[name].append(_figure("NDR@30%", _ndr, tops[name].values, wrong))
    control = max((tops[name] for name in controls), key=lambda one: auc_ndr(one.values, wrong))
    verdicts = {name: _verdict(one, control, wrong) for name, one in tops.items() if name not in controls}
    return figures, verdicts, control


def halves(wrong: Bool[np.ndarray, " n"], seed: int) -> Bool[np.ndarray, " n"]:
    """Draw half of the noisy and half of the clean rows."""
    generator = np.random.default_rng([seed, 1])
    first = np.zeros(len(wrong), dtype=np.bool_)
    for rows in (np.flatnonzero(wrong), np.flatnonzero(~wrong)):
        first[generator.permutation(rows)[: (len(rows) + 1) // 2]] = True
    return first


def scored(subject: Experiment, run: Run, one: Candidate) -> Float[np.ndarray, "q n"]:
    """Score the training set under a candidate; scores are stored, the index is deleted."""
    digest = hashlib.sha256(METHOD.dump_json(one.method)).hexdigest()[:16]
    kept = run.path / "tuning" / f"{digest}.safetensors"
    if kept.is_file():
        return read_tensors(kept)["scores"]
    at = kept.with_suffix(".index")
    scores = np.nan_to_num(subject.scored(run, one.method, at, quiet=True))
    write_tensors(kept, {"scores": scores})
    remove_tree(at)
    return scores


def forecast(subject: Experiment, wrong: Bool[np.ndarray, " n"], tried: Sequence[Candidate]) -> str:
    """Predict the cost of tuning from one measured step."""
    loop = subject.loop(keep_places=False)
    settings, rows = loop.settings, loop.size
    batch = np.arange(min(settings.batch_size, rows))
    model = subject.problem.fresh(0)
    seconds: list[float] = []
    for _ in range(2):  # the first is slower than later ones
        begin = time.perf_counter()
        cast("Any", subject.problem.losses(model, batch).mean()).backward()
        seconds.append(time.perf_counter() - begin)
    passes = sum(settings.epochs if _all(one.method) else 1 for one in tried)
    minutes = min(seconds) / len(batch) * rows * (settings.epochs + passes) / 60
    return (
        f"{int(wrong.sum())} of {rows} labels are replaced in a copy (seed {subject.request.seed}); will train once "
        f"({settings.epochs} epochs) and compute gradients for {len(tried)} methods ({passes} passes): about "
        f"{max(minutes, 0.1):.1f} minutes; finished work is reused"
    )


def _all(method: Term) -> bool:
    """Whether a method reads every checkpoint."""
    return isinstance(method, Gradients | Baseline) and method.checkpoints.kind == "all"


def _ndr(scores: Float[np.ndarray, " n"], noisy: Bool[np.ndarray, " n"]) -> float:
    return ndr(scores, noisy, SHARE)


def _figure(name: str, measure: Measure, values: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]) -> Figure:
    return Figure(name, measure(values, wrong), *bootstrap_rows(measure, values, wrong))


def _verdict(one: TrialResult, control: TrialResult, wrong: Bool[np.ndarray, " n"]) -> str:
    low, high = bootstrap_gap(auc_ndr, one.values, control.values, wrong)
    gap = auc_ndr(one.values, wrong) - auc_ndr(control.values, wrong)
    word = "yes" if low > 0 else "no" if high < 0 else "within error"
    return f"{word} ({gap:+.3f} [{low:+.3f}, {high:+.3f}])"


def _chance(wrong: Bool[np.ndarray, " n"]) -> float:
    noise = float(wrong.sum())
    return len(wrong) / 2 / (len(wrong) - noise / 2)
