"""Whole columns of an index's examples in Arrow memory: searched, counted, and selected by row."""

import re
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.data.columns import Column, pack_numbers, pack_texts
from proponent.data.stored import StoredExamples
from proponent.data.untyped import compute, pa
from proponent.errors import InputError
from proponent.types import Span

How = Literal["substring", "word", "regex"]
TEXTS = ("text", "text_pair", "target")
NAMES = ("id", "row", *TEXTS, "content", "label", "source")
BLOCK = 8192
"""Rows split into words, or compared, at a time."""

FIRST_BYTES, MOST_BYTES = 64 * 1024, 8 * 1024 * 1024
"""Bytes of text searched between two checks of the time limit: few at first, since an expression may be slow."""

QUICK, SLOW = 0.02, 0.1
"""Seconds for one block below which the next one is larger, and above which it is smaller."""

LONGEST_PATTERN = 500
"""Maximum characters of a search pattern."""

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # noncharacters, which no text may interchange


@dataclass(frozen=True)
class SearchResult:
    """Which examples match the pattern, and how many were searched within the time limit."""

    places: Bool[np.ndarray, " n"]
    searched: int


class ExampleColumns:
    """All examples of an index as one Arrow table, from its Parquet files in order."""

    def __init__(self, parts: Sequence[StoredExamples]) -> None:
        self._table = pa.table({name: _joined(parts, name) for name in NAMES})
        pa.default_memory_pool().release_unused()

    def __len__(self) -> int:
        return self._table.num_rows

    def has(self, name: str) -> bool:
        """Whether any example has a value in a column."""
        return self.column(name).null_count < len(self)

    def column(self, name: str) -> Any:
        """Return a whole column."""
        return self._table.column(name)

    def values(self, name: str, places: Int[np.ndarray, " m"]) -> list[Any]:
        """Return one column of selected examples."""
        return self.column(name).take(pack_numbers(places)).to_pylist()

    def chosen(self, name: str, places: Int[np.ndarray, " m"]) -> Column:
        """One column of selected examples, of which a block at a time becomes Python objects."""
        return Column(self.column(name), places)

    def chosen_second(self, places: Int[np.ndarray, " m"]) -> Column:
        """The second text of selected examples: of a pair, or the target."""
        held = [self.column(name) for name in ("text_pair", "target") if self.has(name)]
        return Column(
            held[0] if len(held) == 1 else compute.coalesce(*map(self.column, ("text_pair", "target"))), places
        )

    def rows(self, places: Int[np.ndarray, " m"]) -> list[dict[str, Any]]:
        """Return selected examples."""
        return self._table.take(pack_numbers(places)).to_pylist()

    def coded(self, name: str) -> tuple[Int[np.ndarray, " n"], list[str | None]]:
        """Number the values of a column in sorted order; examples without a value come last."""
        values: list[str | None] = compute.unique(self.column(name)).to_pylist()
        return self.ranked(name).astype(np.int32) - 1, sorted(values, key=lambda value: (value is None, value)) or [
            None
        ]

    def ranked(self, name: str) -> Int[np.ndarray, " n"]:
        """Rank the examples by a column's values, from 1; equal values share a rank."""
        return compute.rank(self.column(name).combine_chunks(), tiebreaker="dense").to_numpy().astype(np.int64)

    @cached_property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """Number of characters of each example, over all its texts."""
        total = np.zeros(len(self), dtype=np.int64)
        for name in TEXTS:
            if self.has(name):
                total += compute.utf8_length(self.column(name)).fill_null(0).to_numpy()
        return total

    def held(
        self, texts: Sequence[str], pairs: Sequence[str | None] | None = None, second: str = "text_pair"
    ) -> Bool[np.ndarray, " m"]:
        """Which of some texts (of some pairs of texts, or of texts and targets) are those of an example."""
        kind = pa.large_string()
        asked, known = pa.array(texts, kind), self.column("text").cast(kind)
        if pairs is not None and (self.has(second) or any(one is not None for one in pairs)):
            between = pa.scalar("\0", kind)  # no text holds it
            others = self.column(second).cast(kind).fill_null("")
            known = compute.binary_join_element_wise(known, others, between)
            asked = compute.binary_join_element_wise(asked, pa.array(pairs, kind).fill_null(""), between)
        found = compute.is_in(asked, value_set=known.combine_chunks())
        return found.to_numpy(zero_copy_only=False)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each example, by id."""
        return {identity: place for place, identity in enumerate(self.column("id").to_pylist())}

    @cached_property
    def _ends(self) -> Int[np.ndarray, " n"]:
        """Where the texts of each example end, in bytes of all texts."""
        total = np.zeros(len(self), dtype=np.int64)
        for name in TEXTS:
            if self.has(name):
                total += compute.binary_length(self.column(name)).fill_null(0).to_numpy()
        return np.cumsum(total)

    def find(self, how: How, pattern: str, seconds: float) -> SearchResult:
        """Search the texts, ignoring case, in time linear in their length."""
        expression = _expression(how, pattern)
        found = np.zeros(len(self), dtype=np.bool_)
        columns = [self.column(name) for name in TEXTS if self.has(name)]
        pace = Pace(seconds)
        start = 0
        while start < len(self) and not pace.over:
            before = int(self._ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(self._ends, before + pace.bytes, side="right")))
            for column in columns:
                mask = _match(column.slice(start, stop - start), how, pattern, expression)
                found[start:stop] |= mask.fill_null(False).to_numpy(zero_copy_only=False)
            start = stop
            pace.step()
        return SearchResult(found, start)


class Pace:
    """How many bytes are searched at a time, so that a time limit is kept even for a slow expression."""

    def __init__(self, seconds: float) -> None:
        self.bytes = FIRST_BYTES
        self._last = time.monotonic()
        self._until = self._last + seconds

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._until

    def step(self) -> None:
        """End a block: choose the size of the next one."""
        now = time.monotonic()
        if now - self._last < QUICK:
            self.bytes = min(self.bytes * 2, MOST_BYTES)
        elif now - self._last > SLOW:
            self.bytes = max(self.bytes // 2, FIRST_BYTES // 4)
        self._last = now


def spans(texts: Sequence[str], how: How, pattern: str) -> list[tuple[Span, ...]]:
    """Find all matches of a pattern in some texts, in linear time."""
    return spans_in_time(texts, how, pattern, float("inf"))


def spans_in_time(texts: Sequence[str], how: How, pattern: str, seconds: float) -> list[tuple[Span, ...]]:
    """Find all matches in the first texts, as many as the time allows; the list may be shorter than the texts."""
    if not texts:
        return []
    expression = _expression(how, pattern)
    pace, found = Pace(seconds), list[tuple[Span, ...]]()
    while len(found) < len(texts) and not pace.over:
        some, size = list[str](), 0
        for text in texts[len(found) :]:
            size += len(text)
            if some and size > pace.bytes:
                break
            some.append(text)
        found += _spans(some, how, pattern, expression)
        pace.step()
    return found


def _spans(texts: Sequence[str], how: How, pattern: str, expression: str) -> list[tuple[Span, ...]]:
    around, inside = (r"\1" + _OPEN + r"\2" + _CLOSE, f"({_EDGE_BEFORE})(?i:({re_escape(pattern)}))")
    marked = compute.replace_substring_regex(
        pack_texts(texts),
        pattern=inside if how == "word" else f"({expression})",
        replacement=around if how == "word" else _OPEN + r"\1" + _CLOSE,
    ).to_pylist()
    return [
        () if _OPEN in text or _CLOSE in text else _offsets(one, text, whole=how == "word")
        for text, one in zip(texts, marked, strict=True)
    ]


def _offsets(marked: str, text: str, *, whole: bool) -> tuple[Span, ...]:
    found: list[Span] = []
    at = 0
    for piece in marked.split(_OPEN):
        inside, closed, outside = piece.partition(_CLOSE)
        if closed and inside:
            found.append((at, at + len(inside)))
        at += len(inside) + len(outside)
    return tuple(one for one in found if not whole or _ends(text, one[1]))


def _ends(text: str, at: int) -> bool:
    """Whether a word ends here."""
    return at == len(text) or not (text[at].isalnum() or text[at] == "_")


# RE2's \b is ASCII only
_EDGE_BEFORE, _EDGE_AFTER = r"^|[^\pL\pN_]", r"$|[^\pL\pN_]"


def re_escape(pattern: str) -> str:
    """Escape a text as an RE2 regular expression that matches it literally."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", pattern).replace("\0", r"\x00")


