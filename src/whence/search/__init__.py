"""Compare queries with what an index keeps: exact scores, rankings and word terms, without a model."""

from whence.search.aggregation import RULES, How, Votes, aggregate
from whence.search.engine import Search
from whence.search.kernels import KernelName
from whence.search.ranking import Counter, Ranking, ranking_of
from whence.search.synonyms import assign
from whence.search.where import ANY, Where

__all__ = [
    "ANY",
    "RULES",
    "Counter",
    "How",
    "KernelName",
    "Ranking",
    "Search",
    "Votes",
    "Where",
    "aggregate",
    "assign",
    "ranking_of",
]
