"""Scorers of training examples against queries: the search of an index, FastIF, baselines, training loops."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.errors import InputError

NOTHING_FOUND = "every score is zero: nothing to show"

Queries = TypeVar("Queries", contravariant=True)


@dataclass(frozen=True)
class TopKBothEnds:
    """Both ends of one query's ranking."""

    proponents: Int[np.ndarray, " k"]  # examples (in data order) with the largest positive scores, best first
    proponent_scores: Float[np.ndarray, " k"]  # their scores
    opponents: Int[np.ndarray, " m"]  # examples with the most negative scores, most negative first
    opponent_scores: Float[np.ndarray, " m"]  # their scores

    @classmethod
    def of(cls, scores: Float[np.ndarray, " n"], k: int) -> "TopKBothEnds":
        """Rank exact scores; ties are in data order, zero and NaN are not ranked."""
        places = np.flatnonzero(np.isfinite(scores) & (scores != 0))
        order = places[np.argsort(-scores[places], kind="stable")]
        up = order[scores[order] > 0][:k]
        order = places[np.argsort(scores[places], kind="stable")]
        down = order[scores[order] < 0][:k]
        return cls(up, scores[up].astype(np.float64), down, scores[down].astype(np.float64))


@runtime_checkable
class Filter(Protocol):
    """The training examples that may appear in a ranking."""

    def allowed(self, segment: Any, /) -> Bool[np.ndarray, " n"]:
        """The allowed examples of one segment of an index."""
        ...

    def mask(self, store: Any, /) -> Bool[np.ndarray, " n"]:
        """The allowed examples of a whole index."""
        ...


@runtime_checkable
class Scorer(Protocol[Queries]):
    """Scores of training examples for queries; `rows` are the queries that are scored together."""

    linear: bool = False  # scoring the mean gradient of queries gives their mean score, with words
    joins: bool = True  # scores of several queries may be joined: groups, ranks, votes
    terms_sum: bool = True  # the terms of an example sum to its score
    contrasts: bool = True  # a query may name a second class to compare with

    @property
    def compares_answers(self) -> bool:
        """Whether two answers to one question can be compared."""
        return self.linear

    def words_are(self, queries: Queries) -> str | None:  # noqa: ARG002
        """What the words of an answer to these queries are; None without words."""
        return None

    def take_words(self, by: str) -> None:
        """Choose the definition of the words of answers."""
        raise InputError(f"words={by}: this method has only one kind of words, or none: leave it out")

    def scores(self, queries: Queries, rows: Sequence[int]) -> Float[np.ndarray, "q n"]:
        """Score every training example; positive helped, NaN has no score."""
        ...

    def top(
        self,
        queries: Queries,
        rows: Sequence[int],
        k: int,
        where: Filter | None = None,  # noqa: ARG002
    ) -> list[TopKBothEnds]:
        """Return both ends of the ranking for each query."""
        return [TopKBothEnds.of(scores, k) for scores in self.scores(queries, rows)]

    def top_with_scores(
        self, queries: Queries, rows: Sequence[int], k: int, where: Filter | None = None
    ) -> tuple[list[TopKBothEnds], Float[np.ndarray, "q n"] | None]:
        """Return both ends of the rankings, and all scores; None where these would cost much more."""
        return self.top(queries, rows, k, where), self.scores(queries, rows)

    def terms(self, queries: Queries, row: int, place: int) -> list[Float[np.ndarray, "w x"]]:  # noqa: ARG002
        """Split an example's score by its words and the query's, one matrix per checkpoint; empty without words."""
        return []

    def notes(self, queries: Queries, row: int, *, found: bool) -> list[str]:  # noqa: ARG002
        """Notes that a reader needs to interpret one query's scores."""
        return [] if found else [NOTHING_FOUND]

    def voters(
        self,
        queries: Queries,
        rows: Sequence[int],
        over: Sequence[str],  # noqa: ARG002
    ) -> Iterator[Float[np.ndarray, "v n"]]:
        """Scores that are ranked separately: of each query, and of each layer or checkpoint that `over` names."""
        yield self.scores(queries, rows)
