"""Which words occur with which labels: z-statistics of words, and of pairs of neighbouring words.

z(x, y) = (p(y|x) - p0(y)) / sqrt(p0(y) (1 - p0(y)) / n_x), with n_x the examples that hold the word x and p0(y) the
share of the label y (Gardner and others 2021, arXiv 2104.08646). With example weights p and p0 are weighted, and n_x
stays the plain count, so that the scale of the weights does not matter.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from proponent.data import Examples, read
from proponent.errors import DataError, InputError
from proponent.types import Example
from proponent.words import lower_words

_MOST_CLASSES = 100


class TooRareError(InputError):
    """No word is frequent enough to be counted."""


@dataclass(frozen=True)
class WordTable:
    """Which examples hold which words, and their labels: all that z-statistics need."""

    names: tuple[tuple[str, str], ...]  # column and word (or pair of words) of each row of the table
    rows: Int[np.ndarray, " m"]  # example of each occurrence; a word counts once per example
    words: Int[np.ndarray, " m"]  # its word
    given: Int[np.ndarray, " n"]  # class of each example
    classes: tuple[str, ...]
    ngram: int = 1

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def counts(self) -> Int[np.ndarray, " x"]:
        """Examples that hold each word."""
        return np.bincount(self.words, minlength=len(self))

    def sums(self, weights: Float[np.ndarray, " n"] | None = None) -> Float[np.ndarray, "x l"]:
        """Sum of the weights of the examples that hold each word, by label."""
        cells = self.words * len(self.classes) + self.given[self.rows]
        each = None if weights is None else weights[self.rows]
        total = np.bincount(cells, weights=each, minlength=len(self) * len(self.classes))
        return total.reshape(len(self), len(self.classes)).astype(np.float64)

    def prior(self, weights: Float[np.ndarray, " n"] | None = None) -> Float[np.ndarray, " l"]:
        """Share of each label in the (weighted) data."""
        total = np.bincount(self.given, weights=weights, minlength=len(self.classes)).astype(np.float64)
        return total / total.sum()

    def shares(self, weights: Float[np.ndarray, " n"] | None = None) -> Float[np.ndarray, "x l"]:
        """p(y|x): share of each label among the examples that hold a word; NaN for a word without weight."""
        sums = self.sums(weights)
        total = sums.sum(1, keepdims=True)
        return np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)

    def z(self, weights: Float[np.ndarray, " n"] | None = None) -> Float[np.ndarray, "x l"]:
        """z-statistic of every word and label; NaN where a word or a label has no weight."""
        prior = self.prior(weights)
        spread = np.sqrt(np.where((prior > 0) & (prior < 1), prior * (1 - prior), np.nan))
        return (self.shares(weights) - prior) * np.sqrt(self.counts)[:, None] / spread

    def shuffled(self, draws: int, seed: int) -> Iterator["WordTable"]:
        """The table with shuffled labels, several times: the line of chance of these very words."""
        generator = np.random.default_rng(seed)
        for _ in range(draws):
            yield replace(self, given=generator.permutation(self.given))


def word_label_z(
    data: object,
    min_count: int = 20,
    *,
    ngram: int = 1,
    columns: Sequence[str] | None = None,
    known: WordTable | None = None,
) -> WordTable:
    """Count which words occur with which labels; `.z(weights)` of the result are the z-statistics.

    Words are those of each text in lower case, punctuation included, white space left out; those of a second text (or
    of every column in `columns`) are counted apart.

    Args:
        data: the examples, with labels.
        min_count: least number of examples that hold a counted word.
        ngram: 1 for words, 2 for pairs of neighbouring words.
        columns: columns whose words are counted; None for the texts.
        known: the words and classes to look up, in place of those of the data.

    Returns:
        The table of words.

    Raises:
        InputError: an argument is out of range.
        TooRareError: no word is in enough examples.
    """
    if ngram not in {1, 2}:
        raise InputError(f"ngram {ngram}: words (1) and pairs of neighbouring words (2) are counted")
    if min_count < 1:
        raise InputError(f"--min-count {min_count}: must be at least 1")
    examples = read(data)
    ngram = ngram if known is None else known.ngram
    classes, given = _labels(examples, known)
    found = [_types(parts, ngram) for parts in _parts(examples, columns)]
    if known is None:
        counts = Counter(name for types in found for name in types)
        names = tuple(sorted(name for name, count in counts.items() if count >= min_count))
    else:
        names = known.names
    if not names:
        what = "word" if ngram == 1 else "pair of words"
        raise TooRareError(f"no {what} is in {min_count} rows of {examples.name}: lower --min-count")
    numbers = {name: number for number, name in enumerate(names)}
    pairs = [(row, numbers[name]) for row, types in enumerate(found) for name in sorted(types) if name in numbers]
    rows, words = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
    return WordTable(names, rows, words, given, classes, ngram)


def _labels(examples: Examples, known: WordTable | None) -> tuple[tuple[str, ...], Int[np.ndarray, " n"]]:
    """The classes, and the class of every row."""
    labels = examples.labels
    missing = [str(example.row) for example, label in zip(examples, labels, strict=True) if label is None]
    if len(missing) == len(labels):
        raise DataError(
            f"{examples.name} has no labels, and lexical bias is about words and labels: name the column with "
            "--label-column"
        )
    if missing:
        raise DataError(
            f"{len(missing)} rows of {examples.name} have no label (rows {', '.join(missing[:5])}): fill them in or "
            "drop them"
        )
    said = [str(label) for label in labels]
    classes = tuple(sorted(set(said))) if known is None else known.classes
    if any(isinstance(label, float) for label in labels) or len(classes) > _MOST_CLASSES:
        raise DataError(
            f"{examples.name} has {len(set(said))} different labels: lexical bias needs classes, not values"
        )
    if len(classes) < 2:
        raise DataError(
            f"{examples.name} has only one label ({said[0]}): words can tell labels apart only if there are two"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    strange = sorted(set(said) - numbers.keys())
    if strange:
        raise DataError(
            f"{examples.name} has the label {strange[0]!r}, which the training data does not have (it has "
            f"{', '.join(classes)}): give held-out data with the same labels"
        )
    return classes, np.asarray([numbers[one] for one in said], dtype=np.int64)


def _parts(examples: Examples, columns: Sequence[str] | None) -> Iterator[list[tuple[str, str]]]:
    """The texts of every row, each with the name of its column."""
    if columns is None:
        for example in examples:
            yield _named(example, examples)
        return
    for name in columns:
        if name not in examples.column_names:
            raise DataError(f"{examples.name}: no column {name!r}; it has {', '.join(examples.column_names[:20])}")
    held = [examples.column(name) for name in columns]
    for row in range(len(examples)):
        texts = [values[row] for values in held]
        yield [(name, "" if text is None else str(text)) for name, text in zip(columns, texts, strict=True)]


def _named(example: Example, examples: Examples) -> list[tuple[str, str]]:
    if example.turns is not None:
        return [(turn.role, turn.text) for turn in example.turns]
    names = examples.columns
    second = names.text_pair if example.text_pair is not None else names.target
    first, *rest = (str(part) for part in example.parts)
    return [(names.text, first), *((second, text) for text in rest)]


def _types(parts: Sequence[tuple[str, str]], ngram: int) -> set[tuple[str, str]]:
    """Distinct words, or pairs of neighbouring words, of one example, by column."""
    found: set[tuple[str, str]] = set()
    for column, text in parts:
        words = lower_words(text)
        joined = words if ngram == 1 else [f"{one} {other}" for one, other in pairwise(words)]
        found.update((column, word) for word in joined)
    return found
