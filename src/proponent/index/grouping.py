"""Many scores become one, over queries that are asked together, layers and checkpoints: by mean, rank or vote."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from proponent.baselines import Texts
from proponent.errors import InputError
from proponent.gradients.gradient import Gradient
from proponent.index.baseline_scores import BaselineScores
from proponent.index.queries import QueryBatch
from proponent.labels import Labels
from proponent.method import Baseline, Layers, Retaken, similarity_of
from proponent.preconditioners.batches import layer_shapes
from proponent.search import RULES, How, Ranking, Search, Votes, Where, ranking_of
from proponent.types import Example
from proponent.views import QueryView
from proponent.words import Word

Axis = Literal["layers", "checkpoints"]

SHOWN = 5
"""Texts of a group that stand in its one line; all of them stand in the answer."""

BLOCK = 16
"""Queries that are scored together."""


def blocks(count: int) -> list[range]:
    """Cut queries into blocks that are scored together."""
    return [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


@dataclass(frozen=True)
class Aggregate:
    """How scores are joined (Vitel and Chhabra 2025, arXiv 2511.04715).

    Attributes:
        how: the method's own score, meant over the queries; or the mean rank; or votes against the lowest k.
        over: what votes besides the queries; along the others the method's own score is summed first. A mean is the
            same for all of them.
        k: how many of the lowest ranks vote, a share of the training set up to 1, or a number of examples above 1.
        correct: only queries whose label the model predicts at the last checkpoint count, whatever the rule.
    """

    how: How = "mean"
    over: tuple[Axis, ...] = ("layers",)
    k: float = 0.2
    correct: bool = False

    def __post_init__(self) -> None:
        if self.how not in RULES:
            raise InputError(f"unknown aggregation {self.how!r}: choose one of {', '.join(RULES)}")
        wrong = [one for one in self.over if one not in get_args(Axis)]
        if wrong:
            raise InputError(f"{wrong[0]!r} cannot vote: choose among {', '.join(get_args(Axis))}")
        if self.k <= 0:
            raise InputError(f"k is {self.k:g}: give a share of the training set up to 1, or a number of examples")

    @classmethod
    def of(cls, named: "How | Aggregate") -> "Aggregate":
        """Take a rule by its name, or as it is."""
        return named if isinstance(named, cls) else cls(named)  # type: ignore[arg-type]

    def alone(self) -> "Aggregate":
        """Refuse a choice of queries where each is asked for itself."""
        if self.correct:
            raise InputError("which queries count is a choice for a group of them (--group, explain_group)")
        return self


class QueryGroup(QueryBatch):
    """Queries that are asked as one: the mean of their gradients, and all their words.

    Args:
        asked: the queries and their gradients.
        rows: which of them count.
        linear: whether scores are linear in the gradient, so that the mean gradient gives the mean score.
    """

    def __init__(self, asked: QueryBatch, rows: Sequence[int], *, linear: bool) -> None:
        self.whole, self.rows = asked, tuple(rows)
        texts = [asked.queries[row] for row in self.rows]
        whole = Example("group", texts[0].row, _describe_texts(texts))
        labels = {asked.labels[row] for row in self.rows}
        super().__init__([whole], (), [labels.pop() if len(labels) == 1 else -1], asked.against, [-1], [])
        self.losses = [float(np.mean([asked.losses[row] for row in self.rows]))] if asked.losses else []
        self._words, self._places = _numbered([asked.words(row) for row in self.rows])
        for step, gradient in asked.gradients.items() if linear else ():
            parts = Gradient.stack([gradient.example(row) for row in self.rows])
            self.gradients[step], self.factors[step] = parts.mean(self._places), np.ones(1)

    def words(self, row: int) -> tuple[Word, ...]:  # noqa: ARG002, D102
        return self._words

    def paired(self, row: int) -> bool:  # noqa: ARG002, D102
        return any(self.whole.paired(one) for one in self.rows)

    def split(  # noqa: D102
        self,
        row: int,  # noqa: ARG002
        step: int,
        by_word: Callable[[Example, int, int], Float[np.ndarray, "w p"]],
    ) -> Float[np.ndarray, "w p"]:
        total: Float[np.ndarray, "w p"] | None = None
        for one, places in zip(self.rows, self._places, strict=True):
            made = self.whole.split(one, step, by_word) / len(self.rows)
            total = np.zeros((len(self._words) + 1, made.shape[1])) if total is None else total
            np.add.at(total, np.append(places, -1), made)
        assert total is not None
        return total

    def texts(self, row: int) -> Texts:  # noqa: ARG002, D102
        parts = [self.whole.texts(one) for one in self.rows]
        columns = (
            None if getattr(parts[0], name) is None else np.concatenate([getattr(one, name) for one in parts])
            for name in ("labels", "probabilities", "embeddings")
        )
        return Texts([text for one in parts for text in one.texts], *columns)

    def group(self, labels: Labels) -> tuple[QueryView, ...]:  # noqa: D102
        return tuple(self.whole.view(row, labels) for row in self.rows)

    def notes(self, row: int) -> list[str]:  # noqa: ARG002, D102
        cut = sum(bool(self.whole.notes(one)) for one in self.rows)
        return (
            [f"{cut} of {len(self.rows)} texts of the group were cut: the model does not read them whole"]
            if cut
            else []
        )

    def view(self, row: int, labels: Labels) -> QueryView:  # noqa: ARG002, D102
        label, against = labels.name(self.labels[0]), labels.name(self.against)
        loss = self.losses[0] if self.losses else None
        whole = QueryView(text=self.queries[0].text, label=label, predicted=None, probabilities=None, loss=loss)
        return replace(whole, against=against)


class Grouping:
    """Joins scores over an index.

    Args:
        search: over the index.
        beside: its baselines.
    """

    def __init__(self, search: Search, beside: BaselineScores) -> None:
        self._search, self._baselines = search, beside
        self._plan = search.store.plan

    @property
    def linear(self) -> bool:
        """Whether scores are linear in the query's gradient."""
        return not isinstance(self._plan.term, Baseline) and similarity_of(self._plan.term) is None

    def _check(self) -> None:
        """Refuse to join what is solved query by query."""
        if isinstance(self._plan.term, Retaken):
            raise InputError(
                f"{self._plan.method.name} solves for every query anew and compares each with candidates of its own: "
                "it has no groups, ranks or votes (ask one by one, or take ekfac or influence-last)"
            )

    def rows(self, asked: QueryBatch, rows: Sequence[int], rule: Aggregate) -> list[int]:
        """Choose the queries that count."""
        self._check()
        if not rows:
            raise InputError("no query was given: there is nothing to join")
        if not rule.correct:
            return list(rows)
        if not self._plan.labels:
            raise InputError("only a classifier's queries can be predicted correctly, and this run is a language model")
        if all(query.label is None for query in asked.queries):
            raise InputError("which queries are predicted correctly is not known: give their labels")
        found = [row for row in rows if asked.labels[row] == asked.predicted[row]]
        if not found:
            raise InputError("no query is left to aggregate over: the model predicts none of them correctly")
        return found

    def scores(self, asked: QueryBatch, rows: Sequence[int], rule: Aggregate) -> tuple[Float[np.ndarray, " n"], int]:
        """Join the scores of some queries."""
        alive = self._search.store.alive
        votes = Votes(rule.how, rule.k, int(alive.sum()))
        for scores in self._voters(asked, rows, rule):
            votes.add(scores[:, alive])
        joined = np.full(len(alive), np.nan)
        joined[alive] = votes.result()
        return joined, votes.voters

    def ranking(
        self, asked: QueryBatch, rows: Sequence[int], rule: Aggregate, k: int, where: Where
    ) -> tuple[Ranking, list[str]]:
        """Rank the training examples by joined scores."""
        self._check()
        scores, voters = self.scores(asked, rows, rule)
        allowed = np.concatenate([where.allowed(one) for one in self._search.store.segments])
        n = int(self._search.store.alive.sum())
        middle = (n - 1) / 2.0 if rule.how == "rank" else 0.0
        notes = self._notes(rule, voters, len(rows), n, middle)
        return ranking_of(np.where(allowed, scores - middle, np.nan), k), notes

    def _voters(self, asked: QueryBatch, rows: Sequence[int], rule: Aggregate) -> Iterator[Float[np.ndarray, "v n"]]:
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            method = self._plan.term
            if isinstance(method, Baseline):
                yield np.stack([self._baselines.scores(method.which, asked.texts(row)) for row in some])
                continue
            queries = {
                step: Gradient.stack([one.example(row) for row in some]) for step, one in asked.gradients.items()
            }
            if rule.how == "mean" or not self._split(rule):
                yield self._search.scores(queries, len(some))
            else:
                yield from self._parts(queries, len(some), rule)

    def _split(self, rule: Aggregate) -> bool:
        several = {
            "layers": isinstance(getattr(self._plan.term, "gradient", None), Layers),
            "checkpoints": len(self._plan.checkpoints) > 1,
        }
        return any(several[axis] for axis in rule.over)

    def _parts(self, queries: dict[int, Gradient], count: int, rule: Aggregate) -> Iterator[Float[np.ndarray, "v n"]]:
        cuts = [one.cut for one in layer_shapes(self._plan.blocks)]
        every = [self._search.parts(step, one, count, cuts) for step, one in queries.items()]
        if set(rule.over) == {"layers", "checkpoints"}:
            for parts in every:
                yield from parts
        elif "layers" in rule.over:
            for same in zip(*every, strict=True):
                yield np.sum(same, axis=0)
        else:
            for parts in every:
                yield np.sum(list(parts), axis=0)

    def _notes(self, rule: Aggregate, voters: int, queries: int, n: int, middle: float) -> list[str]:
        who = f"{voters:,} voters ({queries:,} {'query' if queries == 1 else 'queries'}"
        who += f", each by {voters // queries:,} {' and '.join(rule.over)})" if voters > queries else ")"
        if rule.how == "rank":
            return [
                f"rank: over {who}, the mean number of training examples with a smaller score, less the middle "
                f"({middle:g}): above 0 is the upper half; a rank has no words"
            ]
        if rule.how == "vote":
            first = rule.k * n if rule.k <= 1 else rule.k
            return [
                f"vote: over {who}, minus the places among the lowest {first:g} of {n:,} training examples: a vote "
                "names what hurt and never what helped, and has no words"
            ]
        return [] if self.linear else [f"{self._plan.method.name}: the mean over {queries:,} queries has no words"]


def _describe_texts(texts: Sequence[Example]) -> str:
    lines = [" / ".join(one.parts) if one.label is None else f"{one.label}: {' / '.join(one.parts)}" for one in texts]
    more = [f"... and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
    return "\n".join([f"{len(lines):,} queries, asked as one:", *lines[:SHOWN], *more])


def _numbered(lists: Sequence[tuple[Word, ...]]) -> tuple[tuple[Word, ...], list[np.ndarray]]:
    """Distinct words of several texts, without places, and the number of each text's words among them."""
    found: dict[str, int] = {}
    places = [
        np.asarray([found.setdefault(word.text, len(found)) for word in words], dtype=np.int64) for words in lists
    ]
    return tuple(Word(text, ((), ())) for text in found), places
