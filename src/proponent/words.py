"""Split a raw text into words, and assign each token to a word.

Tokenizers do not agree on what a word is, and the word numbers of whole tokenizer families are wrong. So the raw text
is split here, by rules that approximate UAX #29, and tokens are assigned to words by their character offsets.

How a text is split: every character is mapped to one letter that names its kind (`_Kinds`), and one regular
expression over these letters matches the segments. Segments tile the text: nothing is lost and nothing overlaps.

- Letters, marks, digits and underscores form words; an apostrophe between letters stays inside ("isn't"), and so does
  a point or comma between digits ("3.14", "1,000"). A hyphen splits.
- Each Han ideograph is a word. Runs of Hiragana, of Katakana and of scripts without spaces (Thai, Lao, Khmer, Myanmar,
  Tai) are words.
- An emoji with everything joined to it, a flag and a keycap are words.
- A run of one punctuation character is a segment ("!!!"), every other symbol is its own segment, invisible
  characters included: a hidden trigger appears as a word. A run of white space is also a segment, so that a newline
  token belongs to a segment.
"""

import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt
from jaxtyping import Int

from proponent.errors import InputError
from proponent.types import TEMPLATE, Example, Preference, Span

RULES = f"1/unicode-{unicodedata.unidata_version}"
"""Version of the rules and of the character table. Positions in `words()` are comparable only if it is equal."""

_HAN = ((0x3005, 0x3005), (0x3007, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFD))
_OTHER_IDEOGRAPHS = ((0x17000, 0x18DFF), (0x1B170, 0x1B2FF))  # Tangut, Khitan, Nushu: no spaces either
_HIRAGANA = ((0x3041, 0x309F), (0x1B001, 0x1B11F))
_KATAKANA = ((0x30A1, 0x30FA), (0x30FD, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF6F), (0xFF71, 0xFF9F))
_LONG_VOWEL = ((0x30FC, 0x30FC), (0xFF70, 0xFF70))
_SPACELESS = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF)),  # Thai and Lao, Myanmar, Khmer
    *((0x1950, 0x1AAF), (0xA9E0, 0xA9FF), (0xAA60, 0xAADF)),  # Tai scripts, extended Myanmar
)
_LETTER_KINDS = (
    *(("h", first, last) for first, last in (*_HAN, *_OTHER_IDEOGRAPHS)),
    *(("k", first, last) for first, last in _HIRAGANA),
    *(("t", first, last) for first, last in _KATAKANA),
    *(("x", first, last) for first, last in _LONG_VOWEL),
    *(("s", first, last) for first, last in _SPACELESS),
)
_JOINERS = frozenset({0x00AD, 0x180E, 0x200C})  # soft hyphen, Mongolian vowel separator, zero-width non-joiner
_ARROWS_IN_EMOJI = frozenset({0x2194})  # the one mathematical sign that emoji sequences join


def _fixed_kind(point: int) -> str | None:
    # Characters with a kind of their own, checked before their category.
    if point in _JOINERS or 0xE0020 <= point <= 0xE007F:  # the tags of regional flags
        return "m"
    if 0x1F1E6 <= point <= 0x1F1FF:
        return "r"
    if 0x1F3FB <= point <= 0x1F3FF:
        return "f"
    if 0x1F300 <= point <= 0x1FAFF or point in _ARROWS_IN_EMOJI:  # also those that this Python's table does not know
        return "S"
    return {0xFE0F: "v", 0x200D: "z", 0x20E3: "c"}.get(point)


def _kind(point: int) -> str:
    # One letter for the kind of a character; punctuation and other non-text characters stand for themselves.
    # a letter, d digit, _ connector, h ideograph, k Hiragana, t Katakana, x long vowel, s script without spaces,
    # m mark, v emoji variation selector, z zero-width joiner, c keycap, r regional indicator, f skin tone, S symbol
    fixed = _fixed_kind(point)
    if fixed is not None:
        return fixed
    character = chr(point)
    if character.isspace():
        return " "
    category = unicodedata.category(character)
    if category[0] == "M":
        return "m"
    if character.isalnum():
        if category == "Nd":
            return "d"
        return next((kind for kind, first, last in _LETTER_KINDS if first <= point <= last), "a")
    return {"Pc": "_", "So": "S"}.get(category, character)


class _Kinds(dict[int, str]):
    """Code point -> kind, filled on first use."""

    def __missing__(self, point: int) -> str:
        kind = self[point] = _kind(point)
        return kind


