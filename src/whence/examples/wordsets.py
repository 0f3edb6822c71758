"""The examples of an index as sets of words, so that near-duplicates of one are found in a few milliseconds."""

# pyarrow ships no types
# pyright: reportMissingTypeStubs=false
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from jaxtyping import Float, Int

from whence.examples.whole import TEXTS, Whole

_pa: Any = pyarrow
_compute: Any = pyarrow.compute


class WordSets:
    """Distinct words of every example (lower case, runs of letters and digits), and the examples of every word.

    Args:
        whole: the examples.
    """

    def __init__(self, whole: Whole) -> None:
        owners, words = _pairs(whole)
        self.sizes: Int[np.ndarray, " n"] = np.bincount(owners, minlength=len(whole))
        self._words = words  # ascending by example, then by word
        self._begins = np.concatenate([[0], np.cumsum(self.sizes)])
        order = np.argsort(words, kind="stable")
        self._owners = owners[order].astype(np.int32)
        self._postings = np.concatenate([[0], np.cumsum(np.bincount(words))])

    def alike(self, place: int) -> Float[np.ndarray, " n"]:
        """Compare one example with all.

        Args:
            place: its number, in data order.

        Returns:
            Shared words divided by all words of both (Jaccard), 0 to 1; 1 for itself.
        """
        shared = np.zeros(len(self.sizes), dtype=np.int64)
        for word in self._words[self._begins[place] : self._begins[place + 1]].tolist():
            shared[self._owners[self._postings[word] : self._postings[word + 1]]] += 1
        return shared / np.maximum(self.sizes + self.sizes[place] - shared, 1)


def _pairs(whole: Whole) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Example and word of every distinct pair, ascending."""
    owners: list[np.ndarray] = []
    words: list[Any] = []
    for name in TEXTS:
        if not whole.has(name):
            continue
        column = _compute.utf8_lower(whole.column(name).fill_null(""))
        pieces = _compute.split_pattern_regex(column, r"[^\pL\pN]+").combine_chunks()
        owners.append(_compute.list_parent_indices(pieces).to_numpy())
        words.append(pieces.flatten())
    coded = _pa.chunked_array(words, _pa.large_string()).combine_chunks().dictionary_encode()
    coded = coded.combine_chunks() if hasattr(coded, "combine_chunks") else coded
    codes, empty = coded.indices.to_numpy().astype(np.int64), coded.dictionary.index("").as_py()
    paired = np.concatenate(owners).astype(np.int64)
    some = codes != empty
    keys = np.unique(paired[some] * len(coded.dictionary) + codes[some])
    return keys // max(1, len(coded.dictionary)), (keys % max(1, len(coded.dictionary))).astype(np.int32)
