"""The report: several explanations on one page, after a list of them."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from proponent.views.error_report import ErrorCounts, ErrorHits, ErrorReport, RecurringExample, error_report
from proponent.views.explanation import Explanation
from proponent.views.page import Page
from proponent.views.text_marks import clip


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report(Page):
    """Explanations of several queries, and a link to each."""

    template: ClassVar[str] = "report_fragment.html.j2"

    title: Annotated[str, "title of the page"]
    answers: Annotated[tuple[Explanation, ...], "the answers, in the order of the questions"]
    index: Annotated[str, "name of the index that was asked"] = ""
    truths: Annotated[tuple[str | None, ...] | None, "true class of each question; None where it is not known"] = field(
        default=None, metadata={"optional": True}
    )

    @property
    def headline(self) -> str:
        """Title of the page."""
        return self.title

    @property
    def wrong(self) -> int:
        """Number of predictions that differ from the label of the query."""
        asked = [one.query for one in self.answers if one.query.label is not None]
        return sum(one.predicted != one.label for one in asked)

    @property
    def true_classes(self) -> tuple[str | None, ...]:
        """True class of each question; None if it is not known, or no class of the model."""
        given = self.truths or (None,) * len(self.answers)
        known = [one.query.probabilities or {} for one in self.answers]
        return tuple(said if said in some else None for said, some in zip(given, known, strict=True))

    @property
    def errors(self) -> ErrorReport | None:
        """What recurs behind the wrong predictions; None without true classes, or if none is wrong."""
        known = [(at, said) for at, said in enumerate(self.true_classes) if said is not None]
        wrong = [(at, said) for at, said in known if self.answers[at].query.predicted != said]
        if not wrong:
            return None
        asked = [(at, said) for at, said in wrong if self.answers[at].query.label == self.answers[at].query.predicted]
        hits = [hit for at, _ in asked for hit in self.answers[at].proponents]
        shown = {
            hit.id: RecurringExample(
                id=hit.id, row=hit.row, text=hit.text, label=hit.label, predicted=hit.predicted, source=hit.source
            )
            for hit in hits
        }
        k = max((len(self.answers[at].proponents) for at, _ in asked), default=0)
        counts = ErrorCounts(self.answers[0].method, len(self.answers), len(known), len(wrong), k)
        found = [ErrorHits.of(at, said, self.answers[at]) for at, said in asked]
        return error_report(found, counts, shown.__getitem__, {})

    def __repr__(self) -> str:
        lines = [f"{len(self.answers):,} answers: {self.title}", *(one.query.text for one in self.answers[:10])]
        left = len(self.answers) - 10
        return "\n  ".join(clip(line, 98) for line in (*lines, *((f"and {left:,} more",) if left > 0 else ())))
