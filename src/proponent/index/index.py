"""Index: explain outputs, and compute scores and rankings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float

from proponent import words as splitter
from proponent.errors import InputError, MismatchError
from proponent.index.asking import as_asked, asked_query, other_answer, question_of, refuse_unanswered
from proponent.index.baseline_scores import BaselineScores
from proponent.index.error_hits import report_errors
from proponent.index.explanation_builder import ExplanationBuilder, ranked
from proponent.index.grouping import Aggregate, Grouping, QueryGroup, blocks
from proponent.index.loading import LoadedRun
from proponent.index.predicting import Predicting
from proponent.index.queries import QueryBatch, check_against, check_queries
from proponent.index.query_input import AnyAnswer, AnyLabel, Labels, Queries, Query, queries_of
from proponent.index.scorers import scorer_of
from proponent.models import Run
from proponent.models.device_map import GivenMap, GivenMemory, placed
from proponent.preconditioners.query_preconditioner import QueryPreconditioner, gradients_of
from proponent.scorer import TopKBothEnds
from proponent.search import ANY, How, KernelName, Where
from proponent.store import Store, local
from proponent.types import Example
from proponent.views import ErrorReport, Explanation


class Index(Predicting):
    """A finished index: open it and explain outputs with it.

    Args:
        path: the index.
        run: folder of the run, when it has moved since the index was built; several for joined runs.
        base: folder of an adapter's base model, when it has moved.
        trust_remote_code: allow custom code shipped with the run's model (an index never allows it by itself).
        partial: open an unfinished index too, with its finished part; every explanation says so.
        allow_missing: continue although shards are missing; every explanation says so.
        kernel: implementation of the inner loop of a search: "numpy" (the default) or "numba".
        device, dtype, device_map, max_memory: of the model of a new text, see `Run.from_pretrained`; dtype None is that
            of the index.
        words: what an answer's words are: terms, embedding or masked (docs/words.md); None for the default.

    Raises:
        InputError: there is no finished index, or its method does not have such words.
        DamagedError: its files differ from what was written.
    """

    def __init__(
        self,
        path: str | Path,
        run: str | Path | Sequence[str | Path] | None = None,
        *,
        base: str | Path | None = None,
        trust_remote_code: bool = False,
        partial: bool = False,
        allow_missing: bool = False,
        kernel: KernelName | None = None,
        device: str = "auto",
        dtype: str | None = None,
        device_map: GivenMap | None = None,
        max_memory: GivenMemory | None = None,
        words: str | None = None,
    ) -> None:
        if not isinstance(cast("object", path), str | Path):
            raise InputError(f"path is {path!r}: give the folder of an index")
        self.store = Store(local(path), partial=partial, allow_missing=allow_missing)
        plan, baselines = self.store.plan, BaselineScores(self.store)
        placement = placed(device, dtype or plan.fingerprints.get("dtype", "float32"), device_map, max_memory)
        self.say: Callable[[str], None] = lambda _: None  # gets short status messages
        self._loaded = LoadedRun(self.store, run, trust_remote_code, base, lambda line: self.say(line), placement)
        stored = gradients_of(self.store)
        self._preconditioner = QueryPreconditioner(plan.term, plan.blocks, self.store.table, stored, tied=plan.tied)
        self._scorer = scorer_of(self._loaded, baselines, self._preconditioner, kernel)
        if words is not None:
            self._scorer.take_words(words)
        self._answers = ExplanationBuilder(self.store, self._scorer, baselines, lambda: self._loaded.encoder)
        self._grouping = Grouping(self.store, self._scorer)
        self._last: tuple[str, QueryBatch] | None = None
        if plan.word_rules != splitter.RULES:
            raise MismatchError(
                f"{path} was built with word rules {plan.word_rules}, this Python has {splitter.RULES} (another "
                "Unicode version): use the Python version that built it, or build it again"
            )

    @property
    def run(self) -> Run:
        """The training run, checked against the fingerprints in the index.

        Raises:
            InputError: the model needs its own code, and the user has not allowed that.
            RunError: the run no longer exists.
            MismatchError: weights or tokenizer changed.
        """
        return self._loaded.run

    def explain(
        self,
        text: Query | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
        label: AnyAnswer | None = None,
        against: AnyLabel | None = None,
        text_pair: str | None = None,
        target: str | None = None,
        span: str | tuple[int, int] | None = None,
        generate: bool = False,
        against_target: str | None = None,
        k: int = 10,
        baselines: bool = True,
        where: Where | Mapping[str, Any] = ANY,
        aggregate: How | Aggregate = "mean",
    ) -> Explanation:
        """Explain an output by training examples.

        Args:
            text: the text, the first text of a pair, or the prompt of a language model; or a dict or `Example`. If the
                index holds conversations, a text with a target (or to be answered) is asked as a user asks it.
            messages: a conversation in place of a text, whose last turn is the answer to explain, unless there is a
                target; or a pair of answers (a dict with prompt, chosen, rejected).
            label: the class to explain; None explains the predicted one.
            against: a second class; the explanation then says why `label` rather than this class.
            text_pair: the second text of a pair.
            target: the part to explain, after the prompt (language model); None explains the whole text.
            span: a piece of the target, as text or as character offsets: only its tokens count.
            generate: let the model write the target.
            against_target: another answer; the explanation then says why `target` rather than this one.
            k: number of hits on each side.
            baselines: also rank by BM25, TF-IDF x label, embedding, label and chance.
            where: which training examples can be hits: a `Where`, or a dict such as {"source": "wiki"}.
            aggregate: how layers (or checkpoints) are aggregated: mean, which is the method's own sum; rank; or vote.

        Returns:
            The explanation.

        Raises:
            InputError: the text is empty, or an option does not fit the run.
            LabelError: the run does not have a label.
            MismatchError: the run is not the one that the index was built from.
        """
        (query,) = queries_of([question_of(text, messages)], [label], [text_pair], [target])
        query, notes = asked_query(query, self._loaded, span, generate=generate)
        how: dict[str, Any] = {"k": k, "baselines": baselines, "where": where}
        if against_target is not None:
            return self._contrast(query, against_target, notes, **how)
        return next(self.explain_many([query], against=against, aggregate=aggregate, **how)).noted(notes)

    def explain_many(
        self,
        queries: Queries,
        *,
        against: AnyLabel | None = None,
        k: int = 10,
        baselines: bool = True,
        where: Where | Mapping[str, Any] = ANY,
        aggregate: How | Aggregate = "mean",
    ) -> Iterator[Explanation]:
        """Explain several queries; their gradients are computed together.

        Args:
            queries: a text, a dict (text, text_pair, label, target, id), an `Example`, or a list of them.
            against: a second class for all of them.
            k: number of hits on each side.
            baselines: also rank by the baselines.
            where: which training examples can be hits: a `Where`, or a dict such as {"source": "wiki"}.
            aggregate: see `explain`.

        Returns:
            One explanation per query, in order; each is built when it is read.

        Raises:
            InputError: a text is empty, or an option does not fit the run.
        """
        queries, where = queries_of(queries), self._filter(where)
        rule, batch = Aggregate.of(aggregate).alone(), self._ask(queries, against, k)
        self.say("comparing with the training examples")
        return self._explained(batch, rule, k, where, baselines=baselines)

    def explain_group(
        self,
        queries: Queries,
        *,
        aggregate: How | Aggregate = "mean",
        against: AnyLabel | None = None,
        k: int = 10,
        baselines: bool = True,
        where: Where | Mapping[str, Any] = ANY,
    ) -> Explanation:
        """Explain several queries together: one ranking for all of them.

        Args:
            queries: a text, a dict (text, text_pair, label, target, id), an `Example`, or a list of them.
            aggregate: mean (the mean of the queries' scores, with words), rank or vote (without words).
            against: a second class for all of them.
            k: number of hits on each side.
            baselines: also rank by the baselines' mean scores.
            where: which training examples can be hits: a `Where`, or a dict such as {"source": "wiki"}.

        Returns:
            The explanation; its `group` contains the queries that count.

        Raises:
            InputError: a text is empty, no query counts, or an option does not fit the run.
        """
        queries, where = queries_of(queries), self._filter(where)
        rule, grouping, linear = Aggregate.of(aggregate), self._grouping, self._scorer.linear
        rows = grouping.rows(batch := self._ask(queries, against, k), range(len(queries)), rule)
        self.say("comparing with the training examples")
        group, with_words, counts = QueryGroup(batch, rows, linear=linear), rule.how == "mean" and linear, None
        used = f"{len(rows)} of {len(queries)} queries are used: those that the model predicts correctly"
        notes = [used] if rule.correct else []
        if with_words:
            (ranking,), counts = ranked(self._scorer, group, [0], k, where, n=self.store.n)
        else:
            ranking, more = grouping.ranking(batch, rows, rule, k, where)
            notes += more
        how: dict[str, Any] = {"baselines": baselines, "where": where, "with_words": with_words, "counts": counts}
        return self._answers.answer(group, 0, ranking, k, notes=notes, **how)

    def group_scores(
        self, queries: Queries, *, aggregate: How | Aggregate = "mean", against: AnyLabel | None = None
    ) -> Float[np.ndarray, " n"]:
        """Score every training example once for several queries together.

        Args:
            queries: see `explain_many`.
            aggregate: mean, rank (mean number of examples with a smaller score) or vote (minus the places among the
                lowest k); the lowest values are the most suspicious.
            against: a second class for all of them.

        Returns:
            One number per training example, in data order; NaN for skipped training rows.

        Raises:
            InputError: a text is empty, no query counts, or an option does not fit the run.
        """
        rule, batch = Aggregate.of(aggregate), self._ask(queries_of(queries), against)
        return self._grouping.scores(batch, self._grouping.rows(batch, range(len(batch.queries)), rule), rule)[0]

    def explain_errors(self, rows: Queries, *, k: int = 10, most: int = 500) -> ErrorReport:
        """Explain what the wrong predictions of a test set have in common.

        Each wrong prediction is explained as `explain` does with the predicted class against the true one (with the
        predicted class alone, where the method compares no classes).

        Args:
            rows: texts with their true classes as labels, see `explain_many`; those without a class are not judged.
            k: number of proponents of each wrong prediction that count.
            most: maximum number of wrong predictions that are explained; of more, these are evenly spread.

        Returns:
            Training examples and words that recur, and sums of the scores of all training examples by column, in the
            unit of the score.

        Raises:
            InputError: the run is no classifier, or a text is empty.
        """
        return report_errors(self, queries_of(rows), k, most)

    @property
    def contrasts(self) -> bool:
        """Whether a class can be compared with a second one."""
        return self._scorer.contrasts

    def explain_with_scores(
        self, queries: Queries, against: AnyLabel | None, k: int
    ) -> Iterator[tuple[Explanation, Float[np.ndarray, " n"]]]:
        """Explain some queries without baselines; with each explanation, the scores of all training examples."""
        batch = self._ask(queries_of(queries), against, k)
        for rows in blocks(len(batch.queries)):
            ranked = zip(rows, self._scorer.top(batch, rows, k, ANY), self._scorer.scores(batch, rows), strict=True)
            for row, one, scores in ranked:
                yield self._answers.answer(batch, row, one, k, baselines=False, where=ANY), scores

    def top(
        self,
        texts: Queries,
        labels: Labels | AnyLabel | None = None,
        *,
        k: int = 10,
        text_pairs: Sequence[str | None] | str | None = None,
        targets: Sequence[str | None] | str | None = None,
        against: AnyLabel | None = None,
        where: Where | Mapping[str, Any] = ANY,
    ) -> list[TopKBothEnds]:
        """Rank both ends for some queries; no matrix of queries x examples is computed.

        Args:
            texts: the queries, see `explain_many`.
            labels: their classes by name or number; None (for all or for one) is the predicted class.
            k: number of hits on each side.
            text_pairs: second texts of pairs.
            targets: the parts to explain (language model).
            against: a second class for all of them.
            where: which training examples can be hits: a `Where`, or a dict such as {"source": "wiki"}.

        Returns:
            For each query, the examples (in data order) that helped and hurt most, with their scores.

        Raises:
            InputError: lists of different lengths, an empty text, or an option that does not fit the run.
        """
        queries, where = queries_of(texts, labels, text_pairs, targets), self._filter(where)
        batch = self._ask(queries, against, k)
        return [ranking for rows in blocks(len(queries)) for ranking in self._scorer.top(batch, rows, k, where)]

    def scores(
        self,
        texts: Queries,
        labels: Labels | AnyLabel | None = None,
        *,
        text_pairs: Sequence[str | None] | str | None = None,
        targets: Sequence[str | None] | str | None = None,
        against: AnyLabel | None = None,
    ) -> Float[np.ndarray, "q n"]:
        """Score every training example against some queries.

        Args:
            texts: the queries, see `explain_many`.
            labels: their classes by name or number; None (for all or for one) is the predicted class.
            text_pairs: second texts of pairs.
            targets: the parts to explain (language model).
            against: a second class for all of them.

        Returns:
            Scores [q n] in data order, in the unit of the method; NaN for skipped training rows.

        Raises:
            InputError: lists of different lengths, an empty text, or an option that does not fit the run.
        """
        queries = queries_of(texts, labels, text_pairs, targets)
        batch = self._ask(queries, against)
        found = [self._scorer.scores(batch, rows) for rows in blocks(len(queries))]
        return np.concatenate(found) if found else np.zeros((0, self.store.n))

    def contrast_scores(self, query: Query, against_target: str) -> Float[np.ndarray, " n"]:
        """Score every training example as `explain` with `against_target` ranks them; InputError as there."""
        (asked,) = queries_of([query])
        both = self._grouping.compared(self._ask([asked, other_answer(asked, against_target)], None))
        return self._scorer.scores(both, [0])[0]

    def _contrast(
        self, query: Example, other: str, notes: Sequence[str], *, k: int, baselines: bool, where: Where
    ) -> Explanation:
        """Explain why one answer rather than another."""
        where = self._filter(where)
        batch = self._ask([query, other_answer(query, other)], None, k)
        both = self._grouping.compared(batch)
        (ranking,), counts = ranked(self._scorer, both, [0], k, where, n=self.store.n)
        lines = [*notes, f"the score of this answer minus that of another one: {other}"]
        how: dict[str, Any] = {"baselines": baselines, "where": where, "counts": counts}
        found = self._answers.answer(both, 0, ranking, k, notes=lines, **how)
        return replace(found, query=batch.view(0, self.store.plan.labels), group=None)

    def _explained(
        self, batch: QueryBatch, rule: Aggregate, k: int, where: Where, *, baselines: bool
    ) -> Iterator[Explanation]:
        count = len(batch.queries)
        for row in range(count) if rule.how != "mean" else ():
            one, notes = self._grouping.ranking(batch, [row], rule, k, where)
            yield self._answers.answer(
                batch, row, one, k, baselines=baselines, where=where, with_words=False, notes=notes
            )
        for rows in blocks(count) if rule.how == "mean" else ():
            rankings, counts = ranked(self._scorer, batch, rows, k, where, n=self.store.n)
            for row, one in zip(rows, rankings, strict=True):
                yield self._answers.answer(batch, row, one, k, baselines=baselines, where=where, counts=counts)

    def _filter(self, where: Where | Mapping[str, Any]) -> Where:
        found = Where.of(where)
        found.check(self.store)
        return found

    def _ask(self, queries: Sequence[Example], against: AnyLabel | None, k: int = 1) -> QueryBatch:
        """Compute the gradients of some queries; those of the last single query are cached."""
        if not isinstance(cast("object", k), int | np.integer) or k < 1:
            raise InputError(f"k is {k!r}: it must be at least 1")
        queries = as_asked(queries, self.store)
        key = repr((queries, against))
        if self._last is None or self._last[0] != key:
            self._last = (key, self._take(queries, against))
        batch = self._last[1]
        self._last = self._last if len(queries) == 1 else None
        return batch

    def _take(self, queries: Sequence[Example], against: AnyLabel | None) -> QueryBatch:
        check_queries(queries)
        refuse_unanswered(queries)
        check_against(against, self.method, self.run, contrasts=self._scorer.contrasts)
        plan, loaded = self.store.plan, self._loaded
        steps, size = [one.id for one in plan.checkpoints], plan.source.batch_size
        batch = QueryBatch.of(loaded.at(steps[-1]), queries, size, against)
        for number, step in enumerate(steps, 1):
            self.say(f"gradients at {step} ({number} of {len(steps)} checkpoints)")
            batch.add_gradients(step, loaded.at(step), size, self._preconditioner)
        return batch
