"""The page of lexical bias: words and labels with their z-statistics, weights, permutation test, words by use."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from rich.console import Console

from proponent.views.axes import BOTTOM, LEFT, RIGHT, TOP, Scale, Tick
from proponent.views.data_frames import data_frame
from proponent.views.page import Page
from proponent.views.tables import print_table
from proponent.views.text_marks import clip, percent, signed

CHANCE = 1.96
"""|z| above which 5 % of the pairs of word and label lie by chance."""

SMALL = 1e-3
"""Excess probability below which a test with a small p finds a lean of no consequence."""

LEANS = "the model leans on biased words"

LISTED = 200
"""Words that the page lists and draws; the JSON and the table of pandas have all."""


@dataclass(frozen=True, slots=True)
class WordLabel:
    """One word and one label."""

    column: Annotated[str, "column of the data that the word stands in"]
    word: Annotated[str, "the word in lower case, or two neighbouring words"]
    label: Annotated[str, "the label"]
    n: Annotated[int, "examples that hold the word"]
    share: Annotated[float, "share of the label among them"]
    z: Annotated[float, "z-statistic of that share in the data"]
    z_weighted: Annotated[float | None, "the same with example weights; None without weights"] = None
    heldout_n: Annotated[int | None, "held-out examples that hold the word; None without held-out data"] = None
    z_heldout: Annotated[float | None, "z-statistic in the held-out data; None if no example there holds it"] = None


@dataclass(frozen=True, slots=True)
class Shuffled:
    """The same words with shuffled labels, several times."""

    mean: Annotated[float, "mean number of flagged pairs"]
    least: Annotated[int, "least number of flagged pairs"]
    most: Annotated[int, "largest number of flagged pairs"]
    largest: Annotated[float, "largest |z| of all"]


@dataclass(frozen=True, slots=True)
class BiasSummary:
    """How many pairs of word and label exceed the line of chance in one data set."""

    units: Annotated[str, "what is counted: words, or pairs of words"]
    where: Annotated[str, "data set: the data, the weighted data, held-out data"]
    pairs: Annotated[int, "pairs of word and label"]
    flagged: Annotated[int, "pairs whose |z| exceeds 1.96"]
    mean: Annotated[float, "mean |z|"]
    largest: Annotated[float, "largest |z|"]
    shuffled: Annotated[Shuffled | None, "the same with shuffled labels; None for weighted data"] = None

    @property
    def chance(self) -> float:
        """Pairs that exceed 1.96 by chance: 5 %."""
        return 0.05 * self.pairs

    @property
    def said(self) -> str:
        """The number of flagged pairs and its share."""
        return f"{self.flagged:,} of {self.pairs:,} ({percent(float(self.flagged), float(self.pairs or 1))})"

    @property
    def by_chance(self) -> str:
        """The line of chance: 5 %, and what shuffled labels give."""
        if self.shuffled is None:
            return f"{self.chance:,.0f}"
        mean, least, most = self.shuffled.mean, self.shuffled.least, self.shuffled.most
        return f"{self.chance:,.0f}; shuffled {mean:,.0f} ({least:,} to {most:,})"

    @property
    def beyond(self) -> bool:
        """Whether more pairs are flagged than with any shuffled labels, or one is stronger than all of those."""
        if self.shuffled is None:
            return self.flagged > self.chance
        return self.flagged > self.shuffled.most or self.largest > self.shuffled.largest


@dataclass(frozen=True, slots=True)
class WeightSummary:
    """The example weights."""

    source: Annotated[str, "where they come from: fitted, or a column of the data"]
    effective_size: Annotated[float, "effective sample size, (sum w)^2 / sum w^2"]
    share: Annotated[float, "the same as a share of the examples"]
    least: Annotated[float, "smallest weight; the mean is 1"]
    most: Annotated[float, "largest weight"]
    labels: Annotated[tuple[tuple[str, float, float], ...], "label, its share in the data, its weighted share"]


@dataclass(frozen=True, slots=True)
class BiasTest:
    """The permutation test of a model on held-out data."""

    run: Annotated[str, "the model"]
    accuracy: Annotated[float, "its accuracy on the held-out data"]
    observed: Annotated[float, "mean excess probability of a strong word's own label, compared within gold labels"]
    null_mean: Annotated[float, "its mean when the labels of the words are permuted"]
    p: Annotated[float, "share of permutations that reach it"]
    draws: Annotated[int, "permutations"]
    seed: Annotated[int, "their seed"]
    words: Annotated[int, "strong words"]
    by_label: Annotated[tuple[tuple[str, float | None], ...], "label, and the excess for its words; None without words"]

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        leans = "no lean on biased words is shown"
        if self.p < 0.05:
            small = abs(self.observed) < SMALL
            leans = f"predictions follow biased words, by less than {SMALL:g}" if small else LEANS
        return (
            f"{leans}: p = {self.p:.3g} ({self.draws:,} permutations, seed {self.seed}); the label of a strong word "
            f"gets {signed(self.observed)} more probability on the rows that hold the word (permuted "
            f"{signed(self.null_mean)})"
        )


@dataclass(frozen=True, slots=True)
class WordUse:
    """One word of training examples, by its part in the answers to some queries."""

    word: Annotated[str, "the word in lower case"]
    use: Annotated[float, "sum of |share| over the answers' proponents and opponents"]
    signed: Annotated[float, "sum of its shares"]
    answers: Annotated[int, "answers in which it has a share"]
    z: Annotated[float | None, "its z of largest |z|; None for a word that is too rare for one"]
    label: Annotated[str | None, "the label of that z"]

    @property
    def biased(self) -> bool:
        """Whether it is a biased word."""
        return self.z is not None and abs(self.z) > CHANCE


@dataclass(frozen=True, slots=True)
class AnswerBias:
    """How much of one answer stands on biased words."""

    id: Annotated[str, "id of the query"]
    text: Annotated[str, "its text"]
    label: Annotated[str, "the explained label"]
    share: Annotated[float, "part of the sum of |share| that biased words have"]
    signed: Annotated[float, "sum of the shares of biased words, in the unit of the score"]
    words: Annotated[float, "part of the answer's distinct words that are biased: the share if all words counted alike"]
    strongest: Annotated[tuple[str, ...], "biased words of the answer, largest |share| first"]


@dataclass(frozen=True, slots=True)
class BiasEvidence:
    """An example that holds a strong word."""

    column: Annotated[str, "column of the word"]
    word: Annotated[str, "the word"]
    id: Annotated[str, "id of the example"]
    row: Annotated[int, "0-based row of the source"]
    text: Annotated[str, "its texts"]
    label: Annotated[str, "its label"]


@dataclass(frozen=True, slots=True)
class BiasDot:
    """A point of the plot."""

    x: Annotated[float, "place from the left"]
    y: Annotated[float, "place from the top, in the data"]
    weighted: Annotated[float | None, "place from the top with weights; None without weights"]
    biased: Annotated[bool, "whether it exceeds the line of chance in the data"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BiasReport(Page):
    """Words that give the label away."""

    template: ClassVar[str] = "bias_fragment.html.j2"

    data: Annotated[str, "name of the data set"]
    examples: Annotated[int, "its examples"]
    labels: Annotated[tuple[str, ...], "its classes"]
    min_count: Annotated[int, "least examples that hold a counted word"]
    summaries: Annotated[tuple[BiasSummary, ...], "words and pairs of words, data, weighted and held-out"]
    rows: Annotated[tuple[WordLabel, ...], "words and labels, largest |z| first"]
    pairs: Annotated[tuple[WordLabel, ...], "pairs of neighbouring words and labels, largest |z| first"] = ()
    weights: Annotated[WeightSummary | None, "the example weights"] = None
    test: Annotated[BiasTest | None, "the permutation test of a model"] = None
    use: Annotated[tuple[WordUse, ...], "words by their part in answers, most used first"] = ()
    answers: Annotated[tuple[AnswerBias, ...], "how much of each answer stands on biased words"] = ()
    evidence: Annotated[tuple[BiasEvidence, ...], "examples of the strongest words"] = ()
    notes: Annotated[tuple[str, ...], "what a reader must know"] = ()

    @property
    def headline(self) -> str:
        """Title of the page."""
        return "Words that give the label away"

    @property
    def verdict(self) -> str:
        """What the data shows, in one sentence."""
        first = self.summaries[0]
        if not first.beyond:
            return f"no more words tell the label than by chance: {first.said}, by chance {first.by_chance}"
        return f"{first.said} pairs of word and label have |z| above 1.96, by chance {first.by_chance}"

    @property
    def listed(self) -> tuple[WordLabel, ...]:
        """The rows that the page lists: the strongest label of each word."""
        seen: set[tuple[str, str]] = set()
        kept = [one for one in self.rows if (one.column, one.word) not in seen and not seen.add((one.column, one.word))]
        return tuple(kept[:LISTED])

    @property
    def unlisted(self) -> int:
        """Words that the page leaves out."""
        return len({(one.column, one.word) for one in self.rows}) - len(self.listed)

    @property
    def dots(self) -> tuple[BiasDot, ...]:
        """The listed words in the plot: examples that hold the word, and z."""
        right, up = self._right, self._up
        return tuple(
            BiasDot(
                right.at(math.log(one.n)),
                up.at(one.z),
                None if one.z_weighted is None else up.at(one.z_weighted),
                abs(one.z) > CHANCE,
            )
            for one in self.listed
        )

    @property
    def ticks(self) -> tuple[Tick, ...]:
        """Ticks of z."""
        up = self._up
        return tuple(Tick(up.at(value), f"{value:.3g}") for value in (up.low, -CHANCE, 0.0, CHANCE, up.high))

    @property
    def places(self) -> tuple[Tick, ...]:
        """Ticks of the counts: the smallest and the largest."""
        right, counts = self._right, {one.n for one in self.listed}
        return tuple(Tick(right.at(math.log(n)), f"{n:,}") for n in sorted({min(counts), max(counts)}))

    @property
    def _right(self) -> Scale:
        return Scale.of((math.log(one.n) for one in self.listed), LEFT, RIGHT)

    @property
    def _up(self) -> Scale:
        both = [value for one in self.listed for value in (one.z, one.z_weighted or 0.0)]
        span = max(2 * CHANCE, *map(abs, both))
        return Scale(-span, span, BOTTOM, TOP)

    def to_pandas(self) -> Any:
        """One row per word (or pair of words) and label.

        Returns:
            A pandas DataFrame with the fields of a row of the page, and `units`: words or pairs of words.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        names = tuple(WordLabel.__dataclass_fields__)
        both = (("words", self.rows), ("pairs of words", self.pairs))
        rows = [(units, *(getattr(one, name) for name in names)) for units, some in both for one in some]
        return data_frame(rows, ["units", *names])

    def __repr__(self) -> str:
        lines = [self.verdict, *([self.test.verdict] if self.test is not None else [])]
        lines += [f"{one.word} ({one.column}) -> {one.label}: z {one.z:.1f}, {one.n:,} rows" for one in self.listed[:8]]
        return "\n  ".join((clip(self.headline, 100), *(clip(line, 98) for line in lines)))


