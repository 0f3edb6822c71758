"""Compare queries with the contents of an index: exact scores, rankings and word terms, without a model."""

from proponent.search.aggregation import RULES, How, Votes, aggregate
from proponent.search.engine import Search
from proponent.search.filters import ANY, Where
from proponent.search.kernels import KernelName
from proponent.search.ranking import Counter
from proponent.search.synonyms import assign

__all__ = [
    "ANY",
    "RULES",
    "Counter",
    "How",
    "KernelName",
    "Search",
    "Votes",
    "Where",
    "aggregate",
    "assign",
]
