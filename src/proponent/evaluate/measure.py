"""Measure a metric by name, with options as users write them."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from proponent.data import Examples
from proponent.errors import InputError
from proponent.evaluate.cancellation import measure_cancellation
from proponent.evaluate.experiment import SCORED_SEED, EvaluationRequest, Experiment, with_noise
from proponent.evaluate.label_noise import wrong_labels
from proponent.evaluate.metrics import (
    measure_deletion,
    measure_facts,
    measure_lds,
    measure_noise,
    measure_tail_patch,
)
from proponent.evaluate.word_removal_page import measure_words
from proponent.suggest import nearest
from proponent.training.rerun import FRESH
from proponent.training.schedule import Settings
from proponent.views.evaluation import EvaluationReport

_PLAIN: dict[str, Callable[[Experiment], EvaluationReport]] = {
    "deletion": measure_deletion,
    "lds": measure_lds,
    "tailpatch": measure_tail_patch,
    "words": measure_words,
}


def measure(
    metric: str, request: EvaluationRequest, noise: float, truth_column: str | None, gold_column: str
) -> EvaluationReport:
    """Measure one metric; some need a noise share, or a column of the data or of the queries."""
    if metric == "cancellation":
        return _made_by(measure_cancellation(request), request, None)
    if metric == "facts":
        gold = _gold(request, gold_column)
        subject = Experiment(replace(request, points=len(gold)))
        page = measure_facts(subject, gold)
    elif metric == "mislabel":
        truth = _truth(request, truth_column)
        subject = Experiment(request)
        page = measure_noise(subject, wrong_labels(subject.problem.train, truth), planted=False)
    elif metric == "ndr":
        subject, wrong = with_noise(request, noise)
        page = measure_noise(subject, wrong, planted=True)
    else:
        subject = Experiment(request)
        page = _PLAIN[metric](subject)
    return _made_by(page, request, subject.problem.initial)


def _made_by(page: EvaluationReport, request: EvaluationRequest, initial: str | None) -> EvaluationReport:
    """Add what is needed to compare the figures with others: machine, versions, seeds, initial weights."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("proponent", "torch", "transformers"))
    facts = [
        ("machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"),
        ("versions", f"{versions}, Python {platform.python_version()}"),
        ("seeds", f"{request.seed} (halves, held-out rows and controls), {SCORED_SEED} and on (scored runs)"),
    ]
    if initial is not None:
        drawn = "fresh: drawn from the configuration by the seed of each training"
        facts.append(("initial weights", drawn if initial == FRESH else _name_of(initial)))
    return replace(page, facts=(*page.facts, *facts))


def _name_of(initial: str) -> str:
    """Initial weights without the place of their folder, which says nothing to others and much about a machine."""
    return "/".join(Path(initial).parts[-2:]) if Path(initial).is_absolute() else initial


def _gold(request: EvaluationRequest, column: str) -> list[list[str]]:
    queries = request.queries
    if not isinstance(queries, Examples) or column not in queries.column_names:
        raise InputError(
            f"fact tracing needs --queries with a column {column!r} that contains the ids of the rows that state each "
            "fact, separated by spaces; use --gold-column for another column"
        )
    gold = [str(value).split() for value in queries.column(column)]
    empty = next((row for row, ids in enumerate(gold) if not ids), None)
    if empty is not None:
        raise InputError(f"query {empty} has no gold id in {column!r}: remove the query or add the ids")
    return gold


def _truth(request: EvaluationRequest, column: str | None) -> dict[str, str]:
    """True label of each row by id; rows without one count as correct."""
    examples = request.train
    if column is None or not isinstance(examples, Examples) or column not in examples.column_names:
        raise InputError("mislabel needs --truth-column, the column of DATA with the true labels (empty where unknown)")
    return {
        one.id: str(value)
        for one, value in zip(examples, examples.column(column), strict=True)
        if value is not None and str(value) != ""
    }


def read_changes(given: Sequence[str]) -> dict[str, Any]:
    """Parse training settings given as NAME=VALUE."""
    known = {one.name for one in fields(Settings) if one.name not in {"keep_places", "betas"}}
    found: dict[str, Any] = {}
    for text in given:
        name, _, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if name not in known:
            raise InputError(
                f"--set {text!r}{nearest(name, known)}: give NAME=VALUE with one of {', '.join(sorted(known))}"
            )
        words = name in {"optimizer", "schedule"}
        try:
            found[name] = value if words else int(value) if name in {"epochs", "batch_size", "warmup"} else float(value)
        except ValueError as error:
            raise InputError(f"--set {text!r}: {value!r} is not a number") from error
    return found
