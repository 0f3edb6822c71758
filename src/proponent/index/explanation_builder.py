"""Build an explanation from a ranking: hits, words and notes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from proponent.index.baseline_scores import BaselineScores
from proponent.index.overlap import Answer
from proponent.index.queries import QueryBatch
from proponent.index.word_pairs import word_pairs
from proponent.index.word_pieces import Places, WordPieces
from proponent.labels import Labels, in_words
from proponent.method import Baseline, Reduction
from proponent.models import Encoder
from proponent.scorer import Filter, Scorer, TopKBothEnds
from proponent.search import Where
from proponent.store import Store
from proponent.types import Example, Span
from proponent.version import __version__
from proponent.views import BaselineHit, CheckpointView, Explanation, Hit
from proponent.views.counted_scores import ScoreCounts
from proponent.views.explanation import CAVEAT
from proponent.views.score_counts import count_scores
from proponent.views.turns import turn_views
from proponent.words import within, words_of


@dataclass(frozen=True)
class ExplanationSource:
    """Facts about a method and its training set that explanations state."""

    method: str
    checkpoints: tuple[CheckpointView, ...]
    embedding_path: Literal["exact", "input", "output"] | None
    loss: Reduction
    labels: Labels
    n_examples: int
    example: Callable[[int], Example]
    predicted: Callable[[int], str | None] = lambda _: None
    counted: Callable[[Example], Sequence[tuple[Span, ...]]] = lambda _: ()  # places that count in each turn
    origin: Callable[[int], str | None] = lambda _: None  # value of the source column
    places: Places = lambda _: ()  # tokens of an example's texts
    # what the model reads of each text of a truncated example; None for a complete one
    stretches: Callable[[Example], tuple[Span, ...] | None] = lambda _: None
    caveat: str = CAVEAT


def explanation(
    source: ExplanationSource,
    scorer: Scorer[QueryBatch],
    queries: QueryBatch,
    row: int,
    ranking: TopKBothEnds,
    *,
    baselines: dict[str, tuple[BaselineHit, ...]],
    notes: tuple[Sequence[str], Sequence[str]] = ((), ()),
    with_words: bool = True,
    counts: ScoreCounts | None = None,
) -> Explanation:
    """Explain one query by a ranking; `notes` are those before and after the query's own."""
    said = Answer(queries.answer(row))

    def hits(places: np.ndarray, scores: np.ndarray) -> tuple[Hit, ...]:
        ranked = enumerate(zip(places.tolist(), scores.tolist(), strict=True), 1)
        return tuple(
            _hit(source, scorer, queries, row, place, score, rank, said, with_words=with_words)
            for rank, (place, score) in ranked
        )

    found = len(ranking.proponents) + len(ranking.opponents) > 0
    before, after = notes
    return Explanation(
        version=__version__,
        method=source.method,
        checkpoints=source.checkpoints,
        embedding_path=source.embedding_path,
        loss=source.loss,
        query=queries.view(row, source.labels),
        group=queries.group(source.labels),
        proponents=hits(ranking.proponents, ranking.proponent_scores),
        opponents=hits(ranking.opponents, ranking.opponent_scores),
        baselines=baselines,
        words_are=scorer.words_are(queries) if with_words else None,
        notes=(*before, *queries.notes(row), *scorer.notes(queries, row, found=found), *after),
        caveat=source.caveat,
        score_counts=counts,
        n_examples=source.n_examples,
    )


MOST_COUNTED = 250_000
"""Examples up to which all scores of a question are computed: above it, most are never looked at while ranking."""


def ranked(
    scorer: Scorer[QueryBatch], queries: QueryBatch, rows: Sequence[int], k: int, where: Filter | None = None, *, n: int
) -> tuple[list[TopKBothEnds], ScoreCounts | None]:
    """Rank n examples for some queries; of a single one all scores are counted, too, unless they are too many."""
    if len(queries.queries) > 1 or n > MOST_COUNTED:
        return scorer.top(queries, rows, k, where), None
    rankings, scores = scorer.top_with_scores(queries, rows, k, where)
    return rankings, None if scores is None else count_scores(scores[0])


def _hit(
    source: ExplanationSource,
    scorer: Scorer[QueryBatch],
    queries: QueryBatch,
    row: int,
    place: int,
    score: float,
    rank: int,
    said: Answer,
    *,
    with_words: bool,
) -> Hit:
    """Show a training example with the split of its score by checkpoint, run and word."""
    example, terms = source.example(place), scorer.terms(queries, row, place) if with_words else []
    parts = tuple(float(part.sum()) for part in terms) if scorer.terms_sum else (score,)
    turned = (example.turns is not None, queries.turned(row))
    alone = bool(terms) and queries.group(source.labels) is None  # of a group, each query has its own tokens
    pieces = WordPieces(source.places(queries.queries[row]), source.places(example)) if alone else None
    read = source.stretches(example)
    words = words_of(example) if read is None else within(words_of(example), read)
    paired = (len(example.parts) > 1 and not turned[0]) or queries.paired(row)
    return Hit(
        rank=rank,
        id=example.id,
        row=example.row,
        score=sum(parts) if parts else score,
        text=example.text,
        text_pair=example.text_pair,
        target=example.target,
        turns=None if example.turns is None else turn_views(example.content, source.counted(example)),
        label=None if example.label is None else in_words(example.label),
        predicted=source.predicted(place),
        source=source.origin(place),
        **_cuts(example, read),
        by_checkpoint=parts,
        by_run=_by_run([one.run for one in source.checkpoints], parts),
        overlap=said.overlap(example.parts),
        words=word_pairs(np.sum(terms, axis=0), words, queries.words(row), paired=paired, turned=turned, pieces=pieces)
        if terms
        else (),
    )


