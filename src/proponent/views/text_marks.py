"""Shared by all views: marked segments of texts, visible glyphs for invisible characters, signed numbers.

Pure functions on texts and numbers. The page and the terminal both use them, so that they agree on every word, sign and
hidden character.
"""

import itertools
import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from proponent.plain_text import INVISIBLE, glyph, visible

Mark = tuple[int, int, float]
"""Character offsets [start, end) and their signed share of the score."""

STEPS = 10
"""Strengths of a mark, 1 (weak) to 10 (strongest); 0 is a share of exactly zero."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of visible text, or one invisible character as its glyph.

    Attributes:
        text: the displayed text.
        name: code point and Unicode name of a displayed invisible character; empty for plain text.
    """

    text: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class TextSegment:
    """A piece of text under one mark, or without a mark.

    Attributes:
        pieces: the displayed pieces, in order.
        share: signed share of the score; None outside of marks.
        first: the first position of this share in the text (a word may occur several times).
        plain: the original text.
    """

    pieces: tuple[Piece, ...]
    share: float | None = None
    first: bool = True
    plain: str = ""


def pieces(text: str) -> tuple[Piece, ...]:
    """Split a text into visible pieces and the glyphs of invisible characters."""
    found: list[Piece] = []
    at = 0
    for match in INVISIBLE.finditer(text):
        if match.start() > at:
            found.append(Piece(text[at : match.start()]))
        found.append(_ghost(match.group()))
        at = match.end()
    if at < len(text):
        found.append(Piece(text[at:]))
    return tuple(found)


def _ghost(character: str) -> Piece:
    if character == "\r\n":
        return Piece("\n")
    return Piece(glyph(character), f"U+{ord(character):04X} {unicodedata.name(character, 'control character')}")


def segments(text: str, marks: Sequence[Mark] = ()) -> tuple[TextSegment, ...]:
    """Split a text at the edges of its marks; where marks overlap, their shares are added."""
    clipped = [(max(0, start), min(len(text), end), share) for start, end, share in marks]
    inside = sorted(mark for mark in clipped if mark[0] < mark[1])
    edges = sorted({0, len(text), *(edge for mark in inside for edge in mark[:2])})
    found: list[TextSegment] = []
    seen: set[tuple[tuple[float, ...], str]] = set()
    active: list[Mark] = []
    upcoming = 0
    for start, end in itertools.pairwise(edges):
        active = [mark for mark in active if mark[1] > start]
        while upcoming < len(inside) and inside[upcoming][0] <= start:
            active.append(inside[upcoming])
            upcoming += 1
        shares = tuple(mark[2] for mark in active)
        total = math.fsum(shares) if shares else None
        key = (shares, text[start:end].casefold())
        found.append(TextSegment(pieces(text[start:end]), total, key not in seen, text[start:end]))
        seen.add(key)
    return tuple(found)


def escaped(spelled: str) -> str:
    """JSON whose strings have escapes in place of invisible characters; their values are the same."""
    return INVISIBLE.sub(lambda found: json.dumps(found[0])[1:-1], spelled)


def plain(text: str) -> str:
    """One line of visible text: glyphs for invisible characters, single spaces for white space."""
    return " ".join(visible(text).split())


def columns(text: str) -> int:
    """Width of a text in terminal columns."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def clip(text: str, width: int) -> str:
    """Shorten one line to a number of terminal columns; a cut is shown as "…"."""
    line = plain(text)
    if columns(line) <= width:
        return line
    kept: list[str] = []
    left = width - 1
    for character in line:
        left -= columns(character)
        if left < 0:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def signed(value: float) -> str:
    """A number with its sign, short enough for a table."""
    size = abs(value)
    if size == 0:
        return "0"
    if not 1e-4 <= size < 1e6:
        return format(value, "+.2e")
    return format(value, "+,.0f" if size >= 100 else "+.1f" if size >= 10 else "+.3f" if size >= 0.01 else "+.2g")


def sign_word(value: float) -> str:
    """The sign in the user's words."""
    return "helped" if value > 0 else "hurt" if value < 0 else "no effect"


def score_in_words(value: float) -> str:
    """A score or a share with its sign in words."""
    return f"{sign_word(value)} {signed(value)}"


def percent(part: float, whole: float = 1.0) -> str:
    """A part of a whole in percent."""
    if whole == 0:
        return "-"
    value = 100 * part / whole
    if 0 < abs(value) < 1:
        return "<1%" if value > 0 else "-<1%"
    return f"{value:.0f}%"


def step(share: float, largest: float) -> int:
    """Strength of a mark relative to the largest share on the page."""
    if not share or not largest:
        return 0
    return max(1, min(STEPS, round(STEPS * abs(share) / largest)))
