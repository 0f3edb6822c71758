"""The words of an answer measured: the page of a word removal, from an experiment."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from proponent.api import open as open_index
from proponent.errors import InputError
from proponent.evaluate.controls import best_control
from proponent.evaluate.deletion import top
from proponent.evaluate.experiment import DEFAULT_METHODS, Experiment
from proponent.evaluate.intervals import bootstrap, paired
from proponent.evaluate.report import figure, plain_rows, report, verdict
from proponent.evaluate.word_removal import (
    LAST_WORDS,
    RANDOM_WORDS,
    TFIDF_WORDS,
    Ranking,
    Removal,
    RemovalResult,
    frequent_words,
    plan_removals,
    ranked_by_shares,
    ranked_by_tfidf,
    run_removals,
)
from proponent.index import Index, default_method
from proponent.index.hit_words import DEFINITIONS, WordsBy
from proponent.search import Where
from proponent.training.loop import one_thread
from proponent.training.outputs import Output
from proponent.training.retraining import RetrainJob
from proponent.types import Example
from proponent.views import Hit
from proponent.views.evaluation import EvaluationReport, Figure

ROWS = 30
"""Rows of a query whose words are taken out, unless the user says another number."""

LAST = "tracin-last"


def measure_words(subject: Experiment) -> EvaluationReport:
    """Take the words that each definition names out of the rows that helped most, and retrain."""
    request, retrains = subject.request, subject.retrains(keep_places=False)
    name, k = method_of(subject), rows_of(subject)
    seeds, whole = range(request.seeds or 1), np.arange(retrains.retrainer.size)
    output: Output = "loss" if subject.labels is None else "log-odds"
    with one_thread():
        full = retrains.outputs([RetrainJob(whole, seed) for seed in seeds], "full runs")
        plan = _plan(subject, name, k)
        jobs = [RetrainJob(whole, seed, one.edits) for one in plan for seed in seeds]
        typical, missing = float(np.median(retrains.seconds())), len(retrains.missing(jobs))
        request.say(
            f"will run {len({job.name for job in jobs})} retrains, {missing} of them new, about "
            f"{missing * typical / 60 / request.workers:.1f} min"
        )
        result = run_removals(plan, retrains, subject.problem.query_labels, list(seeds), output)
    right = float(np.mean([(one.predicted == subject.problem.query_labels).mean() for one in full]))
    facts = [("method", name), ("rows of each query", str(k)), ("words of each row", str(request.words))]
    facts += [("training rows", str(len(whole))), ("retrains", str(result.retrains))]
    facts += [("seconds of a retrain", f"{typical:.1f}")]
    facts += [] if subject.labels is None else [("accuracy of the full runs on the queries", f"{right:.2f}")]
    return words_page(result, output, facts, subject.notes)


def method_of(subject: Experiment) -> str:
    """The method whose rows and words are measured: the default of the run, or the only one that was named."""
    methods = subject.request.methods
    if methods == DEFAULT_METHODS:
        return default_method(subject.request.run).method
    if len(methods) != 1:
        raise InputError(
            f"--metric words measures the words of one method, and --methods names {len(methods)}: name one"
        )
    (method,) = methods
    return method


def rows_of(subject: Experiment) -> int:
    """The number of rows of each query."""
    ks = subject.request.ks
    if len(ks) == 1:
        return min(ks)
    if ROWS in ks:
        return min(ROWS, len(subject.problem.train))
    raise InputError(f"--metric words takes words out of one number of rows: give one -k, such as -k {ROWS}")


def _plan(subject: Experiment, name: str, k: int) -> list[Removal]:
    """Rank the rows, and the words of each row under each definition and control."""
    run, train, queries = subject.scored_runs[0], subject.problem.train, subject.problem.queries
    index = subject.indexed(run, name)
    chosen = [top(scores, k, "helped") for scores in index.scores(subject.asked)]
    allowed: list[WordsBy] = [by for by in DEFINITIONS if _takes(index, by)]
    if not allowed:
        raise InputError(f"{name} does not split its scores by words: there is nothing to measure")
    rankings = {DEFINITIONS[by]: _ranking(subject, index, by, chosen) for by in allowed}
    last = subject.indexed(run, LAST)
    # a classifier's last layer reads one pooled position, so only masking tells which words it depends on
    rankings[LAST_WORDS] = _ranking(subject, last, "masked" if _takes(last, "masked") else "terms", chosen)
    rankings[TFIDF_WORDS] = ranked_by_tfidf(train, queries)
    return plan_removals(train, chosen, rankings, subject.request.words, frequent_words(train), subject.request.seed)


def _takes(index: Index, by: WordsBy) -> bool:
    try:
        _reopened(index, by)
    except InputError:
        return False
    return True


def _reopened(index: Index, by: WordsBy) -> Index:
    return open_index(index.store.folder, words=by)


def _ranking(subject: Experiment, index: Index, by: WordsBy, chosen: Sequence[Int[np.ndarray, " k"]]) -> Ranking:
    """The words of the chosen rows under one definition, by query and row."""
    opened, train = _reopened(index, by), subject.problem.train
    together = np.unique(np.concatenate(chosen))  # a row is masked once for several queries that are asked together
    found: list[dict[str, Hit]] = []
    for queries, rows in [(subject.asked, together)] if by == "masked" else zip(subject.asked, chosen, strict=True):
        places: list[int] = rows.tolist()
        where = Where(ids=[train[row].id for row in places])
        asked = [queries] if isinstance(queries, Example) else queries
        for answer in opened.explain_many(asked, k=len(places), baselines=False, where=where):
            found.append({hit.id: hit for hit in (*answer.proponents, *answer.opponents)})
    return lambda query, row: ranked_by_shares(train[row], found[query].get(train[row].id))


def words_page(
    result: RemovalResult, output: Output, facts: Sequence[tuple[str, str]], notes: Sequence[str] = ()
) -> EvaluationReport:
    """The page of a word removal."""
    what = "log-odds of the true class" if output == "log-odds" else "negative loss of the answer"
    controls = dict.fromkeys(name for name in (RANDOM_WORDS, TFIDF_WORDS, LAST_WORDS) if name in result.changes)
    random = result.changes[RANDOM_WORDS]
    figures: dict[str, list[Figure]] = {}
    for name, changes in result.changes.items():
        less = Figure("less random words", None)
        if name != RANDOM_WORDS:
            less = figure("less random words", paired(changes, random))
        figures[name] = [figure(f"change of the {what}", bootstrap(changes)), less]
        figures[name] += [
            Figure("words of a row", result.per_row[name]),
            Figure("share that it names", result.named[name]),
        ]
    best = best_control({name: -float(result.changes[name].mean()) for name in controls}, controls)
    verdicts = {
        name: verdict(paired(-result.changes[name], -result.changes[best]), best)
        for name in result.changes
        if best is not None and name not in controls
    }
    told = f"{result.noise:.3f}" if np.isfinite(result.noise) else "unknown: one seed"
    return report(
        "words",
        f"Word removal over {len(random)} queries",
        f"change of the {what} after the words that each definition names are taken out of the rows that helped most "
        "and the model is trained again; every definition has the same rows and as many words, and where it names "
        "fewer, others are drawn at random; random words have three letters at least and stand in at most 5 % of the "
        "rows, where a row has such words: words that matter are far below 0",
        tuple(one.name for one in figures[RANDOM_WORDS]),
        plain_rows(figures, controls, verdicts),
        facts=[*facts, ("retrain noise", told)],
        notes=notes,
    )
