"""Lexical bias: words that give the label away, example weights that remove it, and whether a model still leans on it.

z(x, y) = (p(y|x) - p0(y)) / sqrt(p0(y) (1 - p0(y)) / n_x), with n_x the examples that hold the word x and p0(y) the
share of the label y (Gardner and others 2021, arXiv 2104.08646). With example weights p and p0 are weighted, and n_x
stays the plain count. Weights that balance every word, and a permutation test of a model, after Serrano, Dodge and
Smith 2023 (arXiv 2306.02190), whose objective and code are not public: both are written from the formulas here.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from proponent.data import Examples, read
from proponent.errors import DataError, InputError
from proponent.progress import track
from proponent.types import Example
from proponent.words import split

CHANCE = 1.96
"""|z| above which 5 % of the pairs of word and label lie by chance."""

LEAST_SHARE = 0.25
"""Effective sample size, as a share of the examples, below which the weights are reported as uneven."""

_MOST_CLASSES = 100


@dataclass(frozen=True)
class Weighting:
    """How example weights are fitted: Adam on v, with weights n * softmax(v)."""

    beta: float = 1e-3  # penalty of uneven weights: factor of the mean of (w - 1)^2
    steps: int = 400
    rate: float = 0.05

    def check(self) -> None:
        """Refuse settings that cannot work."""
        if not (np.isfinite(self.beta) and self.beta >= 0):
            raise InputError(f"--beta {self.beta}: must be a number of at least 0, such as 0.001")
        if self.steps < 1:
            raise InputError(f"--steps {self.steps}: must be at least 1")


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

    def shuffled(self, draws: int, seed: int) -> Int[np.ndarray, " draws"]:
        """How many |z| exceed 1.96 when the labels are shuffled: the line of chance of these very words."""
        generator = np.random.default_rng(seed)
        made = [replace(self, given=generator.permutation(self.given)) for _ in range(draws)]
        return np.asarray([flagged(one.z()) for one in made], dtype=np.int64)


def flagged(z: Float[np.ndarray, "x l"]) -> int:
    """Number of pairs of word and label whose |z| exceeds 1.96."""
    return int((np.abs(z) > CHANCE).sum())


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
    of every column in `columns`) are counted apart. With `known`, its words and classes are looked up in other data.
    """
    if ngram not in {1, 2}:
        raise InputError(f"ngram {ngram}: words (1) and pairs of neighbouring words (2) are counted")
    if min_count < 1:
        raise InputError(f"--min-count {min_count}: must be at least 1")
    examples = read(data)
    classes, given = _labels(examples, known)
    found = [_types(parts, ngram) for parts in _parts(examples, columns)]
    if known is None:
        counts = Counter(name for types in found for name in types)
        names = tuple(sorted(name for name, count in counts.items() if count >= min_count))
    else:
        names = known.names
    if not names:
        what = "word" if ngram == 1 else "pair of words"
        raise InputError(f"no {what} is in {min_count} rows of {examples.name}: lower --min-count")
    numbers = {name: number for number, name in enumerate(names)}
    pairs = [(row, numbers[name]) for row, types in enumerate(found) for name in sorted(types) if name in numbers]
    rows, words = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
    return WordTable(names, rows, words, given, classes, ngram)


def reweight(table: WordTable, settings: Weighting = Weighting(), *, quiet: bool = True) -> Float[np.ndarray, " n"]:
    """Fit one weight per example, at least 0 and 1 in the mean, so that no word tells the label.

    Minimises mean z^2 + beta * mean (w - 1)^2 by Adam on v, with w = n * softmax(v). The share of each label is kept: a
    word in all examples, whose z is taken against the shares of the plain data, is counted as one more word.
    """
    settings.check()
    size = len(table.given)
    v, mean, square = np.zeros(size), np.zeros(size), np.zeros(size)
    every = _with_all(table)
    prior = table.prior()
    label = "fitting example weights"
    for step in track(range(1, settings.steps + 1), total=settings.steps, label=label, unit="steps", quiet=quiet):
        w = _softmax(v)
        by_weight = _slope(every, w, prior, settings.beta)
        slope = w * (by_weight - (w @ by_weight) / size)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        v -= settings.rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    w = _softmax(v)
    if not np.isfinite(w).all() or effective_size(w) < max(2.0, 0.01 * size):
        raise InputError(
            f"the weights collapsed: {int((w > 0.01).sum())} of {size} rows carry nearly all of them, the others are "
            "at their bound 0: raise --beta, or --min-count, so that fewer words are balanced"
        )
    return w