def print_bias(page: BiasReport, console: Console, limit: int) -> None:
    """Print the page in the terminal."""
    rows = [_cells(one) for one in page.listed[:limit]]
    columns = ("word", "column", "label", "rows", "share", "z", "z weighted", "z held-out")
    print_table(console, page.headline, columns, rows, [page.verdict])
    counted = [(one.units, one.where, one.said, one.by_chance, f"{one.mean:.3f}") for one in page.summaries]
    names = ("counted", "in", "|z| above 1.96", "by chance", "mean |z|")
    print_table(console, "Against chance", names, counted, _weight_lines(page.weights))
    if page.test is not None:
        title, verdict = f"Does {page.test.run} lean on them?", page.test.verdict
        print_table(console, title, ("label", "excess probability"), _by_label(page.test), [verdict])
    if page.use:
        shown = [(one.word, f"{one.use:.3g}", signed(one.signed), f"{one.answers:,}", _spoken(one)) for one in page.use]
        print_table(console, "Words by use", ("word", "use", "sum", "answers", "biased"), shown[:limit])
        parts = [(clip(one.text, 48), one.label, percent(one.share), percent(one.words), ", ".join(one.strongest))
                 for one in page.answers[:limit]]  # fmt: skip
        print_table(console, "Answers", ("query", "label", "on biased words", "of its words", "such as"), parts)
    for note in page.notes:
        print_table_note(console, note)


