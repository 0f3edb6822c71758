"""Explanations by a method with its own loop: from a run and its training set, without an index."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from proponent.baselines import Baselines, Texts
from proponent.data import Examples
from proponent.dynamics.loops import LoopScorer, Query, score_function
from proponent.dynamics.several_runs import summed
from proponent.errors import InputError
from proponent.gradients.computer import NO_GRADIENTS, GradientComputer
from proponent.index.baseline_scores import baseline_hits
from proponent.index.explanation_builder import ExplanationSource, explanation, ranked
from proponent.index.planning import label_numbers
from proponent.index.queries import QueryBatch, check_queries
from proponent.method import Gradients, Loop
from proponent.method_table import method_of
from proponent.models import Run
from proponent.models.counting import rules_of
from proponent.preconditioners.query_preconditioner import QueryPreconditioner
from proponent.types import Example
from proponent.views import CheckpointView, Explanation
from proponent.words import Word


class LoopQueries(QueryBatch):
    """Queries of a loop, which splits scores by the words of training examples only."""

    def words(self, row: int) -> tuple[Word, ...]:  # noqa: ARG002, D102
        return (Word("", ()),)

    def notes(self, row: int) -> list[str]:  # noqa: ARG002, D102
        return []


def explain_run(
    run: Run,
    examples: Examples,
    queries: Sequence[Example],
    method: str | Loop = "replay",
    *,
    k: int = 10,
    max_length: int | None = None,
    baselines: bool = True,
    quiet: bool = False,
    say: Callable[[str], None] | None = None,
) -> list[Explanation]:
    """Explain outputs by a method that runs or retraces the training."""
    spec = method_of(method)
    if not isinstance(spec, Loop):
        raise InputError(f"{spec.name} needs an index: build one with `proponent index --method {spec.name}`")
    if not queries:
        raise InputError(f"{spec.name} needs a text to explain: give at least one")
    check_queries(queries)
    score = score_function(spec)
    last, rules = run.checkpoints[-1], rules_of(run, examples.layout, max_length)
    encoder = run.encoder(rules.max_length, counting=rules.counting)
    computer = GradientComputer(run, run.load(last), Gradients(name=spec.name), encoder, NO_GRADIENTS)
    batch = LoopQueries.of(computer, queries, 1)
    batch.add_gradients(last.id, computer, 1, QueryPreconditioner(computer.method, (), lambda _: {}))
    labels = label_numbers(run, examples)
    given = [Query(one, number) for one, number in zip(queries, batch.labels, strict=True)]
    how: dict[str, Any] = {"max_length": max_length, "quiet": quiet} | spec.settings
    found = summed(run, lambda one: score(one, examples, given, **how))
    if say is not None and found.summary:
        say(found.summary)
    source = ExplanationSource(
        method=spec.name,
        checkpoints=(CheckpointView(last.id.step, last.learning_rate, found.used),),
        embedding_path=None,
        loss="mean",
        labels=run.task.labels,
        n_examples=len(examples),
        example=examples.__getitem__,
        stretches=encoder.stretches,
        caveat=found.caveat,
    )
    scorer, every = LoopScorer(found, examples), np.ones(len(examples), dtype=np.bool_)
    lists = Baselines(_texts(examples, labels)) if baselines else None

    def take(name: str, places: Int[np.ndarray, " k"]) -> list[object]:
        return [getattr(examples[row], name) for row in list[int](places.tolist())]

    answers: list[Explanation] = []
    for row in range(len(queries)):
        (ranking,), counts = ranked(scorer, batch, [row], k, n=len(examples))
        beside = {} if lists is None else baseline_hits(lists, batch.texts(row), k, every, take)
        answers.append(explanation(source, scorer, batch, row, ranking, baselines=beside, counts=counts))
    return answers


def _texts(examples: Examples, labels: Sequence[int]) -> Texts:
    return Texts([" ".join(one.parts) for one in examples], None if -1 in labels else np.asarray(labels))
