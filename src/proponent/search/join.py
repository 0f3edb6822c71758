"""The join of TracIn-WE: a query reads only the postings of its own tokens.

Exact pruning in three steps, after MaxScore (Turtle and Flood 1995) and its block-wise variants. By Cauchy-Schwarz no
row contributes more than its norm times the query row's norm: the largest norm per token bounds a whole segment, the
norm of an example's gradient (4 bytes) bounds its score without a look at its postings, and the norms of its rows (4
bytes each) bound it more closely; tokens that together add little to any score are left out of that. Examples bounded
below the threshold are never read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.gradients.forms import Rows
from proponent.search.kernels import Kernel
from proponent.search.ranking import BothEnds, Counter
from proponent.store import Postings

SPARSE = 0.25
"""Rows are read one by one when at most this share of the examples is needed; otherwise whole blocks are streamed."""

SPARED = 0.25
"""Share of the threshold that tokens together may add at most when their postings are not looked at for bounds."""

FEW = 1 / 32
"""The share up to which the bounds of whole gradients are close enough."""

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

    @cached_property
    def stream_cost(self) -> float:
        """Nanoseconds that scoring every example takes (measured per posting)."""
        total = 0.0
        for part in self.parts:
            width = part.postings.row_bytes
            for met in part.matches:
                total += (met.stop - met.start) * (0.1 * width + len(met.columns) * (8.0 + 0.008 * width))
        return total

    @property
    def find_cost(self) -> float:
        """Nanoseconds that finding the postings of a few examples takes."""
        return 2.5 * self.postings

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

    def quick_bounds(self) -> Float[np.ndarray, "q n"] | None:
        """Bound the score of every example by the norm of its gradient; None where these norms are not stored."""
        total = np.zeros((self.count, self.n))
        for part in self.parts:
            totals = part.postings.totals
            if totals is None:
                return None
            squares = np.zeros(self.count)
            for met in part.matches:
                squares[met.columns] += met.norms**2
            factor = part.weight if part.scale is None else part.weight * part.scale
            total += np.sqrt(squares)[:, None] * (totals * factor)
        total[:, ~self.allowed] = 0.0
        return total

    def bounds(self, bars: Float[np.ndarray, " q"]) -> Float[np.ndarray, "q n"] | None:
        """Bound the score of every example by the norms of its rows; None where scoring all of them costs less."""
        # An example that is not allowed, or that no bound lifts to its query's bar, may have a bound of 0.
        needed = [self._needed(column, bar) for column, bar in enumerate(bars.tolist())]
        cost = 15.0 * sum(met.stop - met.start for asked, _ in needed for _, met, _ in asked)
        if cost + self.find_cost > 0.6 * self.stream_cost:
            return None
        total = np.zeros((self.count, self.n))
        for column, (asked, rest) in enumerate(needed):
            for part in self.parts:
                own = np.zeros(self.n)
                for _, met, norm in (one for one in asked if one[0] is part):
                    owners = part.postings.owners(met.start, met.stop).astype(np.intp)
                    np.add.at(own, owners, part.postings.norms(met.start, met.stop).astype(np.float64) * norm)
                total[column] += own * (part.weight if part.scale is None else part.weight * part.scale)
            total[column, total[column] > 0] += rest
        total[:, ~self.allowed] = 0.0
        return total

    def _needed(self, column: int, bar: float) -> tuple[list[tuple[Part, TokenMatch, float]], float]:
        """Tokens of a query without which no example reaches the bar, and what the others add at most."""
        ceilings: list[tuple[float, int, tuple[Part, TokenMatch, float]]] = []
        for part in self.parts:
            largest = part.weight if part.scale is None else part.weight * float(part.scale.max(initial=0.0))
            for met in part.matches:
                for place in np.flatnonzero(met.columns == column).tolist():
                    norm = float(met.norms[place])
                    ceilings.append((largest * met.largest * norm, len(ceilings), (part, met, norm)))
        rest, asked = 0.0, list[tuple[Part, TokenMatch, float]]()
        for ceiling, _, one in sorted(ceilings):
            if not asked and rest + ceiling < SPARED * bar:
                rest += ceiling
            else:
                asked.append(one)
        return asked, rest

    def chosen(self, wanted: Bool[np.ndarray, "q n"]) -> tuple[Float[np.ndarray, "q n"], int]:
        """Score the wanted examples, and count the rows that were read for it; other scores may be wrong."""
        total, read = np.zeros((self.count, self.n)), 0
        any_wants: Bool[np.ndarray, " n"] = np.asarray(wanted.any(0))
        for part in self.parts:
            own = total if part.scale is None else np.zeros_like(total)
            for met in part.matches:
                owners = part.postings.owners(met.start, met.stop)
                kept = np.flatnonzero(any_wants[owners])
                if len(kept):
                    rows = part.postings.take(met.start + kept)
                    self.kernel(own, owners[kept], rows, None, met.rows, met.columns)
                    read += len(kept)
            if part.scale is not None:
                total += own * (part.weight * part.scale)
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
    bounds = None
    for bound, most in _bounding(meeting, ends) if prune and into is None else ():
        bounds = bound()
        read = None if bounds is None else _pruned(meeting, offset, ends, lock, bounds, most)
        if read is not None:
            counter.postings_read, counter.bytes_read = read, read * each
            counter.postings_skipped = max(0, everything - read)
            return counter
    scores = np.zeros((meeting.count, meeting.n)) if into is None else into
    meeting.add_scores(scores)
    reach = meeting.ceilings()
    for row, end in enumerate(ends):
        found = np.flatnonzero(meeting.allowed & (scores[row] != 0))
        most = np.full(len(found), reach[row])
        if bounds is not None:  # an example without a bound of its own is bounded by its segment
            most = np.where(bounds[row, found] > 0, bounds[row, found], most)
        errors = most * meeting.error
        with lock:
            end.add(offset + found, scores[row, found], errors)
    counter.postings_read, counter.bytes_read = everything, everything * each
    return counter


def _bounding(
    meeting: BlockJoin, ends: Sequence[BothEnds]
) -> Iterator[tuple[Callable[[], Float[np.ndarray, "q n"] | None], float]]:
    """Ways to bound every example, the cheapest first, and the share of examples up to which each pays."""
    bars = np.asarray([end.threshold for end in ends])
    if bars.all() and meeting.find_cost < 0.6 * meeting.stream_cost:
        yield meeting.quick_bounds, FEW
    yield lambda: meeting.bounds(bars), SPARSE


def _pruned(
    meeting: BlockJoin,
    offset: int,
    ends: Sequence[BothEnds],
    lock: Lock,
    bounds: Float[np.ndarray, "q n"],
    most: float,
) -> int | None:
    """Score the examples above the bounds and return the number of rows read; None if streaming is cheaper."""
    errors = bounds * meeting.error
    first = np.stack([_first(own, end) for own, end in zip(bounds, ends, strict=True)])
    scores, read = meeting.chosen(first) if first.any() else (np.zeros_like(bounds), 0)
    found: list[np.ndarray] = []
    rest = np.zeros_like(first)
    for row, end in enumerate(ends):
        bar, own = end.threshold, np.flatnonzero(first[row])
        if len(own):
            trial = BothEnds(end.proponents.k)
            trial.add(offset + own, scores[row, own], errors[row, own])
            bar = trial.threshold
        found.append(own)
        reach = bounds[row] + errors[row]
        rest[row] = (reach > 0) & (reach >= bar) & ~first[row]
    if int(rest.sum()) > most * min(rest.size, meeting.postings):
        return None
    _add(ends, lock, offset, found, scores, errors)
    if rest.any():
        scores, taken = meeting.chosen(rest)
        read += taken
        _add(ends, lock, offset, [np.flatnonzero(own) for own in rest], scores, errors)
    return read


def _first(bounds: Float[np.ndarray, " n"], end: BothEnds) -> Bool[np.ndarray, " n"]:
    """Examples of the largest bounds, which raise a threshold that is still 0."""
    first = np.zeros(len(bounds), dtype=np.bool_)
    if not end.threshold:
        few = min(len(bounds), FIRST * end.proponents.k + 16)
        first[np.argpartition(bounds, -few)[-few:]] = True
        first &= bounds > 0
    return first


def _add(
    ends: Sequence[BothEnds],
    lock: Lock,
    offset: int,
    found: Sequence[Int[np.ndarray, " m"]],
    scores: Float[np.ndarray, "q n"],
    errors: Float[np.ndarray, "q n"],
) -> None:
    """Add the scores of the examples that were found for each query."""
    with lock:
        for row, (end, own) in enumerate(zip(ends, found, strict=True)):
            end.add(offset + own, scores[row, own], errors[row, own])
