"""Make an explanation of a ranking: what a person sees, with the words that did it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from proponent.index.baseline_scores import BaselineScores
from proponent.index.queries import QueryBatch
from proponent.index.word_pairs import word_pairs
from proponent.scorer import Scorer, TopKBothEnds
from proponent.search import Where
from proponent.store import Store
from proponent.types import CheckpointId, Example
from proponent.version import __version__
from proponent.views import CheckpointView, Explanation, Hit
from proponent.words import Word, words


class ExplanationBuilder:
    """Explanations by one index."""

    def __init__(self, store: Store, scorer: Scorer[QueryBatch], baselines: BaselineScores) -> None:
        self.store, self._scorer, self._baselines = store, scorer, baselines

    def answer(
        self,
        asked: QueryBatch,
        row: int,
        ranking: TopKBothEnds,
        k: int,
        *,
        baselines: bool,
        where: Where,
        worded: bool = True,
        told: Sequence[str] = (),
    ) -> Explanation:
        """Make the answer to one query."""
        plan = self.store.plan
        found = len(ranking.proponents) + len(ranking.opponents) > 0
        notes = [*self._banners(where), *told, *self.store.manifest.notes, *asked.notes(row)]
        notes += self._scorer.notes(asked, row, found=found)
        lists, reasons = self._baselines.lists(asked.texts(row), k, where.mask(self.store)) if baselines else ({}, [])
        if baselines and asked.against is not None:
            reasons = ["the baselines rank for the label alone, not against the other one", *reasons]
        return Explanation(
            version=__version__,
            method=plan.method.name,
            checkpoints=tuple(
                CheckpointView(one.id.step, one.learning_rate, one.rule, one.id.run) for one in plan.checkpoints
            ),
            embedding_path=plan.shown_path,  # type: ignore[arg-type]
            loss=plan.reduction,
            query=asked.view(row, plan.labels),
            group=asked.group(plan.labels),
            proponents=self._hits(asked, row, ranking.proponents, ranking.proponent_scores, worded=worded),
            opponents=self._hits(asked, row, ranking.opponents, ranking.opponent_scores, worded=worded),
            baselines=lists,
            notes=tuple(notes + reasons),
            n_examples=self.store.counts.examples,
        )

    def _banners(self, where: Where) -> list[str]:
        """What a reader must know before the scores."""
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
            told = [f"{name} {', '.join(sorted(some)[:5])}" for name, some in parts.items() if some is not None]
            lines.append(f"filtered: only training examples with {' and '.join(told)}")
        return lines

    def _hits(
        self, asked: QueryBatch, row: int, places: np.ndarray, scores: np.ndarray, *, worded: bool
    ) -> tuple[Hit, ...]:
        hits: list[Hit] = []
        for rank, (place, score) in enumerate(zip(places.tolist(), scores.tolist(), strict=True), 1):
            terms = self._scorer.terms(asked, row, place) if worded else []
            parts = tuple(float(part.sum()) for part in terms)
            example, theirs = self.store.example(place), asked.words(row) if terms else ()
            hits.append(
                hit(
                    example,
                    sum(parts) if parts else score,
                    rank,
                    (terms, theirs),
                    by_checkpoint=parts,
                    predicted=self.store.row(place)["predicted"],
                    paired=len(example.parts) > 1 or asked.paired(row),
                    by_run=_by_run([one.id for one in self.store.plan.checkpoints], parts),
                )
            )
        return tuple(hits)


def hit(
    example: Example,
    score: float,
    rank: int,
    split: tuple[Sequence[Float[np.ndarray, "w x"]], tuple[Word, ...]],
    *,
    by_checkpoint: tuple[float, ...],
    paired: bool,
    predicted: str | None = None,
    by_run: tuple[float, ...] = (),
) -> Hit:
    """Show a training example with the split of its score: terms at each checkpoint, and the words of the query."""
    terms, theirs = split
    return Hit(
        rank=rank,
        id=example.id,
        row=example.row,
        score=score,
        text=example.text,
        text_pair=example.text_pair,
        target=example.target,
        label=None if example.label is None else str(example.label),
        predicted=predicted,
        by_checkpoint=by_checkpoint,
        by_run=by_run,
        words=word_pairs(np.sum(terms, axis=0), words(example.parts), theirs, paired=paired) if terms else (),
    )


def _by_run(checkpoints: list[CheckpointId], parts: tuple[float, ...]) -> tuple[float, ...]:
    """The parts of a score by run; empty for one run."""
    runs = sorted({one.run for one in checkpoints})
    if len(runs) < 2 or not parts:
        return ()
    pairs = list(zip(checkpoints, parts, strict=True))
    return tuple(sum(part for one, part in pairs if one.run == run) for run in runs)
