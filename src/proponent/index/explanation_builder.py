"""Make an answer of a ranking: what a person sees, with the words that did it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from proponent import words as splitter
from proponent.index.baseline_scores import BaselineScores
from proponent.index.fastif import FastIF
from proponent.index.queries import QueryBatch
from proponent.index.query_preconditioner import QueryPreconditioner
from proponent.index.word_pairs import word_pairs
from proponent.method import Baseline, EmbeddingRows, Gradients
from proponent.search import Ranking, Search, Where
from proponent.store import Store
from proponent.types import RUN_STEPS, Example
from proponent.version import __version__
from proponent.views import CheckpointView, Explanation, Hit

ByWord = Callable[[int, Example, int, int, int | None, bool], Float[np.ndarray, "w p"]]
"""Splits the vector of a text by its words."""


class ExplanationBuilder:
    """Answers of one index.

    Args:
        store: the index.
        search: over it.
        beside: its baselines.
        by_word: what splits hits whose vectors have no words: FastIF, or a function of checkpoint, text, class, number
            of words, the class whose loss is subtracted, and whether it is a query.
        turning: what the method does to queries.
    """

    def __init__(
        self,
        store: Store,
        search: Search,
        beside: BaselineScores,
        by_word: ByWord | FastIF,
        turning: QueryPreconditioner,
    ) -> None:
        self.store, self._search, self._baselines = store, search, beside
        self._fast = by_word if isinstance(by_word, FastIF) else None
        self._by_word, self._preconditioner = by_word, turning
        self._theirs: tuple[QueryBatch, int, dict[int, np.ndarray]] | None = None
        self._held: dict[int, frozenset[int]] = {}

    def answer(
        self,
        asked: QueryBatch,
        row: int,
        ranking: Ranking,
        k: int,
        *,
        baselines: bool,
        where: Where,
        worded: bool = True,
        told: Sequence[str] = (),
    ) -> Explanation:
        """Make the answer to one query."""
        plan = self.store.plan
        hits = len(ranking.proponents) + len(ranking.opponents)
        notes = [*self._banners(where), *told, *self.store.manifest.notes, *asked.notes(row)]
        notes += [] if self._fast is None else self._fast.notes(asked, row)
        notes += self._sparse(asked, row, found=bool(hits))
        allowed = None if where.open else np.concatenate([where.allowed(one) for one in self.store.segments])
        lists, reasons = self._baselines.lists(asked.texts(row), k, allowed) if baselines else ({}, [])
        if baselines and asked.against is not None:
            reasons = ["the baselines rank for the label alone, not against the other one", *reasons]
        return Explanation(
            version=__version__,
            method=plan.method.name,
            checkpoints=tuple(
                CheckpointView(one.step % RUN_STEPS, one.learning_rate, one.rule, one.step // RUN_STEPS)
                for one in plan.checkpoints
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

    def _sparse(self, asked: QueryBatch, row: int, *, found: bool) -> list[str]:
        """Say why there is little or nothing to show."""
        plan = self.store.plan
        rows = plan.term.gradient if isinstance(plan.term, Gradients) else None
        if (
            isinstance(rows, EmbeddingRows)
            and plan.by_token
            and rows.match.kind == "equal"
            and not self._shares_a_token(asked, row)
        ):
            left = "what is left comes from special tokens alone" if found else "nothing to show"
            if rows.top is not None:
                name = plan.method.name
                return [f"none of the tokens that {name} keeps of this text is kept of a training text: {left}"]
            return [f"no token of this text occurs in the training set: {left}"]
        return [] if found else ["every score is zero: nothing to show"]

    def _shares_a_token(self, asked: QueryBatch, row: int) -> bool:
        for step, gradient in asked.gradients.items():
            rows = gradient.example(row).rows
            if rows is None or not self._tokens(step).isdisjoint(rows.ids[rows.words >= 0].tolist()):
                return True
        return False

    def _tokens(self, step: int) -> frozenset[int]:
        if step not in self._held:
            postings = [segment.postings(step) for segment in self.store.segments]
            tokens = [one.tokens for one in postings if one is not None]
            if len(tokens) < len(postings):
                tokens += [arrays["rows.ids"] for _, arrays in self.store.shards(step)]
            self._held[step] = frozenset(token for some in tokens for token in np.unique(some).tolist())
        return self._held[step]

    def _hits(
        self, asked: QueryBatch, row: int, places: np.ndarray, scores: np.ndarray, *, worded: bool
    ) -> tuple[Hit, ...]:
        pairs = zip(places.tolist(), scores.tolist(), strict=True)
        theirs = asked.words(row) if len(places) and worded else None  # a long text takes its time
        return tuple(replace(self._hit(asked, row, *pair, theirs), rank=rank) for rank, pair in enumerate(pairs, 1))

    def _terms(
        self, asked: QueryBatch, row: int, step: int, hit: tuple[int, Example], widths: tuple[int, int]
    ) -> Float[np.ndarray, "w x"]:
        """Word x word terms at one checkpoint. Vectors keep no words: those of a hit are taken again from its text."""
        place, example = hit
        label = self.store.plan.labels.stored(example.label)
        if self._fast is not None:
            return self._fast.terms(asked, row, step, example, label, widths)
        gradient = asked.gradients[step].example(row)
        if gradient.dense is None:
            return self._search.terms(step, place, gradient, widths)
        mine = self._split(step, example, label, widths[0], None, False).astype(np.float64)
        terms = self._search.weighed(step, place) * (mine @ self._query(asked, row)[step].T)
        rest = replace(gradient, dense=None)
        return (
            terms
            if gradient.rows is None and gradient.head is None
            else terms + self._search.terms(step, place, rest, widths)
        )

    def _split(
        self, step: int, example: Example, label: int, width: int, against: int | None, asked: bool
    ) -> Float[np.ndarray, "w p"]:
        assert not isinstance(self._by_word, FastIF)
        return self._by_word(step, example, label, width, against, asked)

    def _query(self, asked: QueryBatch, row: int) -> dict[int, Float[np.ndarray, "w p"]]:
        """A query's turned vectors by word, at every checkpoint; kept while its hits are made."""
        if self._theirs is None or self._theirs[0] is not asked or self._theirs[1] != row:
            made: dict[int, np.ndarray] = {}
            for step in asked.factors:

                def by_word(example: Example, label: int, width: int, at: int = step) -> Float[np.ndarray, "w p"]:
                    return self._split(at, example, label, width, asked.against, True)

                made[step] = self._preconditioner.vectors(step, asked.split(row, step, by_word)).astype(np.float64)
            self._theirs = (asked, row, made)
        return self._theirs[2]

    def _hit(
        self, asked: QueryBatch, row: int, place: int, score: float, theirs: tuple[splitter.Word, ...] | None
    ) -> Hit:
        columns: dict[str, Any] = self.store.row(place)
        shown = (str(columns["text"]), None, columns["text_pair"], columns["target"])
        example = Example(str(columns["id"]), int(columns["row"]), *shown)
        mine = splitter.words(example.parts)
        full = replace(example, label=columns["label"])
        parts = [
            self._terms(asked, row, step, (place, full), (len(mine), len(theirs or ())))
            for step in asked.gradients
            if not isinstance(self.store.plan.term, Baseline) and theirs is not None
        ]
        return Hit(
            rank=0,
            id=example.id,
            row=example.row,
            score=float(sum(part.sum() for part in parts)) if parts else score,
            text=example.text,
            text_pair=example.text_pair,
            target=example.target,
            label=columns["label"],
            predicted=columns["predicted"],
            by_checkpoint=tuple(float(part.sum()) for part in parts),
            by_run=_by_run(list(asked.gradients), [float(part.sum()) for part in parts]),
            words=word_pairs(
                np.sum(parts, axis=0), mine, theirs or (), paired=len(example.parts) > 1 or asked.paired(row)
            )
            if parts
            else (),
        )


def _by_run(checkpoints: list[int], parts: list[float]) -> tuple[float, ...]:
    """The parts of a score by run; empty for one run."""
    runs = sorted({number // RUN_STEPS for number in checkpoints})
    if len(runs) < 2 or not parts:
        return ()
    pairs = list(zip(checkpoints, parts, strict=True))
    return tuple(sum(part for number, part in pairs if number // RUN_STEPS == run) for run in runs)
