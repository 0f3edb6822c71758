"""Scores of gradients to which word overlap is added, both in standard deviations over the training set."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from proponent.gradients.forms import Terms
from proponent.index.baseline_scores import BaselineScores
from proponent.index.queries import QueryBatch
from proponent.method import WordOverlap
from proponent.scorer import Filter, Scorer, TopKBothEnds
from proponent.search import ANY
from proponent.store import Store
from proponent.words import Word, lower_words, words_of


class _Scales(NamedTuple):
    """What the two sides of one query's scores are multiplied by."""

    gradients: float
    overlap: float


class OverlapScorer(Scorer[QueryBatch]):
    """Products of gradients plus word overlap (BM25); a comparison with another label or answer has no overlap."""

    def __init__(
        self, overlap: WordOverlap, gradients: Scorer[QueryBatch], baselines: BaselineScores, store: Store
    ) -> None:
        self._overlap, self._gradients, self._baselines, self.store = overlap, gradients, baselines, store
        self._held: tuple[QueryBatch, int, _Scales, dict[str, Float[np.ndarray, " n"]]] | None = None

    @property
    def compares_answers(self) -> bool:
        """Whether two answers to one question can be compared: by their gradients alone."""
        return self._gradients.linear

    def scores(self, queries: QueryBatch, rows: Sequence[int]) -> Float[np.ndarray, "q n"]:
        """Score every training example."""
        return self._added(queries, rows, self._gradients.scores(queries, rows))

    def top(self, queries: QueryBatch, rows: Sequence[int], k: int, where: Filter | None = None) -> list[TopKBothEnds]:
        """Rank both ends for each query; every training example is scored."""
        if _compares(queries):
            return self._gradients.top(queries, rows, k, where)
        return self.top_with_scores(queries, rows, k, where)[0]

    def top_with_scores(
        self, queries: QueryBatch, rows: Sequence[int], k: int, where: Filter | None = None
    ) -> tuple[list[TopKBothEnds], Float[np.ndarray, "q n"] | None]:
        """Rank both ends for each query, with all scores."""
        if _compares(queries):
            return self._gradients.top_with_scores(queries, rows, k, where)
        allowed, scores = (where or ANY).mask(self.store), self.scores(queries, rows)
        return [TopKBothEnds.of(np.where(allowed, one, np.nan), k) for one in scores], scores

    def voters(
        self, queries: QueryBatch, rows: Sequence[int], over: Sequence[str]
    ) -> Iterator[Float[np.ndarray, "v n"]]:
        """Scores by layer, by checkpoint, or by both; word overlap is added to each."""
        for parts in self._gradients.voters(queries, rows, over):
            yield self._added(queries, rows, parts)

    def terms(self, queries: QueryBatch, row: int, place: int) -> list[Terms]:
        """Word x word terms at each checkpoint; those of word overlap are spread evenly over the checkpoints."""
        found = self._gradients.terms(queries, row, place)
        if _compares(queries) or not found:
            return found
        scales, words = self._of(queries, row)
        mine, theirs = words_of(self.store.example(place)), queries.words(row)
        shared = _shared(mine, theirs, {word: float(scores[place]) for word, scores in words.items()})
        # what the split into words does not cover: the texts of a conversation are joined before they are split
        whole = self._baselines.scores("bm25", queries.texts(row))[place]
        shared[-1, -1] += whole - shared.sum()
        if np.isclose(shared[-1, -1], 0.0, atol=1e-9 * max(abs(whole), 1.0)):
            shared[-1, -1] = 0.0
        signed = shared * (scales.overlap * self._sign(queries, row)[place] / len(found))
        return [one * scales.gradients + signed for one in found]

    def words_are(self, queries: QueryBatch) -> str | None:
        """What the words of an answer to these queries are."""
        own = self._gradients.words_are(queries)
        return own if own is None or _compares(queries) else f"{own} and word overlap"

    def take_words(self, by: str) -> None:
        """Choose the definition of the words of the gradients."""
        self._gradients.take_words(by)

    def notes(self, queries: QueryBatch, row: int, *, found: bool) -> list[str]:
        """Say what the scores consist of."""
        told = self._gradients.notes(queries, row, found=found)
        if _compares(queries):
            return [*told, "word overlap is left out of a comparison: these are scores of gradients alone"]
        return [
            *told,
            f"scores are gradients plus {self._overlap.factor:g} x word overlap (BM25), both in standard deviations "
            "over the training set",
        ]

    def _added(
        self, queries: QueryBatch, rows: Sequence[int], scores: Float[np.ndarray, "q n"]
    ) -> Float[np.ndarray, "q n"]:
        if _compares(queries):
            return scores
        overlap = np.stack([self._signed(queries, row) for row in rows])
        scales = [_scales(self._overlap, *pair) for pair in zip(scores, overlap, strict=True)]
        gradients, words = (np.asarray([[one[at]] for one in scales]) for at in (0, 1))
        return scores * gradients + overlap * words

    def _of(self, queries: QueryBatch, row: int) -> tuple[_Scales, dict[str, Float[np.ndarray, " n"]]]:
        """Scales of one query, and its overlap by word; cached while its hits are built."""
        if self._held is None or self._held[0] is not queries or self._held[1] != row:
            (own,) = self._gradients.scores(queries, [row])
            scales = _scales(self._overlap, own, self._signed(queries, row))
            words: dict[str, Float[np.ndarray, " n"]] = {}
            for text in queries.texts(row).texts:
                words |= self._baselines.overlap_by_word(text)
            self._held = (queries, row, scales, words)
        return self._held[2], self._held[3]

    def _signed(self, queries: QueryBatch, row: int) -> Float[np.ndarray, " n"]:
        return self._baselines.scores("bm25", queries.texts(row)) * self._sign(queries, row)

    def _sign(self, queries: QueryBatch, row: int) -> Float[np.ndarray, " n"]:
        """Sign of word overlap: 1 for a row with the query's label or without labels, -1 for one with another."""
        if not self.store.plan.labels:
            return np.ones(self.store.n)
        return np.where(self.store.features["labels"] == queries.labels[row], 1.0, -1.0)


def _compares(queries: QueryBatch) -> bool:
    """Whether the queries compare two labels or two answers."""
    return queries.against is not None or getattr(queries, "contrasts", False)


def _scales(overlap: WordOverlap, gradients: Float[np.ndarray, " n"], words: Float[np.ndarray, " n"]) -> _Scales:
    """Divide both sides by their standard deviation over the training set; a side that never varies is left out."""
    first, second = float(np.nanstd(gradients)), float(np.nanstd(words))
    return _Scales(1.0 / first if first > 0 else 0.0, overlap.factor / second if second > 0 else 0.0)


def _shared(mine: Sequence[Word], theirs: Sequence[Word], overlap: dict[str, float]) -> Terms:
    """Spread what each word of a query adds over its occurrences in a training example, evenly."""
    terms = np.zeros((len(mine) + 1, len(theirs) + 1))
    places: dict[str, Counter[int]] = {}
    for place, word in enumerate(mine):
        for one in lower_words(word.text):
            places.setdefault(one, Counter())[place] += 1
    for column, word in enumerate(theirs):
        for one in lower_words(word.text):
            found = places.get(one, Counter[int]())
            for place, count in found.items():
                terms[place, column] += overlap.get(one, 0.0) * count / found.total()
    return terms
