"""Contexts of the page of suspected label errors and of the demo's page."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from proponent.views.distribution import Distribution
from proponent.views.explanation import Explanation
from proponent.views.histogram import Histogram
from proponent.views.page import Page
from proponent.views.text_marks import clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """One training example whose given label may be wrong."""

    rank: Annotated[int, "1 is the most suspect"]
    id: Annotated[str, "id of the training example"]
    row: Annotated[int, "0-based row of the source"]
    text: Annotated[str, "the text"]
    given_label: Annotated[str, "class in the data"]
    predicted_label: Annotated[str | None, "class of largest probability"]
    suggested_label: Annotated[str | None, "class to change it to; None if there is no better one"]
    label_score: Annotated[float, "quality of the label: low is suspect"]
    is_label_issue: Annotated[bool, "whether the label is flagged as wrong"]
    confidence: Annotated[float | None, "probability of the predicted class; None if unknown"] = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LabelReport(Page):
    """Training examples whose given label may be wrong, most suspect first."""

    template: ClassVar[str] = "labels_fragment.html.j2"

    ranking: Annotated[str, "name of the ranking that ordered them"]
    n_examples: Annotated[int, "training examples that were ranked"]
    rows: Annotated[tuple[Suspect, ...], "suspects, most suspect first"]
    n_flagged: Annotated[int | None, "labels flagged as wrong, listed here or not; None counts those listed"] = None
    notes: Annotated[tuple[str, ...], "what a reader must know about this ranking"] = ()

    @property
    def headline(self) -> str:
        """Title of the page."""
        return "Suspected label errors"

    @property
    def flagged(self) -> int:
        """Number of labels flagged as wrong, among all ranked ones."""
        return sum(row.is_label_issue for row in self.rows) if self.n_flagged is None else self.n_flagged

    @property
    def distribution(self) -> Distribution:
        """Rows by given and by predicted class."""
        return Distribution.counted((row.given_label for row in self.rows), (row.predicted_label for row in self.rows))

    @property
    def scores(self) -> Histogram | None:
        """Rows by label score; None without rows."""
        from proponent.views.score_counts import flagged_scores

        flags = [row.is_label_issue for row in self.rows]
        return flagged_scores([row.label_score for row in self.rows], flags, "label score", low=True)

    def __repr__(self) -> str:
        head = f"{self.flagged:,} of {self.n_examples:,} labels flagged (ranking: {self.ranking})"
        rows = [
            f"{row.rank}. #{clip(row.id, 12)} {clip(row.given_label, 16)} -> "
            f"{clip(row.suggested_label or '?', 16)}: {row.text}"
            for row in self.rows[:5]
        ]
        return "\n  ".join((clip(head, 100), *(clip(line, 98) for line in rows)))


@dataclass(frozen=True, slots=True)
class RankingRecall:
    """Share of planted errors that one ranking finds early."""

    name: Annotated[str, "name of the ranking"]
    share_in_first_tenth: Annotated[float, "share of the planted errors in the first tenth of the rows; by chance 0.1"]
    note: Annotated[str, "what the ranking is, in a few words"] = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Story(Page):
    """The page of the demo: the steps, one explained prediction, and the planted errors found."""

    template: ClassVar[str] = "story_fragment.html.j2"

    title: Annotated[str, "title of the page"]
    lead: Annotated[tuple[str, ...], "sentences that tell the story"]
    answer: Annotated[Explanation, "one explained prediction"]
    labels: Annotated[LabelReport | None, "suspected label errors; none for a language model"] = None
    recall: Annotated[tuple[RankingRecall, ...], "rankings compared on planted errors"] = ()
    facts: Annotated[tuple[tuple[str, str], ...], "name and value, such as rows, seconds"] = ()

    @property
    def headline(self) -> str:
        """Title of the page."""
        return self.title

    def __repr__(self) -> str:
        head = [self.title, *self.lead, *(f"{name}: {value}" for name, value in self.facts)]
        shown = [repr(one) for one in (self.answer, self.labels) if one is not None]
        return "\n".join((*(clip(line, 100) for line in head), *shown))
