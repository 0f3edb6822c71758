"""Pages as frozen dataclasses; the help text of each field is the contract of its template and of its JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import TypeAdapter, ValidationError

from proponent.errors import DataError
from proponent.types import Span
from proponent.version import __version__
from proponent.views.checkpoint_parts import checkpoint_parts
from proponent.views.counted_scores import ScoreCounts
from proponent.views.data_frames import data_frame
from proponent.views.histogram import Histogram
from proponent.views.hit import Hit
from proponent.views.hits import Hits
from proponent.views.page import Page, optional
from proponent.views.plot import Plot
from proponent.views.reading import reading
from proponent.views.text_marks import Mark, clip, score_in_words, signed
from proponent.views.turns import TurnView, marks_by_turn

SHOWN_CLASSES = 6
EmbeddingPath = Literal["exact", "input", "output"]
FORMER_NAME = "whence"
"""The library's former name: the key of its version in answers saved then."""
FORMER_KEYS = {"helped": "proponents", "hurt": "opponents", FORMER_NAME: "proponent"}
"""Keys of saved answers that were renamed."""
FORMER_NOTE = "this answer was saved under the library's former name, whence"
CAVEAT = (
    "A score is a first-order estimate of association through the model's gradients, not proof of cause. "
    "To know what an example did, train again without it."
)


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """One checkpoint in the sum of a score."""

    step: Annotated[int, "optimizer step at which the checkpoint was saved"]
    learning_rate: Annotated[float, "learning rate that weighs this checkpoint"]
    rule: Annotated[str, "where the learning rate comes from, such as recorder or trainer log"]
    run: Annotated[int, "which of several joined runs, from 0"] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryView:
    """The query text and the model's predictions for it."""

    id: Annotated[str | None, "id of the query"] = optional()
    text: Annotated[str, "the text, or the first text of a pair, or the prompt"]
    text_pair: Annotated[str | None, "second text of a pair"] = optional()
    target: Annotated[str | None, "the part whose tokens count"] = optional()
    label: Annotated[str | None, "class whose loss is explained; None for a language model"]
    against: Annotated[str | None, "class that the label is compared with"] = None
    predicted: Annotated[str | None, "class that the model predicts; None for a language model"]
    probabilities: Annotated[Mapping[str, float] | None, "class name to probability, 0 to 1"]
    turns: Annotated[tuple[TurnView, ...] | None, "turns of a conversation; text then has one per line"] = optional()
    loss: Annotated[float | None, "loss of the query at the last checkpoint"]
    truncated_at: Annotated[int | None, "character offset at which the model stops reading; None: nowhere"] = None
    truncated_before: Annotated[bool | None, "true: it reads from there on, not up to there"] = optional()

    @property
    def reading(self) -> str | None:
        """Where the text was truncated, in words."""
        return reading(self.truncated_at, None, before=self.truncated_before)

    @property
    def kind(self) -> str:
        """What is explained where there is no class."""
        return "text" if self.turns is None else "answer"

    @property
    def likeliest(self) -> tuple[tuple[str, float], ...]:
        """Classes with a bar: the most likely ones and always those of the query; most likely first."""
        ranked = sorted((self.probabilities or {}).items(), key=lambda item: -item[1])
        asked = {self.label, self.against, self.predicted}
        return tuple(item for rank, item in enumerate(ranked) if rank < SHOWN_CLASSES or item[0] in asked)

    @property
    def other_classes(self) -> int:
        """Number of classes without a bar."""
        return len(self.probabilities or {}) - len(self.likeliest)


