"""Answers by replay: the derivative of an output through the recorded training run, by example and by word.

Nothing is kept between questions: the training is done again, checked against the saved weights, differentiated, and
tried on a few examples that are really weighed otherwise. Where that shows that the training is not smooth, nothing is
ranked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from proponent.baselines import NAMES, Baselines, Texts
from proponent.data import Examples
from proponent.dynamics.derivative import Derivative, Smoothness
from proponent.dynamics.replay import Query, Replay
from proponent.errors import InputError, RunError
from proponent.index.planning import label_numbers
from proponent.models import Encoded, Encoder, Run
from proponent.search import ranking_of
from proponent.types import SPECIAL, Example
from proponent.version import __version__
from proponent.views import BaselineHit, CheckpointView, Explanation, Hit, QueryView, WordPair
from proponent.words import Word, words

TRIED = 3
"""Examples that are weighed otherwise, to see whether training is smooth."""

CAVEAT = (
    "A score is the exact derivative of the query's loss through this one training run: first weights, order and "
    "random draws are held fixed, and leaving an example out altogether is further than a derivative reaches."
)


@dataclass(frozen=True)
class ReplayResult:
    """A training that was done again, differentiated and tried.

    Attributes:
        deviation: of the replayed weights from the saved ones, relative to how far training moved them.
        derivative: of the queries' losses.
        smoothness: of the training, tried with the first query.
    """

    deviation: float
    derivative: Derivative
    smoothness: Smoothness

    def description(self) -> str:
        """Say how far the derivative can be trusted, in one line."""
        one = self.smoothness
        return (
            f"smoothness {one.ratio:.3f} (change seen over change predicted, {len(one.rows)} examples weighed 1 % up "
            f"and down; 1 is smooth), relative error {one.error:.2g}; the replayed weights end {self.deviation:.1e} "
            "away from the saved ones"
        )


def replayed(
    run: Run,
    examples: Examples,
    queries: Sequence[Query],
    *,
    max_length: int | None = None,
    quiet: bool = False,
) -> ReplayResult:
    """Replay a run and differentiate some outputs."""
    work = Replay(run, list(examples), label_numbers(run, examples), max_length=max_length, quiet=quiet)
    deviation = work.deviation()
    found = work.derivative(queries)
    rows = np.argsort(-np.abs(found.scores[0]), kind="stable")[:TRIED].tolist()
    return ReplayResult(deviation, found, work.smoothness(queries[0], found, rows))


def explain_by_replay(
    run: Run,
    examples: Examples,
    queries: Sequence[Example],
    *,
    k: int = 10,
    max_length: int | None = None,
    baselines: bool = True,
    quiet: bool = False,
    say: Callable[[str], None] | None = None,
) -> list[Explanation]:
    """Say where outputs come from, by replaying the training."""
    if not queries:
        raise InputError("replay was asked about no text: give at least one")
    views = [_view(run, one, max_length) for one in queries]
    names = run.task.labels.names
    numbers = [run.task.labels.stored(view.label) for view in views]
    asked = [Query(one, number) for one, number in zip(queries, numbers, strict=True)]
    found = replayed(run, examples, asked, max_length=max_length, quiet=quiet)
    if say is not None:
        say(found.description())
    require_smooth(run, found.smoothness)
    lists = Baselines(_texts(examples, names)) if baselines else None
    answers: list[Explanation] = []
    for row, (one, view) in enumerate(zip(queries, views, strict=True)):
        made = _answer(run, examples, found, row, view, k)
        beside = (
            {} if lists is None else _baseline_hits(lists, examples, _texts([replace(one, label=view.label)], names), k)
        )
        answers.append(replace(made, baselines=beside))
    return answers


def require_smooth(run: Run, smoothness: Smoothness) -> None:
    """Refuse to rank by the derivative of a training that is not smooth."""
    if not smoothness.smooth:
        raise RunError(
            f"the training of {run.path} is not smooth: examples weighed 1 % up and down change the output "
            f"{smoothness.ratio:.3g} times as much as its derivative says (relative error {smoothness.error:.2g}), so "
            "its ranking would be noise: train with a larger --adam-epsilon (1e-3), a smaller --learning-rate, or "
            "smooth activations (gelu), or ask an index"
        )


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


def _answer(run: Run, examples: Examples, found: ReplayResult, row: int, view: QueryView, k: int) -> Explanation:
    scores = found.derivative.scores[row]
    ranking = ranking_of(scores, k)
    last = run.checkpoints[-1]
    return Explanation(
        version=__version__,
        method="replay",
        checkpoints=(CheckpointView(last.step, last.learning_rate, "every recorded step was replayed"),),
        embedding_path=None,
        loss="mean",
        query=view,
        proponents=_hits(examples, found.derivative, row, ranking.proponents.tolist()),
        opponents=_hits(examples, found.derivative, row, ranking.opponents.tolist()),
        notes=(
            found.description(),
            "a word's share is the derivative by a factor on what its embedding gives in training; weighing a text and "
            "weighing what the model reads of it are two things: the shares need not sum to the score",
            "first weights, order and random draws are those of this one run: no figure that averages over seeds "
            "compares with these scores",
        ),
        caveat=CAVEAT,
        n_examples=len(examples),
    )


def _hits(examples: Examples, derivative: Derivative, query: int, places: Sequence[int]) -> tuple[Hit, ...]:
    return tuple(
        _hit(examples[place], derivative.of_words(query, place), float(derivative.scores[query, place]), rank)
        for rank, place in enumerate(places, 1)
    )


def _hit(example: Example, shares: dict[int, float], score: float, rank: int) -> Hit:
    named = words(example.parts)
    ordered = sorted((item for item in shares.items() if item[1] != 0.0), key=lambda item: (-abs(item[1]), item[0]))
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
        words=tuple(_word(named, number, share, paired=len(example.parts) > 1) for number, share in ordered),
    )


def _word(named: Sequence[Word], number: int, share: float, *, paired: bool) -> WordPair:
    """A word of the training example; no word of the query stands against it."""
    first, *rest = ((), ()) if number < 0 else named[number].spans
    second = rest[0] if rest else ()
    text = SPECIAL if number < 0 else named[number].text
    return WordPair("", text, share, (), first, () if paired else None, second if paired else None)


def _texts(examples: Sequence[Example] | Examples, names: Sequence[str]) -> Texts:
    labels = np.asarray([_class(one, names) for one in examples]) if names else None
    return Texts([" ".join(one.parts) for one in examples], labels, None, None)


def _class(example: Example, names: Sequence[str]) -> int:
    label = str(example.label)
    return names.index(label) if label in names else int(label)


def _baseline_hits(known: Baselines, examples: Examples, query: Texts, k: int) -> dict[str, tuple[BaselineHit, ...]]:
    """Rankings by the baselines that need neither predictions nor hidden states."""
    missing = known.missing()
    found: dict[str, tuple[BaselineHit, ...]] = {}
    for name in NAMES:
        if name not in missing:
            scores: Float[np.ndarray, " n"] = known.scores(name, query)[0]
            best: list[int] = np.lexsort((np.arange(len(scores)), -scores))[:k].tolist()
            found[name] = tuple(
                BaselineHit(examples[place].id, examples[place].row, float(scores[place])) for place in best
            )
    return found