def _expression(how: How, pattern: str) -> str:
    if len(pattern) > LONGEST_PATTERN:
        raise InputError(f"the search pattern has {len(pattern):,} characters: the limit is {LONGEST_PATTERN}")
    if how == "word":
        expression = f"(?:{_EDGE_BEFORE})(?i:{re_escape(pattern)})(?:{_EDGE_AFTER})"
    else:
        expression = f"(?i:{re_escape(pattern) if how == 'substring' else pattern})"
    try:
        compute.match_substring_regex(pack_texts([""]), pattern=expression)
    except pa.ArrowInvalid as error:
        reason = str(error).split("regular expression: ", 1)[-1].splitlines()[0][:200]
        raise InputError(
            f"invalid regular expression ({reason}): use RE2 syntax, which has no look-around and no back-references, "
            "or search for a substring"
        ) from error
    return expression


def _match(column: Any, how: How, pattern: str, expression: str) -> Any:
    if how == "substring" and pattern.isascii():
        return compute.match_substring(column, pattern=pattern, ignore_case=True)
    return compute.match_substring_regex(column, pattern=expression)


def _joined(parts: Sequence[StoredExamples], name: str) -> Any:
    kind = pa.int64() if name == "row" else pa.large_string()
    chunks = [part.arrow(name) if name in part.names else pa.nulls(len(part), kind) for part in parts]
    pieces = [one.cast(kind) for chunk in chunks for one in getattr(chunk, "chunks", [chunk])]
    # one chunk: selecting rows from several chunks joins all of them each time
    return pa.chunked_array([pa.concat_arrays(pieces)] if pieces else [], kind)