@dataclass(frozen=True, slots=True)
class BaselineHit:
    """One training example in a baseline's ranking."""

    id: Annotated[str, "id of the training example"]
    row: Annotated[int, "0-based row of the source"]
    score: Annotated[float, "score in the baseline's own unit"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Explanation(Page):
    """Which training examples, and which of their words, pushed the model towards an output or away from it."""

    template: ClassVar[str] = "answer_fragment.html.j2"

    version: Annotated[str, "version that made it"] = field(default=__version__, metadata={"json": "proponent"})
    method: Annotated[str, "name of the method, as users type it"]
    checkpoints: Annotated[tuple[CheckpointView, ...], "checkpoints that the score sums over"]
    embedding_path: Annotated[EmbeddingPath | None, "gradient path; None without an embedding"]
    loss: Annotated[Literal["mean", "sum"], "how the loss joins the counted tokens"]
    query: Annotated[QueryView, "the text that was asked about"]
    group: Annotated[tuple[QueryView, ...] | None, "the queries of a group, which has one ranking"] = optional()
    proponents: Annotated[tuple[Hit, ...], "proponents, strongest first"]
    opponents: Annotated[tuple[Hit, ...], "opponents, strongest first"]
    baselines: Annotated[Mapping[str, tuple[BaselineHit, ...]], "baseline to its ranking"] = field(
        default_factory=dict[str, tuple[BaselineHit, ...]]
    )
    words_are: Annotated[str | None, "what the shares of words are, such as exact terms"] = optional()
    notes: Annotated[tuple[str, ...], "what a reader must know about this answer"] = ()
    caveat: Annotated[str, "caution about the meaning of a score"] = CAVEAT
    score_counts: Annotated[ScoreCounts | None, "scores of all training examples, of a single question"] = field(
        default=None, metadata={"optional": True}
    )
    n_examples: Annotated[int, "training examples compared; 0: not known"] = field(default=0, metadata={"json": None})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Explanation":
        """Read an explanation back from `to_dict` or from a saved JSON file; needs no model.

        Args:
            content: the saved explanation as a dict.

        Returns:
            The explanation; its `n_examples` is 0, which means unknown.

        Raises:
            DataError: if a field is missing or of the wrong kind; names the field.
        """
        renamed = current_keys(content)
        if "proponent" in renamed:
            renamed["version"] = renamed.pop("proponent")
        if FORMER_NAME in content and isinstance(content.get("notes", ()), list | tuple):
            renamed["notes"] = [*dict.fromkeys([*content.get("notes", ()), FORMER_NOTE])]
        try:
            return _reader().validate_python(renamed)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise DataError(
                f"this is not a saved answer: {clip(where, 60)}: {first['msg']}; save one with answer.save('why.json')"
            ) from error

    def __post_init__(self) -> None:
        """Let each side show itself."""
        sides = (("proponents", "Helped", self.helping), ("opponents", "Hurt", self.hurting))
        for name, title, meaning in sides:
            hits = Hits.of(getattr(self, name), title, meaning, self.method, self.caveat)
            object.__setattr__(self, name, hits)

    def noted(self, notes: Sequence[str]) -> "Explanation":
        """The same explanation with more notes."""
        return replace(self, notes=(*notes, *self.notes)) if notes else self

    @property
    def headline(self) -> str:
        """The question in words."""
        if self.group is not None:
            what = "these texts" if self.query.label is None else self.query.label
            return f"Where do {len(self.group):,} outputs come from ({what})?"
        if self.query.label is None:
            return f"Where does this {self.query.kind} come from?"
        against = "" if self.query.against is None else f" and not {self.query.against}"
        return f"Why {self.query.label}{against}?"

    @property
    def helping(self) -> str:
        """Direction in which a proponent pushed the model."""
        query = self.query
        if query.label is None:
            return f"towards this {self.query.kind}" if self.group is None else "towards these outputs"
        return f"towards {query.label}" + ("" if query.against is None else f" rather than {query.against}")

    @property
    def hurting(self) -> str:
        """Direction in which an opponent pushed the model."""
        query = self.query
        if query.against is not None:
            return f"towards {query.against} rather than {query.label}"
        if query.label is None:
            return f"away from this {self.query.kind}" if self.group is None else "away from these outputs"
        return f"away from {query.label}"

    @property
    def by_checkpoint(self) -> Plot | None:
        """The parts of the strongest scores by checkpoint; None where scores have no such parts."""
        several = len({one.run for one in self.checkpoints}) > 1
        names = [f"{one.step:,}{f', run {one.run}' if several else ''}" for one in self.checkpoints]
        return checkpoint_parts(names, (("helped", self.proponents), ("hurt", self.opponents)))

    @property
    def by_score(self) -> Histogram | None:
        """The scores of all training examples, with lines at the last listed ones; None where they are not known."""
        sides = (("helped", self.proponents), ("hurt", self.opponents))
        last = [(name, hits[-1].score) for name, hits in sides if hits]
        return None if self.score_counts is None else self.score_counts.plot(last)

    @property
    def content_only(self) -> bool:
        """Whether function words and punctuation are hidden."""
        return any(hit.content_only for hit in (*self.proponents, *self.opponents))

    def without_function_words(self) -> "Explanation":
        """The same explanation, in whose views function words and punctuation are hidden and counted.

        Returns:
            The explanation; scores, shares and JSON are the same.
        """
        sides = (tuple(replace(hit, content_only=True) for hit in side) for side in (self.proponents, self.opponents))
        proponents, opponents = sides
        return replace(self, proponents=proponents, opponents=opponents)

    def total(self, hits: Sequence[Hit]) -> float:
        """Sum of the scores of some hits: what the percentage of a score is of.

        Args:
            hits: the hits of one side.

        Returns:
            The sum of the magnitudes of their scores.
        """
        return math.fsum(abs(hit.score) for hit in hits)

    @property
    def largest_score(self) -> float:
        """Largest magnitude of a score: the length of a full bar."""
        return max((abs(hit.score) for hit in (*self.proponents, *self.opponents)), default=0.0)

    @property
    def largest_share(self) -> float:
        """Largest magnitude of a word's share: the strength of a full mark."""
        pairs = (one for hit in (*self.proponents, *self.opponents) for one in hit.shown_words)
        return max((abs(one.share) for one in pairs), default=0.0)

    @property
    def query_marks(self) -> tuple[Mark, ...]:
        """Marks on the query's text: the shares of each position, summed over all hits that display it."""
        sums: dict[Span, float] = {}
        for hit in (*self.proponents, *self.opponents):
            for pair in hit.shown_words:
                for span in pair.query_spans:
                    sums[span] = sums.get(span, 0.0) + pair.share
        return tuple((start, end, share) for (start, end), share in sums.items())

    @property
    def query_turn_marks(self) -> tuple[tuple[Mark, ...], ...]:
        """Marks on each turn of the query, summed over all hits."""
        hits = (*self.proponents, *self.opponents)
        pairs = [pair for hit in hits for pair in hit.shown_words]
        spans = [(span, pair.share) for pair in pairs for span in pair.query_turn_spans or ()]
        return marks_by_turn(len(self.query.turns or ()), spans)

    @property
    def largest_query_share(self) -> float:
        """Largest magnitude of a mark on the query's text: the strength of a full mark."""
        marks = (*self.query_marks, *(mark for marks in self.query_turn_marks for mark in marks))
        return max((abs(share) for _, _, share in marks), default=0.0)

    @property
    def proponent_ids(self) -> frozenset[str]:
        """Ids of the proponents."""
        return frozenset(hit.id for hit in self.proponents)

    @property
    def compared(self) -> int:
        """Rows of the table that compares the baselines."""
        return max((len(hits) for hits in (self.proponents, *self.baselines.values())), default=0)

    def overlap(self, baseline: str) -> int:
        """Count how many of a baseline's first k are among the top k proponents.

        Args:
            baseline: name of a baseline of this explanation.

        Returns:
            A count from 0 to k, where k is the number of proponents.
        """
        return sum(hit.id in self.proponent_ids for hit in self.baselines[baseline][: len(self.proponents)])

    def to_pandas(self) -> Any:
        """One row per hit: side, rank, id, row, score, label, text, words.

        Returns:
            A pandas DataFrame; `words` lists the strongest words with their shares.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        names = ("side", "rank", "id", "row", "score", "label", "text", "words")
        sides = (("helped", self.proponents), ("hurt", self.opponents))
        rows = [(side, *_cells(hit)) for side, hits in sides for hit in hits]
        return data_frame(rows, names)

    def __repr__(self) -> str:
        head, *rest = _answer_lines(self)
        return "\n  ".join((clip(head, 100), *(clip(line, 98) for line in rest)))


def current_keys(content: Mapping[str, Any]) -> dict[str, Any]:
    """Rename former keys of a saved answer to the current ones."""
    return {FORMER_KEYS.get(key, key): value for key, value in content.items()}


@cache
def _reader() -> Any:
    return TypeAdapter(Explanation)  # slow to build, and needed only to read a saved answer


def _cells(hit: Hit) -> tuple[Any, ...]:
    words = ", ".join(f"{pair.train_word} {signed(pair.share)}" for pair in hit.shown_words)
    return hit.rank, hit.id, hit.row, hit.score, hit.label, hit.text, words


def _answer_lines(answer: Explanation, most: int = 3) -> list[str]:
    of = f" of {answer.n_examples:,} training examples" if answer.n_examples else ""
    lines = [f"{clip(answer.headline, 50)} ({answer.method}, {len(answer.checkpoints)} checkpoints{of})"]
    predicted = "" if answer.query.predicted is None else f" [predicted {clip(answer.query.predicted, 16)}]"
    lines.append(f"query{predicted}: {answer.query.text}")
    for hit in (*answer.proponents[:most], *answer.opponents[:most]):
        label = "" if hit.label is None else f" {clip(hit.label, 16)}"
        lines.append(f"{score_in_words(hit.score)}{label} #{clip(hit.id, 12)}: {hit.text}")
    left = len(answer.proponents[most:]) + len(answer.opponents[most:])
    return [*lines, f'{left} more; .save("why.html") shows all, with words. Association, not proof of cause.']
