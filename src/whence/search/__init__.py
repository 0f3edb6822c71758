"""Compare queries with what an index keeps: exact scores, rankings and word terms, without a model."""

from whence.search.engine import Search
from whence.search.kernels import KernelName
from whence.search.ranking import Counter, Ranking, ranking_of
from whence.search.synonyms import assign
from whence.search.where import ANY, Where

__all__ = ["ANY", "Counter", "KernelName", "Ranking", "Search", "Where", "assign", "ranking_of"]
