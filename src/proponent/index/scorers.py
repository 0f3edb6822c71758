"""The scorer for each kind of method."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from proponent.gradients.forms import Terms
from proponent.index.baseline_scores import BaselineScores
from proponent.index.fastif import FastIF
from proponent.index.hit_words import DEFINITIONS, HitWords, WordsBy
from proponent.index.loading import LoadedRun
from proponent.index.overlap_scores import OverlapScorer
from proponent.index.queries import QueryBatch
from proponent.method import Baseline, EmbeddingRows, Gradients, Layers, Retaken, similarity_of
from proponent.preconditioners.batches import layer_shapes
from proponent.preconditioners.query_preconditioner import QueryPreconditioner
from proponent.scorer import Filter, Scorer, TopKBothEnds
from proponent.search import ANY, KernelName, Search
from proponent.types import CheckpointId


def scorer_of(
    loaded: LoadedRun, baselines: BaselineScores, preconditioner: QueryPreconditioner, kernel: KernelName | None
) -> Scorer[QueryBatch]:
    """Select the scorer of an index; the only place that distinguishes method classes for scoring."""
    store = loaded.store
    match store.plan.term:
        case Gradients() as method:
            made = GradientScorer(method, Search(store, kernel=kernel), loaded, preconditioner)
            return made if method.overlap is None else OverlapScorer(method.overlap, made, baselines, store)
        case Retaken():
            return FastIF(store, loaded)
        case Baseline() as method:
            return BaselineScorer(method, baselines)


class BaselineScorer(Scorer[QueryBatch]):
    """Scores by a baseline; no words, no gradients."""

    contrasts = False

    def __init__(self, method: Baseline, baselines: BaselineScores) -> None:
        self.method, self._baselines = method, baselines

    def scores(self, queries: QueryBatch, rows: Sequence[int]) -> Float[np.ndarray, "q n"]:
        """Score every training example."""
        return np.stack([self._baselines.scores(self.method.which, queries.texts(row)) for row in rows])

    def top(self, queries: QueryBatch, rows: Sequence[int], k: int, where: Filter | None = None) -> list[TopKBothEnds]:
        """Rank both ends for each query."""
        return self.top_with_scores(queries, rows, k, where)[0]

    def top_with_scores(
        self, queries: QueryBatch, rows: Sequence[int], k: int, where: Filter | None = None
    ) -> tuple[list[TopKBothEnds], Float[np.ndarray, "q n"]]:
        """Rank all scores."""
        allowed, scores = (where or ANY).mask(self._baselines.store), self.scores(queries, rows)
        return [TopKBothEnds.of(np.where(allowed, one, np.nan), k) for one in scores], scores


class GradientScorer(Scorer[QueryBatch]):
    """Products of query gradients with the gradients that an index stores."""

    def __init__(
        self, method: Gradients, search: Search, loaded: LoadedRun, preconditioner: QueryPreconditioner
    ) -> None:
        self.method, self.search, self.store = method, search, search.store
        self.linear = similarity_of(method) is None
        self._loaded, self._preconditioner = loaded, preconditioner
        self._words = HitWords(method, search, loaded, preconditioner)
        self.words_by: WordsBy = "terms"
        self._held: dict[CheckpointId, frozenset[int]] = {}

    def scores(self, queries: QueryBatch, rows: Sequence[int]) -> Float[np.ndarray, "q n"]:
        """Score every training example."""
        return self.search.scores(queries.select(rows), len(rows))

    def top(self, queries: QueryBatch, rows: Sequence[int], k: int, where: Filter | None = None) -> list[TopKBothEnds]:
        """Rank both ends for each query; no matrix of queries x examples is computed."""
        return self.search.top(queries.select(rows), len(rows), k, where or ANY)

    def top_with_scores(
        self, queries: QueryBatch, rows: Sequence[int], k: int, where: Filter | None = None
    ) -> tuple[list[TopKBothEnds], Float[np.ndarray, "q n"]]:
        """Rank both ends and keep all scores, in one pass over the index."""
        scores = np.zeros((len(rows), self.store.n))
        return self.search.top(queries.select(rows), len(rows), k, where or ANY, into=scores), scores

    def voters(
        self, queries: QueryBatch, rows: Sequence[int], over: Sequence[str]
    ) -> Iterator[Float[np.ndarray, "v n"]]:
        """Scores by layer, by checkpoint, or by both."""
        plan = self.store.plan
        several = {"layers": isinstance(self.method.gradient, Layers), "checkpoints": len(plan.checkpoints) > 1}
        if not any(several[axis] for axis in over):
            yield self.scores(queries, rows)
            return
        cuts = [one.cut for one in layer_shapes(plan.blocks)]
        every = [self.search.parts(step, one, len(rows), cuts) for step, one in queries.select(rows).items()]
        if set(over) == {"layers", "checkpoints"}:
            for parts in every:
                yield from parts
        elif "layers" in over:
            for same in zip(*every, strict=True):
                yield np.sum(same, axis=0)
        else:
            for parts in every:
                yield np.sum(list(parts), axis=0)

    def terms(self, queries: QueryBatch, row: int, place: int) -> list[Terms]:
        """Return the word x word terms at each checkpoint."""
        return self._words.terms(self._words.used(self.words_by, queries), queries, row, place)

    def words_are(self, queries: QueryBatch) -> str:
        """What the words of an answer to these queries are."""
        return DEFINITIONS[self._words.used(self.words_by, queries)]

    def take_words(self, by: str) -> None:
        """Choose the definition of the words of answers."""
        self.words_by = self._words.checked(by)

    def notes(self, queries: QueryBatch, row: int, *, found: bool) -> list[str]:
        """Explain why there is little or nothing to show."""
        gradient, plan = self.method.gradient, self.store.plan
        top = gradient.top if isinstance(gradient, EmbeddingRows) else None
        if not (plan.by_token and self.linear) or self._shares_a_token(queries, row):
            return [*super().notes(queries, row, found=found), *self._unseen(queries, row)]
        left = "the remaining score comes only from special tokens" if found else "nothing to show"
        if top is None:
            return [f"no token of this text occurs in the training set: {left}"]
        return [f"{plan.method.name} keeps no token of this text that it also keeps of a training text: {left}"]

    def _unseen(self, queries: QueryBatch, row: int) -> Iterator[str]:
        """Name the words that match nothing and yet count in the norm of a query whose tokens are weighed by idf."""
        gradient = self.method.gradient
        if not queries.gradients or not isinstance(gradient, EmbeddingRows) or gradient.direction is None:
            return
        step, every = next(iter(queries.gradients.items()))
        rows = every.example(row).rows
        if rows is None:
            return
        unseen = rows.words[~np.isin(rows.ids, list(self._tokens(step)))]
        places: list[int] = np.unique(unseen[unseen >= 0]).tolist()
        named = list(dict.fromkeys(queries.words(row)[place].text for place in places))
        if named:
            more = f" and {len(named) - 5} more" if len(named) > 5 else ""
            yield f"tokens of these words are in no training text and match nothing: {', '.join(named[:5])}{more}"

    def _shares_a_token(self, queries: QueryBatch, row: int) -> bool:
        for step, gradient in queries.gradients.items():
            rows = gradient.example(row).rows
            if rows is None or not self._tokens(step).isdisjoint(rows.ids[rows.words >= 0].tolist()):
                return True
        return False

    def _tokens(self, step: CheckpointId) -> frozenset[int]:
        if step not in self._held:
            postings = [segment.postings(step) for segment in self.store.segments]
            tokens = [one.tokens for one in postings if one is not None]
            if len(tokens) < len(postings):
                tokens += [arrays["rows.ids"] for _, arrays in self.store.shards(step)]
            self._held[step] = frozenset(np.unique(np.concatenate([np.unique(some) for some in tokens])).tolist())
        return self._held[step]
