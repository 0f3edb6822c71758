"""The examples of an index as sets of words, so that near-duplicates of one are found in a few milliseconds."""

import unicodedata
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from proponent.data.untyped import compute
from proponent.data.whole import TEXTS, ExampleColumns

BLOCK = 8192
"""Examples that are split at a time: what is in memory on the way."""


class WordSets:
    """Distinct words of every example: lower case, between white space, without the signs around them."""

    def __init__(self, whole: ExampleColumns) -> None:
        self._numbers: dict[str, int] = {}
        found = [self._block(whole, start) for start in range(0, len(whole), BLOCK)]
        sizes = np.concatenate([sizes for _, sizes in found]) if found else np.zeros(0, dtype=np.int64)
        self.sizes: Int[np.ndarray, " n"] = sizes
        self._words: Int[np.ndarray, " m"] = np.concatenate([np.zeros(0, dtype=np.int32), *(one for one, _ in found)])
        self._begins = np.concatenate([[0], np.cumsum(sizes)])
        self._count = len(self._numbers)
        self._numbers.clear()  # only needed to number them

    def similarity(self, place: int) -> Float[np.ndarray, " n"]:
        """Compare one example with all."""
        mine = np.zeros(self._count, dtype=np.uint8)
        mine[self._words[self._begins[place] : self._begins[place + 1]]] = 1
        shared, some = np.zeros(len(self.sizes), dtype=np.int32), np.flatnonzero(self.sizes)
        if len(some):
            shared[some] = np.add.reduceat(mine[self._words], self._begins[some], dtype=np.int32)
        return shared / np.maximum(self.sizes + self.sizes[place] - shared, 1)

    def _block(self, whole: ExampleColumns, start: int) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " b"]]:
        """Distinct words of some examples, one after another, and how many each has."""
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
        """Number words; -1 for what is no word."""
        coded = words.dictionary_encode()
        bare = [_bare(one) for one in coded.dictionary.to_pylist()]
        table = np.asarray([self._numbers.setdefault(one, len(self._numbers)) if one else -1 for one in bare] or [-1])
        return table[coded.indices.to_numpy()]


def _bare(word: str) -> str:
    """A word without the signs around it."""
    start, stop = 0, len(word)
    while start < stop and unicodedata.category(word[start])[0] not in "LN":
        start += 1
    while stop > start and unicodedata.category(word[stop - 1])[0] not in "LN":
        stop -= 1
    return word[start:stop]
