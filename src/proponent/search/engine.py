"""Compare query gradients with all stored gradients of an index. Always exact; needs no model.

TracIn-WE scores are nonzero only where two texts share a token, so a query reads only the postings of its own tokens
(`join`). Gradients without postings are scanned (`scan`). The method's factors are applied to the queries, so
stored gradients stay plain. Segments are searched one by one, in several threads where that pays; memory does not grow
with their number.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from threading import Lock

import numpy as np
from jaxtyping import Float

from proponent.errors import DamagedError
from proponent.gradients.forms import Outer, Rows, Terms, gather
from proponent.gradients.gradient import Gradient
from proponent.gradients.vocabulary_head import KEPT_BYTES, LastOuter, cross_terms, head_of
from proponent.method import similarity_of
from proponent.scorer import Filter, TopKBothEnds
from proponent.search.filters import ANY
from proponent.search.join import BlockJoin, Part, by_token, match_tokens, product, rank
from proponent.search.kernels import KernelName, kernel_of
from proponent.search.ranking import BothEnds, Counter
from proponent.search.scan import lookup_rows, scan_dense, scan_outer, scan_rows
from proponent.search.synonyms import Synonyms
from proponent.search.vocabulary_heads import scan_head
from proponent.store import Segment, Store, array_name
from proponent.types import CheckpointId

SCAN_ERROR = 1e-5
"""Allowed relative error of 32-bit scan scores, before the candidates are scored again in 64 bits."""


class Search:
    """Scores, rankings and word terms of queries against one index."""

    def __init__(
        self, store: Store, *, kernel: KernelName | None = None, threads: int | None = None, prune: bool = True
    ) -> None:
        self.store = store
        method = store.plan.method
        self._scaled = store.plan.scales_train
        self._similarity, self._tied = similarity_of(method), store.plan.tied
        self.counter = Counter()
        self._kernel, self._prune = kernel_of(kernel), prune
        self._threads = threads or _threads()
        self._table = lru_cache(maxsize=None)(store.table)
        each = KEPT_BYTES // max(1, len(store.plan.checkpoints))
        self._asked = {one.id: LastOuter(each) for one in store.plan.checkpoints}
        self._lock = Lock()

    def scores(self, queries: Mapping[CheckpointId, Gradient], count: int) -> Float[np.ndarray, "q n"]:
        """Score every training example against some queries."""
        total = np.zeros((count, self.store.n))
        ready = self._ready(queries)

        def fill(segment: Segment) -> None:
            own = total[:, segment.offset : segment.offset + segment.n]
            self._add(segment, queries, ready, own)
            if not segment.alive.all():
                own[:, ~segment.alive] = np.nan

        self._over(self.store.segments, fill)
        return total

    def parts(
        self, at: CheckpointId, queries: Gradient, count: int, cuts: Sequence[slice]
    ) -> Iterator[Float[np.ndarray, "q n"]]:
        """Score layer by layer, at one checkpoint."""
        ready = self._ready({at: queries})
        weight = next(one.weight for one in self.store.plan.checkpoints if one.id == at)
        for cut in [*(cuts if queries.dense is not None else ()), *self._tables(queries)]:
            total = np.zeros((count, self.store.n))
            for segment in self.store.segments:
                if isinstance(cut, Gradient):
                    part = self._tabled(segment, at, cut, ready, count)
                else:
                    assert queries.dense is not None
                    part = scan_dense(segment, at, queries.dense.v, cut)
                scale = self.scale(at, segment)
                total[:, segment.offset : segment.offset + segment.n] = (
                    weight * part * (1.0 if scale is None else scale)
                )
            yield total

    def _tables(self, queries: Gradient) -> list[Gradient]:
        """Embedding and head, treated as one layer if they share a table."""
        rows, other = replace(queries, outer=None, head=None), replace(queries, rows=None)
        apart = [queries] if self._tied and queries.head is not None else [other, rows]
        return [one for one in apart if any(form is not None for form in (one.rows, one.outer, one.head))]

    def top(
        self,
        queries: Mapping[CheckpointId, Gradient],
        count: int,
        k: int,
        where: Filter = ANY,
        *,
        into: Float[np.ndarray, "q n"] | None = None,
    ) -> list[TopKBothEnds]:
        """Return both ends of the ranking for some queries, without a score per query and example in memory.

        With `into`, which is all zeros, every score is computed and kept there, NaN for a missing example.
        """
        ends, ready = [BothEnds(k) for _ in range(count)], self._ready(queries)

        def take(segment: Segment) -> None:
            allowed = where.allowed(segment)
            meeting = self._meeting(segment, ready, allowed, count) if self._joined(segment) else None
            own = None if into is None else into[:, segment.offset : segment.offset + segment.n]
            if meeting is None:
                scores = np.zeros((count, segment.n)) if own is None else own
                self._add(segment, queries, ready, scores)
                with self._lock:
                    _take(scores, segment.offset, allowed, ends)
            elif own is None and self._out_of_reach(meeting, ends):
                with self._lock:
                    self.counter.segments_skipped += 1
                    self.counter.postings_skipped += meeting.postings
            else:
                counter = rank(meeting, segment.offset, ends, self._lock, prune=self._prune, into=own)
                with self._lock:
                    self.counter.add(counter)
            if own is not None:
                own[:, ~segment.alive] = np.nan

        self._over(self.store.segments, take)
        single = [{at: one.example(row) for at, one in queries.items()} for row in range(count)]
        return [end.ranking(self._exact(single[row])) for row, end in enumerate(ends)]

    def scale(self, at: CheckpointId, segment: Segment) -> Float[np.ndarray, " n"] | None:
        """The factor of each gradient of a segment."""
        return segment.features(array_name("scale", at)) if self._scaled else None

    def terms(self, at: CheckpointId, example: int, query: Gradient, widths: tuple[int, int]) -> Terms:
        """Split one checkpoint's part of a score into word x word terms."""
        segment, place = self.store.locate(example)
        kept = Gradient.unpack(segment.arrays(at, place))
        words = [form.words.max(initial=-1) for form in (kept.rows, kept.outer, kept.head) if form is not None]
        if max(words, default=-1) >= widths[0]:
            raise DamagedError(
                f"{self.store.folder} contains gradients of word {max(words) + 1} of example {example + 1}, whose "
                f"text has {widths[0]}: build the index again"
            )
        return self._terms(at, kept, query, widths) * self._factor(at, segment, place)

    def weighed(self, at: CheckpointId, example: int) -> float:
        """The factor of the product of an example's gradient at one checkpoint: weight and scale."""
        return self._factor(at, *self.store.locate(example))

    def _terms(self, at: CheckpointId, kept: Gradient, query: Gradient, widths: tuple[int, int]) -> Terms:
        total = np.zeros((widths[0] + 1, widths[1] + 1))
        if kept.rows is not None and query.rows is not None:
            matched = None if self._similarity is None else self._synonyms(at).matched
            total += kept.rows.terms(
                _weighted(query.rows, query), *widths, matched=matched and matched(kept.rows, query.rows)
            )
        if kept.outer is not None and query.outer is not None:
            total += kept.outer.terms(query.outer, *widths)
        if kept.dense is not None and query.dense is not None:
            total += kept.dense.terms(query.dense, *widths)
        if kept.head is not None and query.head is not None:
            total += self._head_terms(at, kept, query, widths)
        return total

    def _factor(self, at: CheckpointId, segment: Segment, place: int) -> float:
        """The factor of the product of an example's gradient at one checkpoint."""
        weight = next(one.weight for one in self.store.plan.checkpoints if one.id == at)
        scale = self.scale(at, segment)
        return weight * (1.0 if scale is None else float(scale[place]))

    def _exact(self, query: Mapping[CheckpointId, Gradient]) -> Callable[[int], float]:
        """Scores of one query in 64 bits, one example at a time, independent of the other queries."""
        wide = {at: None if one.rows is None else one.rows.wide() for at, one in query.items()}

        def score(example: int) -> float:
            segment, place = self.store.locate(example)
            total = 0.0
            for at, gradient in query.items():
                kept = Gradient.unpack(segment.arrays(at, place))
                total += self._product(at, kept, gradient, wide[at]) * self._factor(at, segment, place)
            return total

        return score

    def _product(self, at: CheckpointId, kept: Gradient, query: Gradient, wide: Rows | None) -> float:
        """The sum of `_terms`; for rows alone it is computed without terms."""
        alone = query.outer is None and query.head is None and query.dense is None
        if alone and self._similarity is None and kept.rows is not None and wide is not None:
            return product(kept.rows, wide)
        return float(self._terms(at, _one_word(kept), _one_word(query), (1, 1)).sum())

    def _over(self, segments: Sequence[Segment], work: Callable[[Segment], None]) -> None:
        if min(self._threads, len(segments)) < 2:
            for segment in segments:
                work(segment)
            return
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(work, segments))

    def _ready(self, queries: Mapping[CheckpointId, Gradient]) -> dict[CheckpointId, Rows]:
        """The queries' rows by step, summed by token in 64 bits."""
        ready: dict[CheckpointId, Rows] = {}
        for at, gradient in queries.items():
            if gradient.rows is not None and not (self._tied and gradient.head is not None):  # also with layers
                ready[at] = gradient.rows.wide().merged(by_word=False)
        return ready

    def _joined(self, segment: Segment) -> bool:
        """Whether a segment is searched by its postings only."""
        if self._similarity is not None or self.store.plan.blocks:
            return False
        return all(segment.postings(one.id) is not None for one in self.store.plan.checkpoints)

    def _meeting(
        self, segment: Segment, ready: Mapping[CheckpointId, Rows], allowed: np.ndarray, count: int
    ) -> BlockJoin | None:
        parts: list[Part] = []
        for one in self.store.plan.checkpoints:
            postings = segment.postings(one.id)
            if postings is None or one.id not in ready:
                return None
            parts.append(match_tokens(postings, by_token(ready[one.id]), one.weight, self.scale(one.id, segment)))
        return BlockJoin(parts, allowed, count, self._kernel)

    def _out_of_reach(self, meeting: BlockJoin, ends: Sequence[BothEnds]) -> bool:
        bars = np.asarray([end.threshold for end in ends])
        if not self._prune or not bars.all():
            return False
        return bool((meeting.ceilings() * (1.0 + meeting.error) < bars).all())

    def _add(
        self,
        segment: Segment,
        queries: Mapping[CheckpointId, Gradient],
        ready: Mapping[CheckpointId, Rows],
        total: Float[np.ndarray, "q n"],
    ) -> None:
        """Add the scores of one segment."""
        if ready and self._joined(segment):
            meeting = self._meeting(segment, ready, segment.alive, len(total))
            assert meeting is not None
            meeting.add_scores(total)
            return
        for checkpoint in self.store.plan.checkpoints:
            scale = self.scale(checkpoint.id, segment)
            part = self._checkpoint(segment, checkpoint.id, queries[checkpoint.id], ready, len(total))
            total += checkpoint.weight * part * (1.0 if scale is None else scale)

    def _checkpoint(
        self, segment: Segment, at: CheckpointId, queries: Gradient, ready: Mapping[CheckpointId, Rows], count: int
    ) -> Float[np.ndarray, "q n"]:
        total = np.zeros((count, segment.n))
        if queries.dense is not None:
            total += scan_dense(segment, at, queries.dense.v, slice(None))
        for one in self._tables(queries):
            total += self._tabled(segment, at, one, ready, count)
        return total

    def _tabled(
        self, segment: Segment, at: CheckpointId, queries: Gradient, ready: Mapping[CheckpointId, Rows], count: int
    ) -> Float[np.ndarray, "q n"]:
        """Products of one of `_tables`."""
        if queries.head is not None:
            return scan_head(segment, at, head_of(self._table(at)), queries, self._kernel, tied=self._tied)
        if queries.outer is not None:
            return scan_outer(segment, at, queries.outer, count)
        if self._similarity is None:
            return scan_rows(segment, at, by_token(ready[at]), count, self._kernel)
        postings = segment.postings(at)
        if postings is not None:
            tokens, lookup = postings.tokens, postings.lookup
        else:
            held = lookup_rows(segment, at)
            tokens, lookup = np.asarray(sorted(held), dtype=np.int64), held.get
        synonyms = self._synonyms(at)
        rows = ready[at].narrow()
        return np.stack([synonyms.scores(tokens, lookup, rows.example(row), segment.n) for row in range(count)])

    def _head_terms(self, at: CheckpointId, kept: Gradient, query: Gradient, widths: tuple[int, int]) -> Terms:
        head = head_of(self._table(at))
        assert kept.head is not None
        assert query.head is not None
        mine, theirs = kept.head.outer(head), self._asked[at].of(query.head, head)
        weight = query.weight
        total = mine.terms(theirs, *widths) if weight is None else _outer_terms(mine, theirs, weight, widths)
        if kept.rows is not None and self._tied:
            total += cross_terms(_weighted(kept.rows, query), theirs, *widths)
        if query.rows is not None and self._tied:
            total += cross_terms(_weighted(query.rows, query), mine, widths[1], widths[0]).T
        return total

    def _synonyms(self, at: CheckpointId) -> Synonyms:
        assert self._similarity is not None
        return Synonyms(self._table(at)["embedding"], self._similarity)


