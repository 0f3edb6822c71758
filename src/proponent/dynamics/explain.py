"""Explanations by a method with a loop of its own: from a run and its training set, without an index."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from proponent.baselines import NAMES, Baselines, Texts
from proponent.data import Examples
from proponent.dynamics.loops import LoopScores, Query, score_function
from proponent.errors import InputError
from proponent.index.planning import label_numbers
from proponent.index.word_pairs import word_pairs
from proponent.method import Loop
from proponent.method_table import method_of
from proponent.models import Encoded, Encoder, Run
from proponent.search import ranking_of
from proponent.types import Example
from proponent.version import __version__
from proponent.views import BaselineHit, CheckpointView, Explanation, Hit, QueryView
from proponent.words import Word, words


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
    if say is not None and found.summary:
        say(found.summary)
    lists = Baselines(_texts(examples, labels)) if baselines else None
    answers: list[Explanation] = []
    for row, (one, view) in enumerate(zip(queries, views, strict=True)):
        made = _explanation(spec, run, examples, found, row, view, k)
        beside = {} if lists is None else _baseline_hits(lists, examples, _texts([one], numbers[row : row + 1]), k)
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
    spec: Loop, run: Run, examples: Examples, found: LoopScores, row: int, view: QueryView, k: int
) -> Explanation:
    scores = found.scores[row]
    ranking = ranking_of(scores, k)
    last = run.checkpoints[-1]

    def hits(places: Sequence[int]) -> tuple[Hit, ...]:
        return tuple(
            _hit(examples[place], found.words(row, place), float(scores[place]), rank)
            for rank, place in enumerate(places, 1)
        )

    return Explanation(
        version=__version__,
        method=spec.name,
        checkpoints=(CheckpointView(last.step, last.learning_rate, found.used),),
        embedding_path=None,
        loss="mean",
        query=view,
        proponents=hits(ranking.proponents.tolist()),
        opponents=hits(ranking.opponents.tolist()),
        notes=((found.summary,) if found.summary else ()) + found.notes,
        caveat=found.caveat,
        n_examples=len(examples),
    )


def _hit(example: Example, shares: Mapping[int, float], score: float, rank: int) -> Hit:
    mine = words(example.parts)
    terms = np.zeros((len(mine) + 1, 1))  # no word of the query stands against a word of the example
    for number, share in shares.items():
        terms[number] = share
    return Hit(
        rank=rank,
        id=example.id,
        row=example.row,
        score=score,
        text=example.text,
        text_pair=example.text_pair,
        target=example.target,
        label=None if example.label is None else str(example.label),
        by_checkpoint=(score,),
        words=word_pairs(terms, mine, (Word("", ()),), paired=len(example.parts) > 1),
    )


def _texts(examples: Sequence[Example] | Examples, labels: Sequence[int]) -> Texts:
    return Texts([" ".join(one.parts) for one in examples], None if -1 in labels else np.asarray(labels))


def _baseline_hits(known: Baselines, examples: Examples, query: Texts, k: int) -> dict[str, tuple[BaselineHit, ...]]:
    """Rankings by the baselines that need neither predictions nor hidden states."""
    missing = known.missing()
    found: dict[str, tuple[BaselineHit, ...]] = {}
    for name in NAMES:
        if name not in missing:
            scores = known.scores(name, query)[0]
            best: list[int] = np.lexsort((np.arange(len(scores)), -scores))[:k].tolist()
            found[name] = tuple(
                BaselineHit(examples[place].id, examples[place].row, float(scores[place])) for place in best
            )
    return found
