"""Methods with their own loop over the training: module `dynamics/<which>.py`, function `scores`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from inspect import signature

import numpy as np
from jaxtyping import Float

from proponent.data import Examples
from proponent.errors import InputError
from proponent.index.queries import QueryBatch
from proponent.method import Loop
from proponent.scorer import Scorer
from proponent.types import Example
from proponent.views.explanation import CAVEAT
from proponent.words import words_of


@dataclass(frozen=True)
class Query:
    """An output to explain."""

    example: Example
    label: int = -1  # class index; -1 for a language model


def _no_words(query: int, row: int) -> dict[int, float]:  # noqa: ARG001
    return {}


@dataclass(frozen=True)
class LoopScores:
    """Scores that a loop computes for some queries."""

    scores: Float[np.ndarray, "q n"]  # positive helped
    used: str  # how the checkpoints were used, in a few words
    summary: str = ""  # how far the scores can be trusted, in one line
    notes: tuple[str, ...] = ()
    caveat: str = CAVEAT
    words: Callable[[int, int], Mapping[int, float]] = _no_words  # of a query and a row; -1 stands for special tokens


class LoopScorer(Scorer[QueryBatch]):
    """Wraps the scores of a loop as a scorer."""

    terms_sum = False

    def __init__(self, found: LoopScores, examples: Examples) -> None:
        self.found, self.examples = found, examples

    def scores(self, queries: QueryBatch, rows: Sequence[int]) -> Float[np.ndarray, "q n"]:  # noqa: ARG002
        """Scores of some queries."""
        return self.found.scores[list(rows)]

    def terms(self, queries: QueryBatch, row: int, place: int) -> list[Float[np.ndarray, "w x"]]:  # noqa: ARG002
        """The share of each word of the example; words of the query have no share."""
        terms = np.zeros((len(words_of(self.examples[place])) + 1, 1))
        for number, share in self.found.words(row, place).items():
            terms[number] = share
        return [terms]

    def notes(self, queries: QueryBatch, row: int, *, found: bool) -> list[str]:  # noqa: ARG002
        """How far the scores can be trusted."""
        return [*filter(None, [self.found.summary]), *self.found.notes]


def score_function(method: Loop) -> Callable[..., LoopScores]:
    """Look up the function of a loop, which takes run, examples and queries; refuse unknown settings."""
    name = method.which.replace("-", "_")
    where = f"proponent.dynamics.{name}"
    found = getattr(import_module(where), "scores", None) if name.isidentifier() and find_spec(where) else None
    if found is None:
        raise InputError(
            f"{method.name}: loop {method.which!r} is not available: no module {where} with a function scores"
        )
    settings = set(signature(found).parameters) - {"run", "examples", "queries", "max_length", "quiet"}
    unknown = sorted(set(method.settings) - settings)
    if unknown:
        raise InputError(f"{method.name} has no setting {unknown[0]!r}; it has {', '.join(sorted(settings)) or 'none'}")
    return found
