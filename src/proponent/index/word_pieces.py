"""The piece that two different words share: "ians" of "politicians" and "amphibians", where that is a token of both."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from proponent.types import Example, Span
from proponent.words import Word

TokenPlace = tuple[int, int, int, int]
"""Part of an example, character offsets [start, end) in it, and id of a token."""

Places = Callable[[Example], Sequence[TokenPlace]]
"""Gives the tokens of an example's texts."""

Part = list[tuple[Span, int]]
"""Places and ids of the tokens of one part, in order."""


class WordPieces:
    """Narrows the places of two different words to the tokens that both have."""

    def __init__(self, query: Sequence[TokenPlace], train: Sequence[TokenPlace]) -> None:
        self._query, self._train = _by_part(query), _by_part(train)

    def narrowed(self, theirs: Word, mine: Word) -> tuple[Word, Word, str | None]:
        """Narrow a word of the query and one of the training example.

        Args:
            theirs: the query's word.
            mine: the training example's word.

        Returns:
            Both words, with the places of what they share, and the shared piece; the same words and None if they are
            equal, if they share no token, or if the shared tokens are all of both.
        """
        if theirs.text.casefold() == mine.text.casefold():
            return theirs, mine, None
        here, there = _tokens(theirs, self._query), _tokens(mine, self._train)
        shared = {number for _, _, number in here} & {number for _, _, number in there}
        if not shared or all(number in shared for _, _, number in (*here, *there)):
            return theirs, mine, None
        query, train = _kept(theirs, here, shared), _kept(mine, there, shared)
        return query, train, _text(mine, train)


def _by_part(places: Sequence[TokenPlace]) -> dict[int, Part]:
    found: dict[int, Part] = {}
    for part, start, end, number in places:
        found.setdefault(part, []).append(((start, end), number))
    return found


def _tokens(word: Word, places: dict[int, Part]) -> list[tuple[int, Span, int]]:
    """Part, place within the word's own span, and id of every token of a word."""
    return [
        (part, (max(start, span[0]), min(end, span[1])), number)
        for part, spans in enumerate(word.spans)
        for span in spans
        for (start, end), number in places.get(part, ())
        if max(start, span[0]) < min(end, span[1])
    ]


def _kept(word: Word, tokens: list[tuple[int, Span, int]], shared: set[int]) -> Word:
    """The word with the places of some of its tokens; tokens that touch are one place."""
    parts: list[list[Span]] = [[] for _ in word.spans]
    for part, (start, end), number in tokens:
        if number in shared:
            before = parts[part][-1] if parts[part] else None
            if before is not None and before[1] == start:
                parts[part][-1] = (before[0], end)
            else:
                parts[part].append((start, end))
    return replace(word, spans=tuple(map(tuple, parts)))


def _text(word: Word, narrowed: Word) -> str | None:
    """The text of the first place of a narrowed word."""
    for whole, kept in zip(word.spans, narrowed.spans, strict=True):
        for start, end in kept[:1]:
            begin = next(first for first, last in whole if first <= start < last)
            return word.text[start - begin : end - begin]
    return None
