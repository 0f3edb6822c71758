"""Explanations by a method with a loop of its own: from a run and its training set, without an index."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int

from proponent.baselines import Baselines, Texts
from proponent.data import Examples
from proponent.dynamics.loops import LoopScorer, Query, score_function
from proponent.errors import InputError
from proponent.index.baseline_scores import baseline_hits
from proponent.index.explanation_builder import hit
from proponent.index.planning import label_numbers
from proponent.method import Loop
from proponent.method_table import method_of
from proponent.models import Encoded, Encoder, Run
from proponent.types import Example
from proponent.version import __version__
from proponent.views import CheckpointView, Explanation, Hit, QueryView
from proponent.words import Word


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
    """Say where outputs come from, by a method that runs or retraces the training."""
    spec = method_of(method)
    if not isinstance(spec, Loop):
        raise InputError(f"{spec.name} is a method of an index: build one, with `proponent index --method {spec.name}`")
    if not queries:
        raise InputError(f"{spec.name} was asked about no text: give at least one")
    score = score_function(spec)
    views = [_view(run, one, max_length) for one in queries]
    labels = label_numbers(run, examples)
    numbers = [run.task.labels.stored(view.label) for view in views]
    asked = [Query(one, number) for one, number in zip(queries, numbers, strict=True)]
    found = score(run, examples, asked, max_length=max_length, quiet=quiet, **spec.settings)
    scorer = LoopScorer(found, examples)
    if say is not None and found.summary:
        say(found.summary)
    lists = Baselines(_texts(examples, labels)) if baselines else None
    answers, every = list[Explanation](), np.ones(len(examples), dtype=np.bool_)

    def take(name: str, places: Int[np.ndarray, " k"]) -> list[object]:
        return [getattr(examples[row], name) for row in list[int](places.tolist())]

    for row, (one, view) in enumerate(zip(queries, views, strict=True)):
        made = _explanation(spec, run, scorer, asked, row, view, k)
        query = _texts([one], numbers[row : row + 1])
        beside = {} if lists is None else baseline_hits(lists, query, k, every, take)
        answers.append(replace(made, baselines=beside))
    return answers


def _view(run: Run, query: Example, max_length: int | None) -> QueryView:
    """A query as the trained model sees it."""
    encoder = run.encoder(run.length(max_length))
    (encoded,) = encoder.encode([query])
    model = run.load(run.checkpoints[-1])
    names = run.task.labels.names
    if not names and query.label is not None:
        raise InputError(f"label {query.label!r} was given, but this run is a language model and has no labels")
    with torch.inference_mode():
        logits: torch.Tensor = model(**encoder.collate([encoded], [0]).inputs).logits
        view = QueryView(
            text=query.text,
            text_pair=query.text_pair,
            target=query.target,
            label=None,
            predicted=None,
            probabilities=None,
            loss=None,
            truncated_at=encoded.truncated_at,
        )
        if not names:
            return replace(view, loss=_loss(run, encoder, encoded, -1, logits))
        chances = [float(one) for one in torch.softmax(logits[0].double(), 0)]
        guess = int(np.argmax(chances))
        label = guess if query.label is None else run.label_number(query.label)
        loss = _loss(run, encoder, encoded, label, logits)
    return replace(
        view,
        label=names[label],
        predicted=names[guess],
        probabilities=dict(zip(names, chances, strict=True)),
        loss=loss,
    )


def _loss(run: Run, encoder: Encoder, encoded: Encoded, label: int, logits: torch.Tensor) -> float:
    return float(run.task.objective(encoder.collate([encoded], [label])).losses(logits)[0])


def _explanation(
    spec: Loop, run: Run, scorer: LoopScorer, asked: Sequence[Query], row: int, view: QueryView, k: int
) -> Explanation:
    (ranking,), last, examples = scorer.top(asked, [row], k), run.checkpoints[-1], scorer.examples

    def hits(places: Int[np.ndarray, " k"], scores: Float[np.ndarray, " k"]) -> tuple[Hit, ...]:
        made, rows = list[Hit](), list[int](places.tolist())
        for rank, (place, score) in enumerate(zip(rows, scores.tolist(), strict=True), 1):
            split = (scorer.terms(asked, row, place), (Word("", ()),))
            paired = len(examples[place].parts) > 1
            made.append(hit(examples[place], score, rank, split, by_checkpoint=(score,), paired=paired))
        return tuple(made)

    return Explanation(
        version=__version__,
        method=spec.name,
        checkpoints=(CheckpointView(last.step, last.learning_rate, scorer.found.used),),
        embedding_path=None,
        loss="mean",
        query=view,
        proponents=hits(ranking.proponents, ranking.proponent_scores),
        opponents=hits(ranking.opponents, ranking.opponent_scores),
        notes=tuple(scorer.notes(asked, row, found=True)),
        caveat=scorer.found.caveat,
        n_examples=len(examples),
    )


def _texts(examples: Sequence[Example] | Examples, labels: Sequence[int]) -> Texts:
    return Texts([" ".join(one.parts) for one in examples], None if -1 in labels else np.asarray(labels))
