"""FastIF: influence functions over chosen layers with an inverse-Hessian product per query, on the nearest candidates.

Guo, Rajani, Hase, Bansal and Xiong 2021 (arXiv 2012.15781), written from the formulas. The index stores features only.
s = (H + ridge)^-1 g(z') is solved when a query is given, at every checkpoint of the index. The score of a training
example is the sum of < g(z), s > over the checkpoints, with g(z) recomputed from its text: above 0 it helped.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from proponent.index.fastif_candidates import Nearest
from proponent.index.fastif_solver import Solver, TrainingTexts
from proponent.index.hit_words import DEFINITIONS
from proponent.index.loading import LoadedRun
from proponent.index.queries import QueryBatch
from proponent.method import Retaken
from proponent.scorer import Filter, Scorer, TopKBothEnds
from proponent.search import ANY
from proponent.store import Store
from proponent.words import words_of


class FastIF(Scorer[QueryBatch]):
    """Scores, candidates and words of an index whose method solves per query."""

    joins = False

    def __init__(self, store: Store, loaded: LoadedRun) -> None:
        assert isinstance(store.plan.term, Retaken)
        self.store, self.nearest, texts = store, Nearest(store, store.plan.term), TrainingTexts(store, loaded)
        self.solvers = {one.id: Solver(store, loaded, one.id, texts) for one in store.plan.checkpoints}

    def scores(self, queries: QueryBatch, rows: Sequence[int]) -> Float[np.ndarray, "q n"]:
        """Score every training example, candidates or not."""
        total = np.full((len(rows), self.store.n), np.nan)
        places = np.flatnonzero(self.store.alive)
        total[:, places] = sum(
            self.store.scale(at)[places] * one.products(one.solution(queries, rows).s, places)
            for at, one in self.solvers.items()
        )
        return total

    def top(self, queries: QueryBatch, rows: Sequence[int], k: int, where: Filter | None = None) -> list[TopKBothEnds]:
        """Rank the candidates of some queries."""
        allowed = (where or ANY).mask(self.store)
        candidates = [self.nearest(queries, row, allowed) for row in rows]
        scores = np.full((len(rows), self.store.n), np.nan)
        for places, own in zip(candidates, scores, strict=True):
            own[places] = 0.0
        for step, one in self.solvers.items():
            s, scale = one.solution(queries, rows).s, self.store.scale(step)
            for at, places in enumerate(candidates):
                scores[at, places] += scale[places] * one.products(s[at : at + 1], places)[0]
        return [TopKBothEnds.of(own, k) for own in scores]

    def top_with_scores(
        self, queries: QueryBatch, rows: Sequence[int], k: int, where: Filter | None = None
    ) -> tuple[list[TopKBothEnds], Float[np.ndarray, "q n"] | None]:
        """Rank the candidates; the gradients of all other examples are not computed for a few numbers of a plot."""
        return self.top(queries, rows, k, where), None

    def notes(self, queries: QueryBatch, row: int, *, found: bool) -> list[str]:
        """Describe how one query was solved, and which examples were compared."""
        whole = "shares are split by the words of the training example only, not by query words"
        solved = [line for one in self.solvers.values() for line in self._solved(one, queries, row)]
        return [*solved, self.nearest.description(), whole, *super().notes(queries, row, found=found)]

    def _solved(self, solver: Solver, batch: QueryBatch, row: int) -> list[str]:
        lines = solver.solution(batch, [row]).description
        return [line if len(self.solvers) == 1 else f"{solver.step}: {line}" for line in lines]

    def words_are(self, queries: QueryBatch) -> str:  # noqa: ARG002
        """What the words of an answer are."""
        return DEFINITIONS["terms"]

    def terms(self, queries: QueryBatch, row: int, place: int) -> list[Float[np.ndarray, "w x"]]:
        """Split the score of an example at each checkpoint by its words; the query counts as a single word."""
        example = self.store.example(place)
        widths = len(words_of(example)), len(queries.words(row))
        label = self.store.plan.labels.stored(example.label)
        weights = {at: float(self.store.scale(at)[place]) for at in self.solvers}
        return [weights[at] * one.terms(queries, row, example, label, widths) for at, one in self.solvers.items()]