def print_table_note(console: Console, note: str) -> None:
    """Print one note."""
    from rich.text import Text

    from proponent.views.text_marks import plain

    console.print(Text(plain(note), style="dim"))


def _cells(one: WordLabel) -> tuple[str, ...]:
    weighted = "-" if one.z_weighted is None else f"{one.z_weighted:.2f}"
    held = "-" if one.z_heldout is None else f"{one.z_heldout:.2f}"
    return clip(one.word, 24), one.column, one.label, f"{one.n:,}", f"{one.share:.3f}", f"{one.z:.2f}", weighted, held


def _weight_lines(weights: WeightSummary | None) -> list[str]:
    if weights is None:
        return []
    balance = ", ".join(f"{name} {before:.3f} to {after:.3f}" for name, before, after in weights.labels)
    return [
        f"weights ({weights.source}): effective sample size {weights.effective_size:,.0f} ({weights.share:.0%} of the "
        f"rows), {weights.least:.3g} to {weights.most:.3g}; shares of the labels: {balance}"
    ]


def _by_label(test: BiasTest) -> list[tuple[str, str]]:
    return [(name, "-" if value is None else signed(value)) for name, value in test.by_label]


def _spoken(one: WordUse) -> str:
    if one.z is None:
        return "too rare"
    return f"{one.label} z {one.z:.1f}" if one.biased else "no"
