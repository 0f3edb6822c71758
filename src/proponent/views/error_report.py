"""What recurs behind many wrong predictions: training examples, words, and sums of scores over groups."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

from proponent.version import __version__
from proponent.views.data_frames import data_frame
from proponent.views.explanation import CAVEAT, Explanation
from proponent.views.group_scores import GroupScores
from proponent.views.page import Page, optional
from proponent.views.text_marks import clip

SHOWN_EXAMPLES = 12
"""Training examples that a report counts the wrong predictions of."""

SHOWN_WORDS = 20
KEPT_WORDS = 8
"""Words that are kept of one wrong prediction, the strongest."""

LEAST = 2
"""Wrong predictions in which an example or a word must appear to recur."""

MOST_GROUPS = 200


@dataclass(frozen=True, slots=True)
class ErrorHits:
    """What is behind one wrong prediction."""

    number: Annotated[int, "number of the row in the test set, from 0"]
    given: Annotated[str, "true class"]
    predicted: Annotated[str, "predicted class"]
    hits: Annotated[tuple[tuple[str, float], ...], "id and score of each proponent, strongest first"]
    words: Annotated[tuple[tuple[str, float], ...], "words of the proponents, and the sum of their shares"]

    @classmethod
    def of(cls, number: int, given: str, answer: Explanation) -> "ErrorHits":
        """The proponents of an explanation of the predicted class, and the words that make their scores."""
        shares: dict[str, float] = defaultdict(float)
        for hit in answer.proponents:
            for pair in replace(hit, content_only=True).shown_words:
                if pair.share > 0:
                    shares[(pair.piece or pair.train_word).casefold()] += pair.share
        kept = sorted(shares.items(), key=lambda one: (-one[1], one[0]))[:KEPT_WORDS]
        hits = tuple((hit.id, hit.score) for hit in answer.proponents)
        return cls(number, given, answer.query.predicted or "", hits, tuple(kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurringExample:
    """A training example among the proponents of several wrong predictions."""

    id: Annotated[str, "id of the training example"]
    row: Annotated[int, "0-based row of the source"]
    text: Annotated[str, "the text, or the first text of a pair"]
    label: Annotated[str | None, "given class"]
    predicted: Annotated[str | None, "class that the model predicts for it"] = None
    source: Annotated[str | None, "value of the source column"] = optional()
    errors: Annotated[int, "wrong predictions among whose proponents it is"] = 0
    total: Annotated[float, "sum of its scores for them"] = 0.0
    mostly: Annotated[str, "the most frequent confusion among them, in words"] = ""


@dataclass(frozen=True, slots=True)
class RecurringWord:
    """A word of training examples that pushed several wrong predictions."""

    word: Annotated[str, "the word, or the piece that texts share, in lower case"]
    errors: Annotated[int, "wrong predictions among whose strongest words it is"]
    share: Annotated[float, "sum of its shares, in the unit of the score"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ErrorReport(Page):
    """What recurs behind the wrong predictions of a test set."""

    template: ClassVar[str] = "errors_fragment.html.j2"

    version: Annotated[str, "version that made it"] = field(default=__version__, metadata={"json": "proponent"})
    method: Annotated[str, "name of the method"]
    rows: Annotated[int, "rows of the test set"]
    judged: Annotated[int, "rows with a true class"]
    wrong: Annotated[int, "wrong predictions"]
    explained: Annotated[int, "wrong predictions that were explained"]
    k: Annotated[int, "proponents of each that count"]
    covered: Annotated[int, "explained wrong predictions with one of the examples among their proponents"]
    examples: Annotated[tuple[RecurringExample, ...], "training examples that recur, the most frequent first"]
    words: Annotated[tuple[RecurringWord, ...], "words that recur, the most frequent first"]
    sums: Annotated[Mapping[str, tuple[GroupScores, ...]], "by column: sums of the scores of all training examples"]
    notes: Annotated[tuple[str, ...], "what a reader must know"] = ()
    caveat: Annotated[str, "caution about the meaning of a score"] = CAVEAT

    @property
    def accuracy(self) -> float | None:
        """Share of the judged rows that are predicted rightly, 0 to 1; None if no row is judged."""
        return 1 - self.wrong / self.judged if self.judged else None

    @property
    def headline(self) -> str:
        """What recurs, in a sentence."""
        of = f"{self.explained:,} wrong prediction{'' if self.explained == 1 else 's'}"
        if not self.examples:
            return f"No training example recurs behind {of}"
        count = len(self.examples)
        verb = "appears" if count == 1 else "appear"
        examples = f"{count:,} training example{'' if count == 1 else 's'}"
        return f"{examples} {verb} behind {self.covered:,} of {of}"

    def to_pandas(self) -> Any:
        """One row per recurring training example: id, row, label, predicted, errors, total, mostly, text.

        Returns:
            A pandas DataFrame.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        names = ("id", "row", "label", "predicted", "errors", "total", "mostly", "text")
        return data_frame([[getattr(one, name) for name in names] for one in self.examples], names)

    def __repr__(self) -> str:
        lines = [f"{one.errors:,}x {one.label} #{one.id}: {one.text}" for one in self.examples[:5]]
        words = ", ".join(f"{one.word} ({one.errors:,})" for one in self.words[:8])
        lines += [f"words: {words}"] if words else []
        return "\n  ".join(clip(line, 98) for line in (f"{self.headline} ({self.method})", *lines))