def _weighted(rows: Rows, query: Gradient) -> Rows:
    """Rows multiplied by the query's weight of the table."""
    return rows if query.weight is None else rows.times(query.weight[rows.ids])


def _outer_terms(mine: Outer, theirs: Outer, weight: Float[np.ndarray, "v d"], widths: tuple[int, int]) -> Terms:
    """Outer x outer, every entry of the table times its own weight: one position of the query at a time."""
    columns = [((mine.g * g) @ weight * mine.a) @ a for g, a in zip(theirs.g, theirs.a, strict=True)]
    product = np.stack(columns, axis=1) if columns else np.zeros((len(mine.words), 0))
    return gather(product, mine.words, theirs.words, *widths)


def _take(scores: Float[np.ndarray, "q n"], offset: int, allowed: np.ndarray, ends: Sequence[BothEnds]) -> None:
    """Add the scores of a scan to the rankings."""
    for row, end in enumerate(ends):
        found = np.flatnonzero(allowed & (scores[row] != 0))
        own = scores[row, found]
        error = SCAN_ERROR * float(np.abs(own).max(initial=0.0))
        end.add(offset + found, own, np.full(len(found), error))


def _one_word(gradient: Gradient) -> Gradient:
    """The same gradient as for a text of one word: for the sum of all terms."""
    rows, outer, head = gradient.rows, gradient.outer, gradient.head
    return replace(
        gradient,
        rows=None if rows is None else replace(rows, words=np.zeros_like(rows.words)),
        outer=None if outer is None else replace(outer, words=np.zeros_like(outer.words)),
        head=None if head is None else replace(head, words=np.zeros_like(head.words)),
    )


def _threads() -> int:
    told = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(told) if told.isdigit() and int(told) else cores