_KINDS = _Kinds()
_MARKS = "[mvzc]"
_SEGMENT = re.compile(
    rf"""
      [ ]+                                                          # white space
    | (?: [ad_]+(?:(?<!d)|(?!v?c)){_MARKS}*                         # letters and digits; not the digit of a keycap
          (?: (?<=d)[.,．，٫٬](?=d(?!v?c))                          # points and commas between digits
            | (?<!_)['’＇·‧׳״](?=a|d(?!v?c)) )?                     # apostrophes between letters
      )+
    | dv?c{_MARKS}*                                                 # keycap
    | h{_MARKS}*                                                    # ideograph
    | k(?:[kx]|{_MARKS})*                                           # Hiragana
    | [tx](?:[tx]|{_MARKS})*                                        # Katakana
    | s(?:s|{_MARKS})*                                              # Thai and its like
    | rr?{_MARKS}*                                                  # flag
    | [Sf](?:f|{_MARKS})*(?:(?<=z)[Sf](?:f|{_MARKS})*)*             # symbol or emoji, with what is joined to it
    | {_MARKS}+                                                     # marks without a base
    | (?P<same>[^ad_hktxsmvzcrfS ])(?:{_MARKS}+|(?:(?P=same)(?!{_MARKS}))*)  # punctuation; a mark keeps its base
    """,
    re.VERBOSE,
)

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Word:
    """One distinct word (by exact surface form) of a text or a pair of texts."""

    text: str  # the word as written
    # for each part (0 = text, 1 = pair or target) all character spans of this word, in order
    spans: tuple[tuple[Span, ...], ...]
    side: str = ""  # of a preference: the answer that it stands in; words of both answers are two words


def split(text: str) -> list[Span]:
    """Segments that tile the text: words and, between them, white space and single symbols."""
    return [found.span() for found in _SEGMENT.finditer(text.translate(_KINDS))]


def lower_words(text: str) -> list[str]:
    """The words of a text in lower case, punctuation included, white space left out."""
    found = (text[start:end].lower() for start, end in split(text))
    return [one for one in found if not one.isspace()]


def read(parts: Sequence[str], sides: Sequence[str] = ()) -> "Splitting":
    """Split the parts of one example into words, and map tokens to them."""
    return Splitting(parts, sides)


def sides_of(example: Example) -> tuple[str, ...]:
    """The answer that each part of a preference stands in; none of other examples."""
    return tuple(side for side, _ in example.content.placed) if isinstance(example.content, Preference) else ()


def words_of(example: Example) -> tuple[Word, ...]:
    """The words of an example; in a conversation, the last one stands for the markup of the chat template."""
    found = words(example.parts, sides_of(example))
    return (*found, Word(TEMPLATE, tuple(() for _ in example.parts))) if example.turns is not None else found


def within(found: Sequence[Word], spans: Sequence[Span]) -> tuple[Word, ...]:
    """The same words with their places inside one stretch of each part only."""
    return tuple(
        replace(word, spans=tuple(map(_inside, word.spans, spans))) if word.spans and spans else word for word in found
    )


def _inside(places: Sequence[Span], stretch: Span) -> tuple[Span, ...]:
    first, last = stretch
    return tuple((max(start, first), min(end, last)) for start, end in places if start < last and end > first)


def words(parts: Sequence[str], sides: Sequence[str] = ()) -> tuple[Word, ...]:
    """Distinct segments of all parts, white space included, in order of first occurrence."""
    # The order depends only on the texts (and on `RULES`): an index stores positions in this tuple.
    return Splitting(parts, sides).words


class Splitting:
    """The words of one example, split once."""

    # All parts are concatenated on one axis of characters, so that one pass also handles pairs.
    # parts: the raw texts
    # spans: the segments of each part
    # numbers: position of each distinct word, with its side, in `words`
    # owners: for each part the word of every segment

    def __init__(self, parts: Sequence[str], sides: Sequence[str] = ()) -> None:
        self.parts = tuple(parts)
        self.spans = [split(part) for part in self.parts]
        self.numbers: dict[tuple[str, str], int] = {}
        numbers = self.numbers
        self.owners = [
            [numbers.setdefault((side, part[start:end]), len(numbers)) for start, end in spans]
            for part, spans, side in zip(self.parts, self.spans, sides or [""] * len(self.parts), strict=True)
        ]

    @cached_property
    def words(self) -> tuple[Word, ...]:
        """The distinct words of all parts in order of first occurrence."""
        spans: list[list[list[Span]]] = [[[] for _ in self.parts] for _ in self.numbers]
        for part, (owners, found) in enumerate(zip(self.owners, self.spans, strict=True)):
            for owner, span in zip(owners, found, strict=True):
                spans[owner][part].append(span)
        return tuple(
            Word(text, tuple(tuple(of_part) for of_part in of_word), side)
            for (side, text), of_word in zip(self.numbers, spans, strict=True)
        )

    def assign(self, offsets: Int[np.ndarray, "t 2"], part_of: Int[np.ndarray, " t"]) -> Int[np.ndarray, " t"]:
        """Assign every token to exactly one word."""
        # White space at both ends of a token's span is dropped first, since many tokenizers include the space before a
        # word. Then the token is assigned to the segment (not white space) with the largest overlap, the first of
        # equals. A token that is only white space is assigned to that white space.
        return assign_together([self], offsets, part_of)


