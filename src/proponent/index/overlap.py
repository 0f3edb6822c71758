"""Verbatim overlap: the longest run of words that a training example shares with an answer.

Words are compared without case; white space and punctuation between them do not count, and no run crosses from one
text into another. The search is exact: the ranks of all runs of 1, 2, 4, ... words are computed by prefix doubling
(Karp, Miller and Rosenberg 1972), and the longest shared length is composed of them.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from proponent.views.overlap import Overlap
from proponent.words import split


class Answer:
    """The words of an answer, split once and compared with many training examples."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._runs = [[word for word, _, _ in _words(text)] for text in texts]
        self.words = sum(map(len, self._runs))

    def overlap(self, texts: Sequence[str]) -> Overlap | None:
        """The longest run that texts share with the answer, the first of equals; None for an answer without words."""
        if not self.words:
            return None
        theirs = [list(_words(text)) for text in texts]
        numbers: dict[str, int] = {}
        mine, owner = _sequence(self._runs, numbers, -1)
        other, places = _sequence([[word for word, _, _ in one] for one in theirs], numbers, -1 - len(mine))
        length, at, there = longest_run(mine, other)
        if not length:
            return Overlap(0, self.words, 0.0, 0, "")
        part, first = places[there]
        begin, end = theirs[part][first][1], theirs[part][first + length - 1][2]
        start = sum(map(len, self._runs[: owner[at][0]])) + owner[at][1]
        return Overlap(length, self.words, length / self.words, start, texts[part][begin:end])


def longest_run(mine: Int[np.ndarray, " m"], other: Int[np.ndarray, " n"]) -> tuple[int, int, int]:
    """Length of the longest run of two sequences, and its first places in both."""
    ranks, split_at = [np.unique(np.concatenate([mine, other]), return_inverse=True)[1]], len(mine)
    if not _shared(ranks[0], split_at, 1):
        return 0, 0, 0
    while _shared(doubled := _joined(ranks[-1], ranks[-1], 1 << (len(ranks) - 1)), split_at, 1 << len(ranks)):
        ranks.append(doubled)
    length, found = 1 << (len(ranks) - 1), ranks[-1]
    for power in reversed(range(len(ranks) - 1)):
        longer = _joined(found, ranks[power], length)
        if _shared(longer, split_at, length + (1 << power)):
            length, found = length + (1 << power), longer
    ours, their = found[: max(0, split_at - length + 1)], found[split_at:]
    common = np.isin(ours, their)
    at = int(np.flatnonzero(common)[0])
    return length, at, int(np.flatnonzero(their == ours[at])[0])


def _joined(first: Int[np.ndarray, " a"], second: Int[np.ndarray, " b"], length: int) -> Int[np.ndarray, " c"]:
    """Ranks of the runs that consist of a run of `length` words and a second one behind it."""
    count = len(second) - length
    if count <= 0:
        return np.zeros(0, dtype=np.int64)
    keys = first[:count].astype(np.int64) * (int(second.max()) + 1) + second[length:]
    return np.unique(keys, return_inverse=True)[1]


def _shared(ranks: Int[np.ndarray, " r"], split_at: int, length: int) -> bool:
    """Whether a run of that length stands on both sides."""
    before = ranks[: max(0, split_at - length + 1)]
    return bool(np.isin(before, ranks[split_at:]).any())


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """Words of a text without case, with their places."""
    for start, end in split(text):
        if any(map(str.isalnum, text[start:end])):
            yield text[start:end].casefold(), start, end


def _sequence(
    runs: Sequence[Sequence[str]], numbers: dict[str, int], border: int
) -> tuple[Int[np.ndarray, " m"], list[tuple[int, int]]]:
    """The numbers of the words of some texts, with a number of its own behind each text; and where each stands."""
    found: list[int] = []
    places: list[tuple[int, int]] = []
    for part, run in enumerate(runs):
        for at, word in enumerate(run):
            found.append(numbers.setdefault(word, len(numbers)))
            places.append((part, at))
        found.append(border - len(found))
        places.append((part, len(run)))
    return np.asarray(found, dtype=np.int64), places
