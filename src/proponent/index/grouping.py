"""Aggregate scores over queries explained together, layers and checkpoints: by mean, rank or vote."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from proponent.baselines import Texts
from proponent.errors import InputError
from proponent.gradients.computer import GradientComputer
from proponent.index.queries import QueryBatch
from proponent.labels import Labels
from proponent.scorer import Scorer, TopKBothEnds
from proponent.search import RULES, How, Votes, Where
from proponent.store import Store
from proponent.types import CheckpointId, Example
from proponent.views import QueryView
from proponent.words import Word

Axis = Literal["layers", "checkpoints"]

SHOWN = 5
"""Maximum number of a group's texts in its one-line description; the answer contains all of them."""

BLOCK = 16
"""Number of queries that are scored together."""


def blocks(count: int) -> list[range]:
    """Split queries into blocks that are scored together."""
    return [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


@dataclass(frozen=True)
class Aggregate:
    """How scores are aggregated (Vitel and Chhabra 2025, arXiv 2511.04715)."""

    how: How = "mean"  # mean of the method's own score over the queries; mean rank; or votes against the lowest k
    # what votes in addition to the queries; along the other axes the method's own score is summed first. A mean is the
    # same for all choices
    over: tuple[Axis, ...] = ("layers",)
    # how many of the lowest ranks vote: a share of the training set up to 1, or a number of examples above 1
    k: float = 0.2
    correct: bool = False  # under every rule, use only queries predicted correctly at the last checkpoint

    def __post_init__(self) -> None:
        if self.how not in RULES:
            raise InputError(f"unknown aggregation {self.how!r}: choose one of {', '.join(RULES)}")
        wrong = [one for one in self.over if one not in get_args(Axis)]
        if wrong:
            raise InputError(f"{wrong[0]!r} cannot vote: choose from {', '.join(get_args(Axis))}")
        if self.k <= 0:
            raise InputError(f"k is {self.k:g}: give a share of the training set up to 1, or a number of examples")

    @classmethod
    def of(cls, named: "How | Aggregate") -> "Aggregate":
        """Return the rule with a given name, or the given rule."""
        return named if isinstance(named, cls) else cls(named)  # type: ignore[arg-type]

    def alone(self) -> "Aggregate":
        """Refuse a choice of queries if each query is explained separately."""
        if self.correct:
            raise InputError("the choice of queries that count needs a group of queries (--group, explain_group)")
        return self


class QueryGroup(QueryBatch):
    """Queries that are explained together: the mean of their gradients, and all their words."""

    def __init__(
        self, batch: QueryBatch, rows: Sequence[int], *, linear: bool, signs: Sequence[float] | None = None
    ) -> None:
        self.whole, self.rows, self.contrasts = batch, tuple(rows), signs is not None
        texts = [batch.queries[row] for row in self.rows]
        whole = Example("group", texts[0].row, _describe_texts(texts))
        labels = {batch.labels[row] for row in self.rows}
        super().__init__([whole], (), [labels.pop() if len(labels) == 1 else -1], batch.against, [-1], [])
        self.losses = [float(np.mean([batch.losses[row] for row in self.rows]))] if batch.losses else []
        self._words[0], self._places = _numbered([batch.words(row) for row in self.rows])
        # a mean, or with signs a signed sum
        self._signs = np.ones(len(rows)) if signs is None else len(rows) * np.asarray(signs)
        for step, gradient in batch.select(self.rows).items() if linear else ():
            gradient = gradient if signs is None else gradient.times(self._signs)
            self.gradients[step], self.factors[step] = gradient.mean(self._places), np.ones(1)

    def paired(self, row: int) -> bool:  # noqa: ARG002, D102
        return any(self.whole.paired(one) for one in self.rows)

    def split(self, row: int, step: CheckpointId, computer: GradientComputer) -> Float[np.ndarray, "w p"]:  # noqa: ARG002, D102
        total: Float[np.ndarray, "w p"] | None = None
        for one, places, sign in zip(self.rows, self._places, self._signs.tolist(), strict=True):
            made = self.whole.split(one, step, computer) * (sign / len(self.rows))
            total = np.zeros((len(self._words[0]) + 1, made.shape[1])) if total is None else total
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

    def answer(self, row: int) -> tuple[str, ...]:  # noqa: ARG002
        """The answer that is compared with another one; a group has none."""
        return self.whole.answer(self.rows[0]) if self.contrasts else ()

    def group(self, labels: Labels) -> tuple[QueryView, ...]:  # noqa: D102
        return tuple(self.whole.view(row, labels) for row in self.rows)

    def notes(self, row: int) -> list[str]:  # noqa: ARG002, D102
        cut = sum(self.whole.encoded[one].truncated for one in self.rows)
        return (
            [f"{cut} of {len(self.rows)} texts of the group were truncated: the model does not read them completely"]
            if cut
            else []
        )

    def view(self, row: int, labels: Labels) -> QueryView:  # noqa: ARG002, D102
        return QueryView(
            text=self.queries[0].text,
            label=labels.name(self.labels[0]),
            against=labels.name(self.against),
            predicted=None,
            probabilities=None,
            loss=self.losses[0] if self.losses else None,
        )


class Grouping:
    """Aggregates scores over an index."""

    def __init__(self, store: Store, scorer: Scorer[QueryBatch]) -> None:
        self.store, self._scorer = store, scorer

    def compared(self, batch: QueryBatch) -> QueryGroup:
        """Return the difference of two answers to one question."""
        if not self._scorer.compares_answers:
            raise InputError(f"{self.store.plan.method.name} does not compare two answers: ask without against_target")
        return QueryGroup(batch, [0, 1], linear=True, signs=(1.0, -1.0))

    def _check(self) -> None:
        """Refuse to aggregate scores that are solved query by query."""
        if not self._scorer.joins:
            raise InputError(
                f"{self.store.plan.method.name} solves for each query separately and compares it with its own "
                "candidates: it does not support groups, ranks or votes (explain the queries one by one, or use "
                "ekfac or influence-last)"
            )

    def rows(self, batch: QueryBatch, rows: Sequence[int], rule: Aggregate) -> list[int]:
        """Select the queries that count."""
        self._check()
        if not rows:
            raise InputError("no query was given: give at least one")
        if not rule.correct:
            return list(rows)
        if not self.store.plan.labels:
            raise InputError("only a classifier predicts queries correctly or not, and this run is a language model")
        if all(query.label is None for query in batch.queries):
            raise InputError("correct predictions are unknown without labels: give the labels of the queries")
        found = [row for row in rows if batch.labels[row] == batch.predicted[row]]
        if not found:
            raise InputError("no queries are left to aggregate: the model predicts none of them correctly")
        return found

    def scores(self, batch: QueryBatch, rows: Sequence[int], rule: Aggregate) -> tuple[Float[np.ndarray, " n"], int]:
        """Aggregate the scores of some queries."""
        alive = self.store.alive
        votes = Votes(rule.how, rule.k, int(alive.sum()))
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            for scores in self._scorer.voters(batch, some, () if rule.how == "mean" else rule.over):
                votes.add(scores[:, alive])
        joined = np.full(len(alive), np.nan)
        joined[alive] = votes.result()
        return joined, votes.voters

    def ranking(
        self, batch: QueryBatch, rows: Sequence[int], rule: Aggregate, k: int, where: Where
    ) -> tuple[TopKBothEnds, list[str]]:
        """Rank the training examples by aggregated scores."""
        self._check()
        scores, voters = self.scores(batch, rows, rule)
        allowed = where.mask(self.store)
        n = int(self.store.alive.sum())
        middle = (n - 1) / 2.0 if rule.how == "rank" else 0.0
        notes = self._notes(rule, voters, len(rows), n, middle)
        return TopKBothEnds.of(np.where(allowed, scores - middle, np.nan), k), notes

    def _notes(self, rule: Aggregate, voters: int, queries: int, n: int, middle: float) -> list[str]:
        who = f"{voters:,} voters ({queries:,} {'query' if queries == 1 else 'queries'}"
        who += f", each by {voters // queries:,} {' and '.join(rule.over)})" if voters > queries else ")"
        if rule.how == "rank":
            return [
                f"rank: mean over {who} of the number of training examples with a smaller score, minus the middle "
                f"({middle:g}): above 0 is the upper half; ranks are not split by word"
            ]
        if rule.how == "vote":
            first = rule.k * n if rule.k <= 1 else rule.k
            return [
                f"vote: {who} give negative points to their lowest {first:g} of {n:,} training examples: votes find "
                "only examples that hurt, never examples that helped, and are not split by word"
            ]
        name = self.store.plan.method.name
        return [] if self._scorer.linear else [f"{name}: the mean over {queries:,} queries is not split by word"]


def _describe_texts(texts: Sequence[Example]) -> str:
    lines = [" / ".join(one.parts) if one.label is None else f"{one.label}: {' / '.join(one.parts)}" for one in texts]
    more = [f"... and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
    return "\n".join([f"{len(lines):,} queries, explained as one group:", *lines[:SHOWN], *more])


def _numbered(lists: Sequence[tuple[Word, ...]]) -> tuple[tuple[Word, ...], list[np.ndarray]]:
    """Distinct words of several texts, without positions, and the numbers of each text's words among them."""
    found: dict[str, int] = {}
    places = [
        np.asarray([found.setdefault(word.text, len(found)) for word in words], dtype=np.int64) for words in lists
    ]
    return tuple(Word(text, ((), ())) for text in found), places