@dataclass(frozen=True)
class ErrorCounts:
    """The facts of a test set that a report states."""

    method: Annotated[str, "name of the method"]
    rows: Annotated[int, "rows of the test set"]
    judged: Annotated[int, "rows with a true class"]
    wrong: Annotated[int, "wrong predictions"]
    k: Annotated[int, "proponents of each that count"]
    notes: Annotated[tuple[str, ...], "what a reader must know"] = ()


Described = Callable[[str], RecurringExample]
"""A training example by its id, as a report shows it, without its counts."""


def error_report(
    found: Sequence[ErrorHits], counts: ErrorCounts, described: Described, sums: Mapping[str, Sequence[GroupScores]]
) -> ErrorReport:
    """Sum up what is behind some wrong predictions.

    Args:
        found: the proponents and words of each explained one.
        counts: the facts of the test set.
        described: shows a training example.
        sums: of the scores of all training examples, by column.

    Returns:
        The report.
    """
    examples = _examples(found, described)
    chosen = {one.id for one in examples}
    skipped = counts.wrong - len(found)
    left = (
        [f"{len(found):,} of {counts.wrong:,} wrong predictions were explained, each for its predicted class"]
        if skipped
        else []
    )
    return ErrorReport(
        method=counts.method,
        rows=counts.rows,
        judged=counts.judged,
        wrong=counts.wrong,
        explained=len(found),
        k=counts.k,
        covered=sum(any(name in chosen for name, _ in one.hits) for one in found),
        examples=examples,
        words=_words(found),
        sums={
            name: tuple(sorted(some, key=lambda one: (-one.total, one.name))[:MOST_GROUPS])
            for name, some in sums.items()
        },
        notes=(*left, *counts.notes),
    )


def _examples(found: Sequence[ErrorHits], described: Described) -> tuple[RecurringExample, ...]:
    errors, totals = Counter[str](), defaultdict[str, float](float)
    kinds: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for one in found:
        for name, score in one.hits:
            errors[name] += 1
            totals[name] += score
            kinds[name][one.given, one.predicted] += 1
    recurring = [name for name, count in errors.items() if count >= LEAST]
    recurring.sort(key=lambda name: (-errors[name], -totals[name], name))
    made: list[RecurringExample] = []
    for name in recurring[:SHOWN_EXAMPLES]:
        (given, predicted), count = min(kinds[name].items(), key=lambda one: (-one[1], one[0]))
        mostly = f"{predicted} instead of {given}" + ("" if count == errors[name] else f" ({count:,})")
        mostly = "different confusions" if count < LEAST else mostly
        made.append(replace(described(name), errors=errors[name], total=totals[name], mostly=mostly))
    return tuple(made)


def _words(found: Sequence[ErrorHits]) -> tuple[RecurringWord, ...]:
    errors, shares = Counter[str](), defaultdict[str, float](float)
    for one in found:
        for word, share in one.words:
            errors[word] += 1
            shares[word] += share
    recurring = [word for word, count in errors.items() if count >= LEAST]
    recurring.sort(key=lambda word: (-errors[word], -shares[word], word))
    return tuple(RecurringWord(word, errors[word], shares[word]) for word in recurring[:SHOWN_WORDS])
