"""FastIF: influence functions over chosen layers with an inverse-Hessian product per query, on the nearest candidates.

Guo, Rajani, Hase, Bansal and Xiong 2021 (arXiv 2012.15781), written from the formulas. The index keeps features alone.
s = (H + ridge)^-1 g(z') is solved when a query is asked, at every checkpoint of the index, and the score of a training
example is the sum of < g(z), s > over them, taken again from its text: above 0 it helped.
"""

import numpy as np
from jaxtyping import Float

from proponent.index.fastif_candidates import Nearest
from proponent.index.fastif_solver import Solver, TrainingTexts
from proponent.index.loading import LoadedRun
from proponent.index.queries import QueryBatch
from proponent.method import Retaken
from proponent.search import Ranking, Where, ranking_of
from proponent.store import Store
from proponent.types import Example, step_name


class FastIF:
    """Scores, candidates and words of an index whose method solves per query.

    Args:
        store: the index.
        loaded: its run.
    """

    def __init__(self, store: Store, loaded: LoadedRun) -> None:
        assert isinstance(store.plan.term, Retaken)
        self.store, self.nearest, texts = store, Nearest(store, store.plan.term), TrainingTexts(store, loaded)
        self.solvers = {one.step: Solver(store, loaded, one.step, texts) for one in store.plan.checkpoints}

    def scores(self, asked: QueryBatch, rows: range) -> Float[np.ndarray, "q n"]:
        """Score every training example, candidates or not."""
        total = np.full((len(rows), self.store.n), np.nan)
        places = np.flatnonzero(self.store.alive)
        total[:, places] = sum(one.products(one.solution(asked, rows).s, places) for one in self.solvers.values())
        return total

    def top(self, asked: QueryBatch, rows: range, k: int, where: Where) -> list[Ranking]:
        """Rank the candidates of some queries."""
        allowed = np.concatenate([where.allowed(one) for one in self.store.segments])
        candidates = [self.nearest(asked, row, allowed) for row in rows]
        scores = np.full((len(rows), self.store.n), np.nan)
        for places, own in zip(candidates, scores, strict=True):
            own[places] = 0.0
        for one in self.solvers.values():
            s = one.solution(asked, rows).s
            for at, places in enumerate(candidates):
                scores[at, places] += one.products(s[at : at + 1], places)[0]
        return [ranking_of(own, k) for own in scores]

    def notes(self, asked: QueryBatch, row: int) -> list[str]:
        """Say how one query was solved, and which examples were compared."""
        whole = "the query has no words here: shares are by the words of the training example"
        solved = [line for one in self.solvers.values() for line in self._solved(one, asked, row)]
        return [*solved, self.nearest.description(), whole]

    def _solved(self, solver: Solver, asked: QueryBatch, row: int) -> list[str]:
        told = solver.solution(asked, range(row, row + 1)).description
        return [line if len(self.solvers) == 1 else f"{step_name(solver.step)}: {line}" for line in told]

    def terms(
        self, asked: QueryBatch, row: int, step: int, example: Example, label: int, widths: tuple[int, int]
    ) -> Float[np.ndarray, "w x"]:
        """Split the score of an example at one checkpoint by its words; the query is one."""
        return self.solvers[step].terms(asked, row, example, label, widths)