class WordSets:
    """Distinct words of every example: lower case, split at white space, without surrounding punctuation."""

    def __init__(self, whole: ExampleColumns) -> None:
        self._numbers: dict[str, int] = {}
        found = [self._block(whole, start) for start in range(0, len(whole), BLOCK)]
        sizes = np.concatenate([sizes for _, sizes in found]) if found else np.zeros(0, dtype=np.int64)
        self.sizes: Int[np.ndarray, " n"] = sizes
        self._words: Int[np.ndarray, " m"] = np.concatenate([np.zeros(0, dtype=np.int32), *(one for one, _ in found)])
        self._begins = np.concatenate([[0], np.cumsum(sizes)])
        self._count = len(self._numbers)
        self._numbers.clear()  # only needed for numbering

    def similarity(self, place: int) -> Float[np.ndarray, " n"]:
        """Compare one example with all examples."""
        mine = np.zeros(self._count, dtype=np.uint8)
        mine[self._words[self._begins[place] : self._begins[place + 1]]] = 1
        shared = np.zeros(len(self.sizes), dtype=np.int32)
        for start in range(0, len(shared), BLOCK):  # numpy copies the numbers that it indexes with, as 64 bits each
            begins = self._begins[start : start + BLOCK + 1]
            some = np.flatnonzero(np.diff(begins))
            if len(some):
                within = mine[self._words[begins[0] : begins[-1]]]
                shared[start + some] = np.add.reduceat(within, begins[some] - begins[0], dtype=np.int32)
        return shared / np.maximum(self.sizes + self.sizes[place] - shared, 1)

    def _block(self, whole: ExampleColumns, start: int) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " b"]]:
        """Distinct words of some examples, concatenated, and their number per example."""
        count = min(BLOCK, len(whole) - start)
        owners: list[np.ndarray] = []
        codes: list[np.ndarray] = []
        for name in TEXTS:
            if whole.has(name):
                column = whole.column(name).slice(start, count).fill_null("").combine_chunks()
                pieces = compute.utf8_split_whitespace(compute.utf8_lower(column))
                owners.append(compute.list_parent_indices(pieces).to_numpy())
                codes.append(self._coded(pieces.flatten()))
        paired, numbers = np.concatenate(owners).astype(np.int64), np.concatenate(codes).astype(np.int64)
        some, width = numbers >= 0, max(1, len(self._numbers))
        keys = np.unique(paired[some] * width + numbers[some])
        return (keys % width).astype(np.int32), np.bincount(keys // width, minlength=count)

    def _coded(self, words: Any) -> Int[np.ndarray, " m"]:
        """Number words; -1 for strings that are not words."""
        coded = words.dictionary_encode()
        bare = [_bare(one) for one in coded.dictionary.to_pylist()]
        table = np.asarray([self._numbers.setdefault(one, len(self._numbers)) if one else -1 for one in bare] or [-1])
        return table[coded.indices.to_numpy()]


def _bare(word: str) -> str:
    """A word without surrounding punctuation."""
    start, stop = 0, len(word)
    while start < stop and unicodedata.category(word[start])[0] not in "LN":
        start += 1
    while stop > start and unicodedata.category(word[stop - 1])[0] not in "LN":
        stop -= 1
    return word[start:stop]
