"""Mean, rank and vote against a plain loop, ties included."""

import numpy as np
import pytest

from proponent.errors import InputError
from proponent.search.aggregation import aggregate


def looped(scores: np.ndarray, how: str, k: float, queries: np.ndarray) -> np.ndarray:
    total = np.zeros(scores.shape[2])
    for layer in scores:
        for query in np.flatnonzero(queries):
            row = layer[query].tolist()
            for place, one in enumerate(row):
                rank = sum(other < one for other in row) + sum(other == one for other in row[:place])
                total[place] += {"rank": rank, "vote": -max(k - rank, 0), "mean": one}[how]
    return total if how == "vote" else total / (len(scores) * queries.sum())


@pytest.mark.parametrize("how", ["mean", "rank", "vote"])
@pytest.mark.parametrize("correct", [True, False])
def test_aggregations_are_those_of_a_loop(how: str, correct: bool):
    scores = np.random.default_rng(0).integers(-3, 4, (6, 10, 50)).astype(float)
    queries = np.random.default_rng(1).random(10) < 0.6 if correct else np.ones(10, dtype=bool)
    found = aggregate(scores, how, k=10.0, queries=queries if correct else None)
    assert found == pytest.approx(looped(scores, how, 10.0, queries))
    assert aggregate(scores, how, k=0.2, queries=queries) == pytest.approx(found), "a share of the fifty is ten"


def test_a_vote_of_everybody_is_the_rank():
    scores = np.random.default_rng(2).standard_normal((3, 4, 30))
    votes, ranks = aggregate(scores, "vote", k=30.0), aggregate(scores, "rank")
    slope, shift = np.polyfit(ranks, votes, 1)
    assert votes == pytest.approx(slope * ranks + shift)
    assert slope > 0, "low stays suspicious"


def test_nothing_to_aggregate_is_refused():
    with pytest.raises(InputError, match="no queries are left"):
        aggregate(np.zeros((1, 2, 3)), queries=np.zeros(2, dtype=bool))
    with pytest.raises(InputError, match="k is 0"):
        aggregate(np.zeros((1, 2, 3)), "vote", k=0.0)
