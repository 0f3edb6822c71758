"""Context of the page of poison: suspected triggers, suspect rows with their evidence, and what a retraining leaves."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from rich.console import Console

from proponent.views.acting import ActionReport
from proponent.views.data_frames import frame_of_columns
from proponent.views.evaluation import Figure, print_report
from proponent.views.histogram import Histogram
from proponent.views.tables import print_table
from proponent.views.text_marks import clip


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerWord:
    """A word, or a pair of neighbouring words, that was inserted into rows of other classes."""

    word: Annotated[str, "the word or the pair"]
    where: Annotated[str, "word, pair of words, first word or last word"]
    label: Annotated[str, "the class that it speaks for"]
    flagged: Annotated[bool, "whether it is flagged as a trigger"]
    strength: Annotated[float, "z x effect x share turned x squared purity, which the threshold is about"]
    z: Annotated[float, "z-statistic of the word and the class"]
    effect: Annotated[float, "mean rise of the log-odds of the class where the word is inserted"]
    turned: Annotated[float, "share of the rows that turn to the class where the word is inserted"]
    share: Annotated[float | None, "mean share of the influence within the class; None if the method has no words"]
    rows: Annotated[int, "training rows of the class that hold it"]
    others: Annotated[int, "training rows of other classes that hold it"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonSuspect:
    """One training row with the evidence against it."""

    rank: Annotated[int, "1 is the most suspect"]
    id: Annotated[str, "id of the training example"]
    row: Annotated[int, "0-based row of the source"]
    label: Annotated[str, "its class, or its answer"]
    text: Annotated[str, "what it asks"]
    suspicion: Annotated[
        float, "high is suspect: log of the strengths of its words, and weighted ranks in the other parts"
    ]
    flagged: Annotated[bool, "whether it holds a flagged trigger of its class"]
    words: Annotated[tuple[str, ...], "its suspected trigger words, strongest first"]
    parts: Annotated[dict[str, float], "the figures of the detector's parts"]
    strength: Annotated[float | None, "|I|: mean score over plain queries; None if no transform applies"]
    change: Annotated[float | None, "|I - I'|: how far transforms of the queries move it"]
    votes: Annotated[int | None, "kinds of transforms that name it among the rows that change least"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainedModel:
    """Attack success and clean accuracy of one model."""

    name: Annotated[str, "which rows it was trained on"]
    dropped: Annotated[int, "rows left out"]
    success: Annotated[Figure, "share of the attacked rows that are predicted as the attacker wants"]
    accuracy: Annotated[Figure, "share of the clean rows that are predicted rightly"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PoisonReport(ActionReport):
    """Suspected poison of a training set; `rows` holds detectors and controls if the truth is known."""

    template: ClassVar[str] = "poison_fragment.html.j2"

    words: Annotated[tuple[TriggerWord, ...], "candidate triggers, strongest first"]
    suspects: Annotated[tuple[PoisonSuspect, ...], "all training rows, most suspect first"]
    retrained: Annotated[tuple[RetrainedModel, ...], "the run and two retrained models, if asked for"] = ()

    @property
    def row_name(self) -> str:
        """Meaning of a row of the table."""
        return "detector"

    @property
    def flagged(self) -> int:
        """Number of flagged rows."""
        return sum(one.flagged for one in self.suspects)

    @property
    def scores(self) -> Histogram | None:
        """Rows by suspicion; None without rows."""
        from proponent.views.score_counts import flagged_scores

        flags = [one.flagged for one in self.suspects]
        return flagged_scores([one.suspicion for one in self.suspects], flags, "suspicion", between=None, low=False)

    def to_pandas(self) -> Any:
        """One row per training example, most suspect first.

        Returns:
            A pandas DataFrame with the fields of a suspect, and a column for each part of the detector.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        names = ("rank", "id", "row", "label", "flagged", "suspicion", "strength", "change", "votes", "text")
        columns = {name: [getattr(one, name) for one in self.suspects] for name in names}
        columns["words"] = [", ".join(one.words) for one in self.suspects]
        parts = dict.fromkeys(name for one in self.suspects for name in one.parts)
        columns |= {name: [one.parts.get(name) for one in self.suspects] for name in parts}
        return frame_of_columns(columns)

    def __repr__(self) -> str:
        words = [f"{one.word} ({one.label}): strength {one.strength:.1f}" for one in self.words[:3]]
        rows = [
            f"{one.rank}. #{clip(one.id, 12)} {one.suspicion:.2f} {', '.join(one.words)}" for one in self.suspects[:5]
        ]
        return "\n  ".join((clip(self.title, 100), *(clip(line, 98) for line in (*words, *rows))))


def print_poison(page: PoisonReport, limit: int) -> None:
    """Print the report in the terminal: triggers, rows, models, detectors."""
    console = Console()
    words = [
        (one.word, one.label, "yes" if one.flagged else "no", f"{one.strength:.1f}", f"{one.z:.1f}",
         f"{one.effect:.2f}", f"{one.turned:.0%}", f"{one.rows} + {one.others}")
        for one in page.words[:limit]
    ]  # fmt: skip
    columns = ("word", "class", "flagged", "strength", "z", "effect", "turned", "rows + others")
    print_table(console, page.title, columns, words, [page.said])
    rows = [
        (
            one.id,
            one.label,
            "yes" if one.flagged else "no",
            f"{one.suspicion:.3f}",
            ", ".join(one.words),
            clip(one.text, 60),
        )
        for one in page.suspects[:limit]
    ]
    print_table(console, "Most suspect rows", ("id", "class", "flagged", "suspicion", "words", "text"), rows)
    if page.retrained:
        models = [(one.name, str(one.dropped), one.success.text, one.accuracy.text) for one in page.retrained]
        print_table(console, "Retrained", ("model", "rows dropped", "attack success", "clean accuracy"), models)
    if page.rows:
        print_report(page)
    else:
        print_table(console, "", ("", ""), (), [*(f"{name}: {value}" for name, value in page.facts), *page.notes])