def _cuts(example: Example, read: Sequence[Span] | None) -> dict[str, Any]:
    """Where the texts of a truncated example end for the model, or begin; in a conversation, with one turn per line."""
    if read is None:
        return {}
    parts = example.parts
    if example.turns is not None:
        last = max((part for part, (start, stop) in enumerate(read) if start < stop), default=0)
        return {"truncated_at": sum(len(part) + 1 for part in parts[:last]) + read[last][1]}
    before = any(start > 0 for start, _ in read)
    places = [
        (start or None) if before else (stop if stop < len(part.rstrip()) else None)
        for part, (start, stop) in zip(parts, read, strict=True)
    ]
    return dict(zip(("truncated_at", "pair_truncated_at"), places, strict=False)) | (
        {"truncated_before": True} if before else {}
    )


def _by_run(runs: Sequence[int], parts: tuple[float, ...]) -> tuple[float, ...]:
    """The parts of a score by run; empty for a single run."""
    if len(set(runs)) < 2 or not parts:
        return ()
    pairs = list(zip(runs, parts, strict=True))
    return tuple(sum(part for one, part in pairs if one == run) for run in sorted(set(runs)))


class ExplanationBuilder:
    """Builds explanations from one index."""

    def __init__(
        self,
        store: Store,
        scorer: Scorer[QueryBatch],
        baselines: BaselineScores,
        encoder: Callable[[], Encoder],
    ) -> None:
        self.store, self._scorer, self._baselines, self._encoder = store, scorer, baselines, encoder

    def answer(
        self,
        queries: QueryBatch,
        row: int,
        ranking: TopKBothEnds,
        k: int,
        *,
        baselines: bool,
        where: Where,
        with_words: bool = True,
        notes: Sequence[str] = (),
        counts: ScoreCounts | None = None,
    ) -> Explanation:
        """Explain one query."""
        store = self.store
        lists, reasons = self._baselines.lists(queries.texts(row), k, where.mask(store)) if baselines else ({}, [])
        if baselines and queries.against is not None:
            reasons = ["the baselines rank for the label only, without the label that it is compared with", *reasons]
        before = [*self._banners(where), *notes, *store.manifest.notes]
        return explanation(
            self._source(),
            self._scorer,
            queries,
            row,
            ranking,
            baselines=lists,
            notes=(before, reasons),
            with_words=with_words,
            counts=counts,
        )

    def _source(self) -> ExplanationSource:
        store, plan = self.store, self.store.plan
        return ExplanationSource(
            method=plan.method.name,
            checkpoints=tuple(
                CheckpointView(one.id.step, one.learning_rate, one.rule, one.id.run) for one in plan.checkpoints
            ),
            embedding_path=plan.shown_path,  # type: ignore[arg-type]
            loss=plan.reduction,
            labels=plan.labels,
            n_examples=store.counts.examples,
            example=store.example,
            predicted=lambda place: store.row(place)["predicted"],
            counted=lambda one: self._encoder().counted_spans(one),
            places=lambda one: self._encoder().token_places(one),
            stretches=self._stretches,
            origin=lambda place: store.row(place)["source"],
        )

    def _stretches(self, example: Example) -> tuple[Span, ...] | None:
        """What the model reads of a training example; controls without a model compare whole texts."""
        return None if isinstance(self.store.plan.method, Baseline) else self._encoder().stretches(example)

    def _banners(self, where: Where) -> list[str]:
        """Warnings that a reader must see before the scores."""
        store, lines = self.store, list[str]()
        lost = sum(len(segment.missing) for segment in store.segments)
        if not store.sealed:
            lines.append(
                f"PARTIAL: this index is unfinished; {store.coverage:.0%} of the training examples are in it, and only "
                "they can be hits"
            )
        elif lost:
            lines.append(
                f"INCOMPLETE: {lost} shards of this index are missing; {store.coverage:.0%} of the training examples "
                "are in it, and only they can be hits"
            )
        gone = sum(len(segment.deleted) for segment in store.segments)
        if gone:
            lines.append(f"{gone} deleted training examples are excluded")
        if not where.open:
            parts = {"label": where.labels, "source": where.sources, "id": where.ids}
            chosen = [f"{name} {', '.join(sorted(some)[:5])}" for name, some in parts.items() if some is not None]
            lines.append(f"filtered: only training examples with {' and '.join(chosen)}")
        return lines
