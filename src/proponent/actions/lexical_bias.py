"""Lexical bias: words that give the label away, example weights that remove it, and whether a model still leans on it.

The z-statistics are those of `word_labels`. Weights that balance every word, and a permutation test of a model, follow
Serrano, Dodge and Smith 2023 (arXiv 2306.02190), whose objective and code are not public: both are written from the
formulas here.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from proponent.actions.biased_words import BiasedWords
from proponent.actions.word_labels import TooRareError, WordTable, word_label_z
from proponent.actions.word_weights import DEFAULT, Weighting, effective_size, reweight
from proponent.data import Examples, Part, read, write_parts
from proponent.data.rewriting import KINDS
from proponent.errors import InputError
from proponent.progress import track
from proponent.store import Store
from proponent.views.bias import (
    CHANCE,
    AnswerBias,
    BiasEvidence,
    BiasReport,
    BiasSummary,
    BiasTest,
    Shuffled,
    WeightSummary,
    WordLabel,
    WordUse,
)

if TYPE_CHECKING:
    from proponent.index import Index
    from proponent.models import Run

LEAST_SHARE = 0.25
"""Effective sample size, as a share of the examples, below which the weights are reported as uneven."""

SHUFFLES = 99
"""Times that the labels are shuffled for the line of chance."""

WEIGHT_COLUMN = "weight"

NONE = "none"


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

    The statistic is the mean probability of the label that a word speaks for, on the examples that hold the word, minus
    the mean probability over all examples with the same gold label. The null permutes the labels of the words.

    Args:
        predictions: class probabilities of the held-out examples.
        features: their words and gold labels.
        labels: the label that each word speaks for (`strongest`); -1 for words that are not tested.
        draws: permutations.
        seed: their seed.

    Returns:
        The statistic, its null and p.

    Raises:
        InputError: the predictions do not fit the examples, or the words speak for one label only.
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


def report(store: Store) -> BiasReport:
    """Report for the table of actions: the words of the examples in an index."""
    examples = read([store.example(place) for place in np.flatnonzero(store.alive).tolist()], allow_empty=True)
    least = max(3, min(20, len(examples) // 50))
    found = lexical_bias(examples, min_count=least, weighting=None, quiet=True)  # a page is made in seconds
    return replace(found.report, data=store.folder.name)


@dataclass(frozen=True)
class LexicalBias:
    """Result of `lexical_bias`."""

    report: BiasReport  # the page
    words: WordTable  # which examples hold which words
    weights: Float[np.ndarray, " n"]  # one weight per example, at least 0 and 1 in the mean


def lexical_bias(
    data: object,
    run: "Run | None" = None,
    heldout: object = None,
    *,
    index: "Index | None" = None,
    queries: object = None,
    columns: Sequence[str] | None = None,
    min_count: int = 20,
    weighting: Weighting | None = DEFAULT,
    most: int = 50,
    draws: int = 1000,
    k: int = 10,
    seed: int = 0,
    quiet: bool = False,
) -> LexicalBias:
    """Find words that give the label away, fit example weights that remove it, and test a run trained on the data.

    Weights that the data has (a column named in `Columns`) are kept and judged; fitted ones are all 1 where no more
    words tell the label than with shuffled labels. Held-out data are never weighted: their z shows what weights of the
    training set do not change.

    Args:
        data: the training set.
        run: a run trained on it, which is tested on the held-out data.
        heldout: data with the same columns and labels that nothing was trained on.
        index: an index of the data; with `queries`, words are also ranked by their part in the answers.
        queries: what the index explains.
        columns: columns whose words are counted; None for the texts.
        min_count: least number of examples that hold a counted word.
        weighting: how weights are fitted; None fits none.
        most: strongest words of each label in the test.
        draws: permutations of the test.
        k: proponents and opponents of each answer that count.
        seed: seed of shuffled labels and permutations.
        quiet: no progress on stderr.

    Returns:
        The page, the words and the weights.

    Raises:
        InputError: the run has no held-out data to be tested on, or no word is frequent enough.
    """
    examples = read(data)
    other = None if heldout is None else read(heldout)
    tables = _tables(examples, min_count, columns)
    words = tables[0]
    before = [_summary(one, "data", None, seed, quiet=quiet) for one in tables]
    weights, source = _weights_of(examples, words, weighting, fits=before[0].beyond, quiet=quiet)
    held = [None if other is None else word_label_z(other, columns=columns, known=one) for one in tables]
    summaries: list[BiasSummary] = []
    for table, plain, own in zip(tables, before, held, strict=True):
        weighed = [] if source == NONE else [_summary(table, "data, weighted", weights, None, quiet=quiet)]
        summaries += [plain, *weighed]
        summaries += [] if own is None else [_summary(own, "held-out data, not weighted", None, seed, quiet=quiet)]
    shown = None if source == NONE else weights
    rows = [_rows(table, shown, own) for table, own in zip(tables, held, strict=True)]
    test = None
    if run is not None:
        if other is None or held[0] is None:
            raise InputError(f"the test of {run.path} needs data that it was not trained on: give held-out data")
        test = _tested(run, other, words, held[0], most, draws, seed, quiet=quiet)
    use, answers = _use(index, queries, examples, words, k)
    made = BiasReport(
        data=examples.name,
        examples=len(examples),
        labels=words.classes,
        min_count=min_count,
        summaries=tuple(summaries),
        rows=rows[0],
        pairs=rows[1] if len(rows) > 1 else (),
        weights=None if shown is None else _described(words, weights, source),
        test=test,
        use=use,
        answers=answers,
        evidence=_evidence(examples, words),
        notes=tuple(_notes(words, weights, pairs=len(tables) > 1, held=other is not None)),
    )
    return LexicalBias(made, words, weights)


def _tables(examples: Examples, min_count: int, columns: Sequence[str] | None) -> list[WordTable]:
    """The table of words and, unless all are too rare, that of pairs of neighbouring words."""
    words = word_label_z(examples, min_count, columns=columns)
    try:
        return [words, word_label_z(examples, min_count, ngram=2, columns=columns)]
    except TooRareError:
        return [words]


def _weights_of(
    examples: Examples, words: WordTable, weighting: Weighting | None, *, fits: bool, quiet: bool
) -> tuple[Float[np.ndarray, " n"], str]:
    """The weights of the data, else fitted ones, and where they come from."""
    given = examples.weights
    if given is not None:
        return given / given.mean(), f"column {examples.columns.weight}"
    if weighting is None:
        return np.ones(len(examples)), NONE
    if fits:
        return reweight(words, weighting, quiet=quiet), "fitted"
    return np.ones(len(examples)), "all 1: there is nothing to remove"


def _tested(
    run: "Run", other: Examples, words: WordTable, held: WordTable, most: int, draws: int, seed: int, *, quiet: bool
) -> BiasTest:
    """Test a run on held-out data for the words that are strongest in its training set."""
    from proponent.actions.run_predictions import class_probabilities  # loads torch

    probabilities = class_probabilities(run, other, words.classes, quiet=quiet)
    found = permutation_test(probabilities, held, strongest(words, most), draws, seed)
    return BiasTest(
        run=str(run.path),
        accuracy=float((probabilities.argmax(1) == held.given).mean()),
        observed=found.observed,
        null_mean=found.null_mean,
        p=found.p,
        draws=draws,
        seed=seed,
        words=found.words,
        by_label=tuple((name, _number(value)) for name, value in zip(held.classes, found.by_label, strict=True)),
    )


def _use(
    index: "Index | None", queries: object, examples: Examples, words: WordTable, k: int
) -> tuple[tuple[WordUse, ...], tuple[AnswerBias, ...]]:
    """Words by use, and how much of each answer stands on biased words; nothing without an index."""
    if index is None:
        return (), ()
    asked = read(queries)
    explained = list(index.explain_many(list(asked), k=k, baselines=False))
    judge = BiasedWords(words, examples.columns)
    return judge.by_use(explained), tuple(map(judge.judge, explained))


def _summary(
    table: WordTable, where: str, weights: Float[np.ndarray, " n"] | None, seed: int | None, *, quiet: bool
) -> BiasSummary:
    sizes = np.abs(table.z(weights))
    sizes = sizes[np.isfinite(sizes)]
    shuffled = None
    if seed is not None:
        draws = track(
            table.shuffled(SHUFFLES, seed), total=SHUFFLES, label="shuffling labels", unit="times", quiet=quiet
        )
        drawn = [np.nan_to_num(np.abs(one.z())) for one in draws]
        counts = [int((one > CHANCE).sum()) for one in drawn]
        largest = max(float(one.max()) for one in drawn)
        shuffled = Shuffled(float(np.mean(counts)), min(counts), max(counts), largest)
    units = "words" if table.ngram == 1 else "pairs of words"
    largest = float(sizes.max(initial=0.0))
    mean = float(sizes.mean()) if len(sizes) else 0.0
    return BiasSummary(units, where, len(sizes), int((sizes > CHANCE).sum()), mean, largest, shuffled)


def _rows(table: WordTable, weights: Float[np.ndarray, " n"] | None, held: WordTable | None) -> tuple[WordLabel, ...]:
    z, weighted, shares = table.z(), table.z(weights), table.shares()
    other = None if held is None else held.z()
    flat = np.nan_to_num(z).ravel()
    order = np.lexsort((flat < 0, -np.round(np.abs(flat), 9)))  # of two labels, first the one that the word speaks for
    rows: list[WordLabel] = []
    for cell in order.tolist():
        word, label = divmod(int(cell), len(table.classes))
        column, text = table.names[word]
        seen = None if held is None else int(held.counts[word])
        own: dict[str, Any] = {
            "n": int(table.counts[word]),
            "share": float(shares[word, label]),
            "z": float(z[word, label]),
            "z_weighted": None if weights is None else _number(float(weighted[word, label])),
            "z_heldout": _number(float(other[word, label])) if other is not None and seen else None,
        }
        rows.append(WordLabel(column, text, table.classes[label], heldout_n=seen, **own))
    return tuple(rows)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _described(table: WordTable, weights: Float[np.ndarray, " n"], source: str) -> WeightSummary:
    size = effective_size(weights)
    labels = zip(table.classes, table.prior().tolist(), table.prior(weights).tolist(), strict=True)
    return WeightSummary(
        source, size, size / len(weights), float(weights.min()), float(weights.max()), tuple(labels)
    )  # fmt: skip


def _evidence(examples: Examples, table: WordTable, words: int = 8, each: int = 2) -> tuple[BiasEvidence, ...]:
    """Examples that hold the strongest words, with the label that each speaks for."""
    z = np.nan_to_num(table.z())
    found: list[BiasEvidence] = []
    for word in np.argsort(-z.max(1), kind="stable")[:words].tolist():
        label = int(z[word].argmax())
        holding = table.rows[table.words == word]
        for row in holding[table.given[holding] == label][:each].tolist():
            one, (column, held) = examples[int(row)], table.names[int(word)]
            found.append(BiasEvidence(column, held, one.id, one.row, " | ".join(one.parts), table.classes[label]))
    return tuple(found)


def _notes(table: WordTable, weights: Float[np.ndarray, " n"], *, pairs: bool, held: bool) -> Iterable[str]:
    alone = int((table.shares().max(1) == 1).sum())
    if alone:
        yield f"{alone} words occur with one label only: no weights can balance them"
    share = effective_size(weights) / len(weights)
    if share < LEAST_SHARE:
        yield f"the weights are uneven: the effective sample is {share:.0%} of the rows; a larger --beta evens them"
    if not pairs:
        yield "no pair of neighbouring words is frequent enough to be counted"
    if not held:
        yield "no held-out data: whether these words tell the label there is not known (--heldout FILE)"
    yield "a z-statistic shows association in this data; 5 % of all pairs of word and label exceed 1.96 by chance"


def write_weighted(
    examples: Examples, weights: Float[np.ndarray, " n"], out: Path, name: str = WEIGHT_COLUMN, *, guard: bool = False
) -> int:
    """Write a copy of a data set with the weights as one more column; return how many cells a guard changed."""
    refuse_target(examples, out, name)
    rows = [example.row for example in examples]
    changes: dict[int, object] = dict(zip(rows, weights.tolist(), strict=True))
    return write_parts(out, [Part(examples, rows, name, changes)], out.suffix.lower(), guard=guard)


def refuse_target(examples: Examples, out: Path, name: str = WEIGHT_COLUMN) -> None:
    """Refuse a file or a column to which weights cannot be written, before they are fitted."""
    if out.suffix.lower() not in KINDS:
        raise InputError(f"{out} ends in {out.suffix or 'nothing'}: choose .csv, .tsv, .jsonl, .json or .parquet")
    if name in examples.column_names:
        raise InputError(
            f"{examples.name} has a column {name!r} already: give the new one another name with --weight-name"
        )
    if out.exists():
        raise InputError(f"{out} exists already and is not replaced: choose another name")