def assign_together(
    splittings: Sequence[Splitting], offsets: Int[np.ndarray, "t 2"], part_of: Int[np.ndarray, " t"]
) -> Int[np.ndarray, " t"]:
    """Assign the tokens of many examples to their words in one call; see `Splitting.assign`."""
    part = np.asarray(part_of, dtype=np.int64)
    spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    table = _Table(splittings)
    _check(spans, part, len(table.sizes))
    owner = np.full(part.size, -1, dtype=np.int64)
    if not len(table.owner):
        return owner
    spans = np.clip(spans, 0, table.sizes[part, None])  # a special token reads the last part's size; it is ignored
    tokens = np.flatnonzero((part >= 0) & (spans[:, 0] < spans[:, 1]))
    spans = spans[tokens] + table.bases[part[tokens], None]
    owner[tokens] = table.owner[table.largest_overlap(spans[:, 0], spans[:, 1])]
    return owner


def _check(spans: _Ints, part: _Ints, parts: int) -> None:
    if len(spans) != part.size:
        raise InputError(
            f"{len(spans)} token offsets came with {part.size} part numbers; pass one part number for each token"
        )
    wrong = part[(part < -1) | (part >= parts)]
    if wrong.size:
        raise InputError(
            f"a token refers to part {wrong[0]}, but the example has {parts} part(s), numbered from 0; "
            "use -1 for special tokens"
        )


class _Table:
    """Segments as arrays over the concatenated characters of all parts of some examples."""

    # sizes: characters of each part
    # start of each part
    # start of segment 0, 1, ..., and at last the end of the text
    # the word of each segment
    # blank: whether a segment is white space

    def __init__(self, splittings: Sequence[Splitting]) -> None:
        sizes = np.array([len(part) for one in splittings for part in one.parts], dtype=np.int64)
        self.sizes, self.bases = sizes, np.cumsum(sizes) - sizes
        starts = [start for one in splittings for spans in one.spans for start, _ in spans]
        counts = [len(spans) for one in splittings for spans in one.spans]
        edges = np.append(np.array(starts, dtype=np.int64) + np.repeat(self.bases, counts), sizes.sum())
        numbers = chain.from_iterable(chain.from_iterable(one.owners for one in splittings))
        owner = np.fromiter(numbers, dtype=np.int64, count=len(starts))
        words = np.array([len(one.numbers) for one in splittings], dtype=np.int64)
        own = np.repeat(np.cumsum(words) - words, [sum(map(len, one.owners)) for one in splittings])
        blank_word = np.array([text.isspace() for one in splittings for _, text in one.numbers], dtype=np.bool_)
        blank = blank_word[owner + own]
        self.edges, self.owner, self.blank = edges, owner, blank
        lengths = np.diff(edges)
        self.segment = np.repeat(np.arange(len(lengths)), lengths)
        at = np.arange(len(self.segment))
        hidden = blank[self.segment]
        # For each character the next and (one past) the last that is not white space: strips spans in one look-up.
        self.next_solid = np.minimum.accumulate(np.where(hidden, sys.maxsize, at)[::-1])[::-1]
        self.last_solid = np.maximum.accumulate(np.where(hidden, 0, at + 1))

    def largest_overlap(self, start: _Ints, end: _Ints) -> _Ints:
        # The segment of each non-empty span [start, end).
        solid_start, solid_end = self.next_solid[start], self.last_solid[end - 1]
        solid = solid_start < solid_end
        start, end = np.where(solid, solid_start, start), np.where(solid, solid_end, end)
        first, last = self.segment[start], self.segment[end - 1]
        many = np.flatnonzero(first != last)
        if many.size:
            first[many] = self._among_many(start[many], end[many], first[many], last[many])
        return first

    def _among_many(self, start: _Ints, end: _Ints, first: _Ints, last: _Ints) -> _Ints:
        # The same for spans that begin in segment `first` and end in another, `last`.
        counts = last - first + 1
        heads = np.cumsum(counts) - counts
        span = np.repeat(np.arange(len(counts)), counts)
        segment = np.arange(len(span)) - heads[span] + first[span]
        overlap = np.minimum(self.edges[segment + 1], end[span]) - np.maximum(self.edges[segment], start[span])
        overlap[self.blank[segment]] = 0
        best = np.flatnonzero(overlap == np.maximum.reduceat(overlap, heads)[span])
        _, where = np.unique(span[best], return_index=True)  # the first of equals
        return segment[best[where]]
