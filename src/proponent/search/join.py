"""The join of TracIn-WE: a query reads only the postings of its own tokens.

Exact pruning in two steps, after MaxScore (Turtle and Flood 1995) and its block-wise variants. By Cauchy-Schwarz no row
contributes more than its norm times the query row's norm: the largest norm per token bounds a whole segment, the norms
of the rows (4 bytes in addition to d x 4) bound each example. Examples bounded below the threshold are never read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.gradients.forms import Rows
from proponent.search.kernels import Kernel
from proponent.search.ranking import BothEnds, Counter
from proponent.store import Postings

SPARSE = 0.25
"""Rows are read one by one when at most this share of them is needed; otherwise whole blocks are streamed."""

FIRST = 4
"""Examples of the largest bounds, per requested hit, that are scored first to raise the threshold."""


@dataclass(frozen=True)
class TokenMatch:
    """One token that queries and a segment share at one checkpoint."""

    start: int  # its first posting
    stop: int  # one past its last
    largest: float  # the largest norm among them
    columns: Int[np.ndarray, " j"]  # the queries that contain the token
    rows: Float[np.ndarray, "j d"]  # their rows for it
    norms: Float[np.ndarray, " j"]  # the norms of these rows


@dataclass(frozen=True)
class Part:
    """The postings of a segment at one checkpoint, and the tokens they share with the queries."""

    postings: Postings  # of the segment
    weight: float  # the remaining factor
    scale: Float[np.ndarray, " n"] | None  # the factor of each example's gradient; None for 1
    matches: tuple[TokenMatch, ...]


def by_token(queries: Rows) -> dict[int, tuple[Int[np.ndarray, " j"], Float[np.ndarray, "j d"]]]:
    """Group the rows of queries by token."""
    if not len(queries.ids):  # all tokens of the queries were excluded
        return {}
    order = np.argsort(queries.ids, kind="stable")
    tokens, begins = np.unique(queries.ids[order], return_index=True)
    groups, owners = np.split(order, begins[1:]), queries.owners
    return {
        int(token): (owners[rows], np.ascontiguousarray(queries.rows[rows], dtype=np.float32))
        for token, rows in zip(tokens.tolist(), groups, strict=True)
    }


def match_tokens(
    postings: Postings,
    tokens: Mapping[int, tuple[Int[np.ndarray, " j"], Float[np.ndarray, "j d"]]],
    weight: float,
    scale: Float[np.ndarray, " n"] | None,
) -> Part:
    """Find the tokens that queries and postings share."""
    ids = np.fromiter(tokens, dtype=np.int64, count=len(tokens))
    met: list[TokenMatch] = []
    turned = np.float32(weight if scale is None else 1.0)  # a common weight is multiplied into the query rows
    for token, place in zip(ids.tolist(), postings.places(ids).tolist(), strict=True):
        if place >= 0:
            columns, rows = tokens[token][0], tokens[token][1] * turned
            norms = np.sqrt(np.einsum("jd,jd->j", rows, rows, dtype=np.float64))
            met.append(TokenMatch(*postings.span(place), float(postings.largest[place]), columns, rows, norms))
    return Part(postings, 1.0 if scale is None else weight, scale, tuple(met))


class BlockJoin:
    """A block of queries and one segment, over all checkpoints."""

    def __init__(self, parts: Sequence[Part], allowed: Bool[np.ndarray, " n"], count: int, kernel: Kernel) -> None:
        self.parts, self.allowed, self.count, self.kernel = parts, allowed, count, kernel
        self.n = len(allowed)
        width = parts[0].postings.width if parts else 0
        self.error = (width + 8) * 2.0**-23
        """Largest relative error of a 32-bit product of rows, relative to the product of their norms."""

    @property
    def bounds_pay(self) -> bool:
        """Whether bounding every example costs clearly less than scoring it (measured nanoseconds per posting)."""
        bounds = scores = 0.0
        for part in self.parts:
            width = part.postings.row_bytes
            for met in part.matches:
                count, queries = met.stop - met.start, len(met.columns)
                bounds += count * queries * 15.0
                scores += count * (0.1 * width + queries * (8.0 + 0.008 * width))
        return bounds < 0.6 * scores

    @property
    def postings(self) -> int:
        """Rows of all shared tokens."""
        return sum(met.stop - met.start for part in self.parts for met in part.matches)

    def add_scores(self, total: Float[np.ndarray, "q n"]) -> None:
        """Score every example of the segment, reading all rows of the shared tokens."""
        for part in self.parts:
            own = total if part.scale is None else np.zeros_like(total)
            for met in part.matches:
                owners = part.postings.owners(met.start, met.stop)
                self.kernel(own, owners, *part.postings.raw(met.start, met.stop), met.rows, met.columns)
            if part.scale is not None:
                total += own * (part.weight * part.scale)

    def ceilings(self) -> Float[np.ndarray, " q"]:
        """Bound all scores of the segment by the largest norm of each token."""
        total = np.zeros(self.count)
        for part in self.parts:
            largest = part.weight if part.scale is None else part.weight * float(part.scale.max(initial=0.0))
            own = np.zeros(self.count)
            for met in part.matches:
                own[met.columns] += met.largest * met.norms
            total += largest * own
        return total

    def bounds(self) -> Float[np.ndarray, "q n"]:
        """Bound the score of every example by the norms of its rows; 0 for examples that are not allowed."""
        total = np.zeros((self.count, self.n))
        for part in self.parts:
            own = np.zeros_like(total)
            for met in part.matches:
                owners = part.postings.owners(met.start, met.stop).astype(np.intp)
                norms = part.postings.norms(met.start, met.stop).astype(np.float64)
                for column, norm in zip(met.columns.tolist(), met.norms.tolist(), strict=True):
                    np.add.at(own[column], owners, norms * norm)
            total += own * (part.weight if part.scale is None else part.weight * part.scale)
        total[:, ~self.allowed] = 0.0
        return total

    def chosen(self, column: int, wanted: Bool[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " n"], int]:
        """Score some examples for one query, reading only their rows."""
        total, read = np.zeros(self.n), 0
        for part in self.parts:
            own = np.zeros((1, self.n))
            for met in part.matches:
                place = np.flatnonzero(met.columns == column)
                if not len(place):
                    continue
                owners = part.postings.owners(met.start, met.stop)
                kept = np.flatnonzero(wanted[owners])
                if len(kept):
                    rows = part.postings.take(met.start + kept)
                    self.kernel(own, owners[kept], rows, None, met.rows[place], np.zeros(1, dtype=np.int64))
                    read += len(kept)
            total += own[0] * (part.weight if part.scale is None else part.weight * part.scale)
        return total, read


def product(kept: Rows, query: Rows) -> float:
    """Multiply two single examples in 64 bits, without word terms."""
    mine, theirs = np.nonzero(kept.ids[:, None] == query.ids[None, :])
    return float(np.einsum("kd,kd->", kept.rows[mine], query.rows[theirs], dtype=np.float64))


def rank(
    meeting: BlockJoin,
    offset: int,
    ends: Sequence[BothEnds],
    lock: Lock,
    *,
    prune: bool,
    into: Float[np.ndarray, "q n"] | None = None,
) -> Counter:
    """Add the scores of one segment to the rankings of a block of queries; with `into`, keep all of them there."""
    counter, everything = Counter(), meeting.postings
    each = sum(part.postings.row_bytes for part in meeting.parts[:1])
    bounds = meeting.bounds() if into is None and prune and meeting.bounds_pay else None
    if bounds is not None:
        read = _pruned(meeting, offset, ends, lock, bounds)
        if read is not None:
            counter.postings_read, counter.bytes_read = read, read * each
            counter.postings_skipped = max(0, everything - read)
            return counter
    scores = np.zeros((meeting.count, meeting.n)) if into is None else into
    meeting.add_scores(scores)
    reach = meeting.ceilings()
    for row, end in enumerate(ends):
        found = np.flatnonzero(meeting.allowed & (scores[row] != 0))
        errors = (
            np.full(len(found), reach[row] * meeting.error) if bounds is None else bounds[row, found] * meeting.error
        )
        with lock:
            end.add(offset + found, scores[row, found], errors)
    counter.postings_read, counter.bytes_read = everything, everything * each
    return counter


def _pruned(
    meeting: BlockJoin,
    offset: int,
    ends: Sequence[BothEnds],
    lock: Lock,
    bounds: Float[np.ndarray, "q n"],
) -> int | None:
    """Score the examples above the bounds and return the number of rows read; None if streaming is cheaper."""
    read, firsts = 0, list[np.ndarray]()
    rest: list[np.ndarray] = []
    errors = bounds * meeting.error
    reach = bounds + errors
    for row, end in enumerate(ends):
        first = np.zeros(meeting.n, dtype=np.bool_)
        if not end.threshold:
            most = min(meeting.n, FIRST * end.proponents.k + 16)
            first[np.argpartition(bounds[row], -most)[-most:]] = True
            first &= bounds[row] > 0
        firsts.append(first)
    scored: list[tuple[np.ndarray, np.ndarray]] = []
    bars: list[float] = []
    for row, end in enumerate(ends):
        bar = end.threshold
        if firsts[row].any():
            scores, taken = meeting.chosen(row, firsts[row])
            read += taken
            trial = BothEnds(end.proponents.k)
            found = np.flatnonzero(firsts[row])
            trial.add(offset + found, scores[found], errors[row, found])
            bar = trial.threshold
            scored.append((found, scores[found]))
        else:
            scored.append((np.zeros(0, dtype=np.int64), np.zeros(0)))
        bars.append(bar)
        rest.append((reach[row] > 0) & (reach[row] >= bar) & ~firsts[row])
    if sum(int(one.sum()) for one in rest) > SPARSE * max(1, int((bounds > 0).sum())):
        return None
    for row, end in enumerate(ends):
        found, scores = scored[row]
        with lock:
            end.add(offset + found, scores, errors[row, found])
        if rest[row].any():
            scores, taken = meeting.chosen(row, rest[row])
            read += taken
            found = np.flatnonzero(rest[row])
            with lock:
                end.add(offset + found, scores[found], errors[row, found])
    return read
