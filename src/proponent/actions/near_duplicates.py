"""Near-duplicates among many texts, without comparing all pairs: MinHash and bands of it, then exact similarities.

Broder, On the resemblance and containment of documents (1997); Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, chapter 3. Texts are compared by their words, lower case, without white space and punctuation.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.words import split

LEAST = 0.8
"""Similarity from which two texts are near-duplicates: the shared part of their words, rare words weighing more."""

LEAST_ASKED, MOST_APART = 0.7, 1.25
"""Similarity from which two prompts ask the same, and the weight of what differs, in words that only one text has."""

DECISIVE = 1e9
"""Weight of numbers and symbols where only one of two prompts has them."""

LEAST_IN_ORDER = 0.5
"""They also share this part of their pairs of adjacent words: "5 feet in inches" is not "5 inches in feet"."""

BANDS, DEPTH = 20, 4
"""Texts are compared if one of BANDS groups of DEPTH minima is equal: at an overlap of .7 in 99.6 % of the cases."""

NEIGHBOURS = 16
"""In a group of texts with equal minima, each text is compared with this many that follow it."""

BLOCK = 2**16
"""Pairs that are compared at once."""


@dataclass(frozen=True)
class Bags:
    """The words of n texts in order, as numbers."""

    vocabulary: list[str]
    numbers: Int[np.ndarray, " m"]
    indptr: Int[np.ndarray, " b"]  # the words of text i are numbers[indptr[i]:indptr[i + 1]]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Bags":
        """Split texts."""
        known: dict[str, int] = {}
        numbers: list[int] = []
        ends = [0]
        for text in texts:
            same = unicodedata.normalize("NFKC", text)
            words = (same[start:end].casefold() for start, end in split(same))
            numbers += [known.setdefault(word, len(known)) for word in words if _tells(word)]
            ends.append(len(numbers))
        return cls(list(known), np.asarray(numbers, dtype=np.int64), np.asarray(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def followed_by(self, other: "Bags") -> "Bags":
        """The words of each text and then those of the same text of another set."""
        known = {word: number for number, word in enumerate(self.vocabulary)}
        moved = np.asarray([known.setdefault(word, len(known)) for word in other.vocabulary], dtype=np.int64)
        numbers = np.concatenate([self.numbers, moved[other.numbers]])
        order = np.argsort(np.concatenate([self.owners, other.owners]), kind="stable")
        return Bags(list(known), numbers[order], self.indptr + other.indptr)

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """Number of words of each text."""
        return np.diff(self.indptr)

    @cached_property
    def distinct(self) -> "Sets":
        """The distinct words of each text."""
        return Sets.of(self.owners, self.numbers, len(self), len(self.vocabulary))

    @property
    def adjacent(self) -> "Sets":
        """The distinct pairs of adjacent words of each text; a text of one word has that word twice."""
        return self._pairs[0]

    def spelled(self, pair: int) -> str:
        """A pair of adjacent words."""
        first, second = divmod(int(self._pairs[1][pair]), len(self.vocabulary))
        return f"{self.vocabulary[first]} {self.vocabulary[second]}"

    @cached_property
    def _pairs(self) -> tuple["Sets", Int[np.ndarray, " k"]]:
        owners, width = self.owners, max(1, len(self.vocabulary))
        inside = np.flatnonzero(owners[1:] == owners[:-1])
        single = np.flatnonzero(self.lengths == 1)
        alone = self.numbers[self.indptr[single]]
        pairs = np.concatenate([self.numbers[inside] * width + self.numbers[inside + 1], alone * width + alone])
        keys, numbers = np.unique(pairs, return_inverse=True)
        return Sets.of(np.concatenate([owners[inside], single]), numbers, len(self), len(keys)), keys

    @property
    def owners(self) -> Int[np.ndarray, " m"]:
        """The text of each word."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @cached_property
    def spells(self) -> Bool[np.ndarray, " v"]:
        """Whether each word has letters; numbers and symbols have none."""
        return np.asarray([any(one.isalpha() for one in word) for word in self.vocabulary], dtype=np.bool_)

    @cached_property
    def weights(self) -> Float[np.ndarray, " v"]:
        """Weight of each word: log(1 + texts / texts that hold it)."""
        held = np.bincount(self.distinct.numbers, minlength=len(self.vocabulary))
        return np.log1p(len(self) / np.maximum(held, 1))