def _softmax(v: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    raised = np.exp(v - v.max())
    return len(v) * raised / raised.sum()


def _with_all(table: WordTable) -> WordTable:
    """The table with one more word that every example holds."""
    size = len(table.given)
    rows = np.concatenate([table.rows, np.arange(size)])
    words = np.concatenate([table.words, np.full(size, len(table))])
    return replace(table, names=(*table.names, ("", "")), rows=rows, words=words)


def _slope(
    table: WordTable, w: Float[np.ndarray, " n"], plain: Float[np.ndarray, " l"], beta: float
) -> Float[np.ndarray, " n"]:
    """Derivative of the objective by every weight; the last word of the table is that of all examples."""
    prior = np.clip(table.prior(w), 1e-6, 1 - 1e-6)
    target = np.repeat(prior[None], len(table), axis=0)
    target[-1] = plain
    sums, root = table.sums(w), np.sqrt(table.counts)[:, None]
    total = np.maximum(sums.sum(1, keepdims=True), 1e-12)
    shares, variance = sums / total, target * (1 - target)
    z = (shares - target) * root / np.sqrt(variance)
    by_z = 2 * z / z.size
    by_share = by_z * root / np.sqrt(variance)
    by_sum = (by_share - (by_share * shares).sum(1, keepdims=True)) / total
    by_prior = (-by_share - by_z * z * (1 - 2 * target) / (2 * variance))[:-1].sum(0)  # the last target is fixed
    made = np.bincount(table.rows, weights=by_sum[table.words, table.given[table.rows]], minlength=len(w))
    # the prior divides by the sum of the weights, which is fixed at n
    return made + by_prior[table.given] / len(w) + 2 * beta * (w - 1) / len(w)


def effective_size(weights: Float[np.ndarray, " n"]) -> float:
    """Effective sample size: (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / (weights**2).sum())


@dataclass(frozen=True)
class PermutationResult:
    """Result of a permutation test."""

    observed: float  # mean excess probability of the label of a strong word, on examples that hold it, by gold label
    null_mean: float  # its mean when the labels of the words are permuted
    p: float  # (1 + permutations that reach the observed value) / (1 + permutations)
    draws: int
    seed: int
    words: int  # strong words in the test
    by_label: tuple[float, ...]  # the observed value by label of the words; NaN for a label without a strong word


def strongest(table: WordTable, most: int) -> Int[np.ndarray, " x"]:
    """The label that each word speaks for, if it is among the `most` strongest of that label; -1 for other words."""
    z = np.nan_to_num(table.z())
    own = np.where(z.max(1) > CHANCE, z.argmax(1), -1)
    for label in range(len(table.classes)):
        members = np.flatnonzero(own == label)
        own[members[np.argsort(-z[members, label], kind="stable")[most:]]] = -1
    return own


def permutation_test(
    predictions: Float[np.ndarray, "n l"],
    features: WordTable,
    labels: Int[np.ndarray, " x"],
    draws: int = 1000,
    seed: int = 0,
) -> PermutationResult:
    """Test whether a model prefers the labels that single words speak for, on held-out data.

    `features` are the words of the held-out data, `labels` the label that each speaks for (`strongest`; -1 for none).
    The statistic is the mean probability of that label on examples that hold the word, minus the mean probability over
    all examples with the same gold label. The null permutes the labels of the words.
    """
    if predictions.shape != (len(features.given), len(features.classes)) or not np.isfinite(predictions).all():
        raise InputError(f"predictions of {predictions.shape} do not fit {len(features.given)} rows, or are not finite")
    excess = predictions.astype(np.float64)
    for gold in np.unique(features.given):
        own = features.given == gold
        excess[own] -= excess[own].mean(0)
    used = np.flatnonzero((labels >= 0) & (features.counts > 0))
    speaks = labels[used]
    if len(np.unique(speaks)) < 2:
        raise InputError(
            f"{len(used)} strong words in the held-out data speak for {len(np.unique(speaks))} label(s), and a "
            "permutation needs two: lower --min-count, or give more held-out rows"
        )
    held = excess[features.rows]
    by_word = np.stack([np.bincount(features.words, column, len(features)) for column in held.T], axis=1)[used]
    counts = features.counts[used]
    places = np.arange(len(used))
    generator = np.random.default_rng(seed)
    drawn = np.stack([generator.permutation(speaks) for _ in range(draws)])
    null = by_word[places, drawn].sum(1) / counts.sum()
    observed = float(by_word[places, speaks].sum() / counts.sum())
    own = by_word[places, speaks]
    groups = [speaks == label for label in range(len(features.classes))]
    by_label = tuple(float(own[one].sum() / counts[one].sum()) if one.any() else float("nan") for one in groups)
    p = (1 + int((null >= observed - 1e-12).sum())) / (1 + draws)
    return PermutationResult(observed, float(null.mean()), p, draws, seed, len(used), by_label)


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
        raise DataError(f"{examples.name} has {len(set(said))} different labels: lexical bias needs classes, not values")
    if len(classes) < 2:
        raise DataError(f"{examples.name} has only one label ({classes[0]}): words can tell labels apart only if there are two")
    numbers = {name: number for number, name in enumerate(classes)}
    strange = sorted(set(said) - numbers.keys())
    if strange:
        raise DataError(
            f"{examples.name} has the label {strange[0]!r}, which the data does not have (it has {', '.join(classes)}): "
            "give held-out data with the same labels"
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
    for texts in zip(*(examples.column(name) for name in columns), strict=True):
        yield [(name, "" if text is None else str(text)) for name, text in zip(columns, texts, strict=True)]


def _named(example: Example, examples: Examples) -> list[tuple[str, str]]:
    if example.turns is not None:
        return [(turn.role, turn.text) for turn in example.turns]
    names = examples.columns
    second = names.text_pair if example.text_pair is not None else names.target
    return list(zip((names.text, second), example.parts, strict=False))


def _types(parts: Sequence[tuple[str, str]], ngram: int) -> set[tuple[str, str]]:
    """Distinct words, or pairs of neighbouring words, of one example, by column."""
    found: set[tuple[str, str]] = set()
    for column, text in parts:
        words = [text[start:end].lower() for start, end in split(text)]
        words = [word for word in words if not word.isspace()]
        joined = words if ngram == 1 else [f"{one} {other}" for one, other in zip(words, words[1:], strict=False)]
        found.update((column, word) for word in joined)
    return found