def _tells(word: str) -> bool:
    """Whether a segment is a word, a number or a symbol that changes the meaning of a text."""
    return any(one.isalnum() or one in "+-*/^%" or unicodedata.category(one) in {"Sm", "Sc", "So"} for one in word)


@dataclass(frozen=True)
class Sets:
    """A set of numbers for each of n texts."""

    numbers: Int[np.ndarray, " m"]
    indptr: Int[np.ndarray, " b"]
    count: int  # the numbers are below it

    @classmethod
    def of(cls, owners: Int[np.ndarray, " k"], numbers: Int[np.ndarray, " k"], n: int, count: int) -> "Sets":
        """The distinct numbers of each owner."""
        width = max(1, count)
        keys = np.unique(owners * width + numbers)
        ends = np.concatenate([[0], np.cumsum(np.bincount(keys // width, minlength=n))])
        return cls(keys % width, ends.astype(np.int64), count)

    def of_some(self, texts: Int[np.ndarray, " p"]) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
        """Places within `texts`, and numbers, of all members of their sets."""
        sizes = np.diff(self.indptr)[texts]
        owners = np.repeat(np.arange(len(texts)), sizes)
        begins = np.repeat(self.indptr[texts] - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
        return owners, self.numbers[np.arange(len(owners)) + begins]


def similarity(
    sets: Sets,
    first: Int[np.ndarray, " p"],
    second: Int[np.ndarray, " p"],
    weights: Float[np.ndarray, " v"] | None = None,
    others: Sets | None = None,
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Weighted Jaccard similarity of pairs of sets, and the weight that only one of both has; `others`: of `second`."""
    alike, apart = np.zeros(len(first)), np.zeros(len(first))
    weight = np.ones(max(1, sets.count)) if weights is None else weights
    for start in range(0, len(first), BLOCK):
        cut = slice(start, start + BLOCK)
        own, other = sets.of_some(first[cut]), (others or sets).of_some(second[cut])
        keys = np.concatenate([one * len(weight) + numbers for one, numbers in (own, other)])
        met, counts = np.unique(keys, return_counts=True)
        pairs, each = met // len(weight), weight[met % len(weight)]
        size = len(first[cut])
        shared = np.bincount(pairs, each * (counts > 1), size)
        apart[cut] = np.bincount(pairs, each * (counts == 1), size)
        alike[cut] = shared / np.maximum(shared + apart[cut], 1e-12)
    return alike, apart


@dataclass(frozen=True)
class NearPairs:
    """Pairs of near-duplicates: every duplicate with an earlier text, not every pair of a group."""

    first: Int[np.ndarray, " p"]  # smaller numbers
    second: Int[np.ndarray, " p"]
    similarity: Float[np.ndarray, " p"]  # 1 for texts with the same words in the same order
    crowded: int = 0  # texts in groups so large that only some of their pairs were compared

    def where(self, kept: Bool[np.ndarray, " p"]) -> "NearPairs":
        """Some of the pairs."""
        return NearPairs(self.first[kept], self.second[kept], self.similarity[kept], self.crowded)

    def groups(self, n: int) -> Int[np.ndarray, " n"]:
        """The smallest text that each of n texts is connected with: itself, without near-duplicates."""
        root = np.arange(n)
        first, second = self.first, self.second
        while True:  # smallest numbers spread along the pairs, and jump along what is known
            least = np.minimum(root[first], root[second])
            spread = root.copy()
            np.minimum.at(spread, first, least)
            np.minimum.at(spread, second, least)
            spread = spread[spread]
            if np.array_equal(spread, root):
                return root
            root = spread


def near_pairs(bags: Bags, least: float = LEAST) -> NearPairs:
    """Find near-duplicates, never of empty texts."""
    return _near(bags, least, np.inf)


def same_questions(bags: Bags) -> NearPairs:
    """Find prompts that ask the same: no number or symbol differs, and no more than about one rare word."""
    return _near(bags, LEAST_ASKED, MOST_APART * np.log1p(len(bags)))


def _near(bags: Bags, least: float, apart: float) -> NearPairs:
    """Near-duplicates; `apart`: the most weight of the words that one of both texts lacks."""
    earliest = _same(bags)
    copies = np.flatnonzero((earliest != np.arange(len(bags))) & (bags.lengths > 0))
    single = np.flatnonzero((earliest == np.arange(len(bags))) & (bags.lengths > 0))
    first, second, crowded = _candidates(bags, single)
    alike, _ = similarity(bags.distinct, first, second, bags.weights)
    _, differing = similarity(bags.distinct, first, second, np.where(bags.spells, bags.weights, DECISIVE))
    in_order, _ = similarity(bags.adjacent, first, second)
    kept = (alike >= least) & (differing <= apart) & (in_order >= LEAST_IN_ORDER)
    return NearPairs(
        np.concatenate([earliest[copies], first[kept]]),
        np.concatenate([copies, second[kept]]),
        np.concatenate([np.ones(len(copies)), np.minimum(alike[kept], np.nextafter(1.0, 0.0))]),
        crowded,
    )


def _same(bags: Bags) -> Int[np.ndarray, " n"]:
    """The first text with the same words in the same order, for each text."""
    known: dict[bytes, int] = {}
    ends: list[int] = bags.indptr.tolist()
    return np.asarray(
        [known.setdefault(bags.numbers[ends[row] : ends[row + 1]].tobytes(), row) for row in range(len(bags))],
        dtype=np.int64,
    )


def _candidates(bags: Bags, texts: Int[np.ndarray, " k"]) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"], int]:
    """Pairs of texts that share a band of minima, smaller numbers first, and the texts in crowded bands."""
    minima = _minima(bags, texts)
    found: list[np.ndarray] = []
    crowded: Bool[np.ndarray, " k"] = np.zeros(len(texts), dtype=np.bool_)
    for band in range(BANDS):
        key = np.zeros(len(texts), dtype=np.uint64)
        for row in minima[band * DEPTH : (band + 1) * DEPTH]:
            key = _mixed(key ^ row)
        order = np.argsort(key, kind="stable")
        for step in range(1, NEIGHBOURS + 1):
            same = key[order[step:]] == key[order[:-step]]
            if not same.any():
                break
            found.append(order[:-step][same] * len(texts) + order[step:][same])
        beyond, before = order[NEIGHBOURS + 1 :], order[: -NEIGHBOURS - 1]
        crowded[beyond[key[beyond] == key[before]]] = True
    keys = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *found]))
    return texts[keys // max(1, len(texts))], texts[keys % max(1, len(texts))], int(crowded.sum())


def _minima(bags: Bags, texts: Int[np.ndarray, " k"]) -> np.ndarray:
    """The smallest hash of each text's words and adjacent words, by hash function; [BANDS * DEPTH, k]."""
    draw = np.random.default_rng(0)
    factors = draw.integers(2**63, size=(BANDS * DEPTH, 2), dtype=np.uint64) | np.uint64(1)
    found = np.full((BANDS * DEPTH, len(texts)), np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, len(texts), 4096):
        some = texts[start : start + 4096]
        owners, words = bags.distinct.of_some(some)
        places, pairs = bags.adjacent.of_some(some)
        keys = np.concatenate([words.astype(np.uint64), pairs.astype(np.uint64) + np.uint64(2**40)])
        order = np.argsort(np.concatenate([owners, places]), kind="stable")
        begins = np.searchsorted(np.concatenate([owners, places])[order], np.arange(len(some)))
        hashed = _mixed(keys[order])
        for row, (factor, offset) in enumerate(factors):
            found[row, start : start + len(some)] = np.minimum.reduceat(hashed * factor + offset, begins)
    return found


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spread the bits of 64-bit numbers (the finalizer of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
