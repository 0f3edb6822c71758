"""A batch of queries: encodings, labels, gradients per checkpoint."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float

from proponent.baselines import Texts
from proponent.errors import InputError, LabelError
from proponent.gradients.computer import AnsweredQuery, GradientComputer
from proponent.gradients.gradient import Gradient
from proponent.index.query_input import AnyLabel, plain_label
from proponent.labels import Labels
from proponent.models import Encoded, Run
from proponent.preconditioners.query_preconditioner import QueryPreconditioner
from proponent.types import CheckpointId, Example, Span
from proponent.views import QueryView
from proponent.views.turns import turn_views
from proponent.words import Word, within, words_of

ALIKE = 0.8
"""Minimum ratio of the shortest to the longest query of a batch, in tokens: padding costs as much as text."""


def named(queries: Sequence[Example], row: int) -> str:
    """Name a query for a message."""
    query = queries[row]
    return "the text" if len(queries) == 1 else f"the text with id {query.id} (row {query.row})"


def check_queries(queries: Sequence[Example]) -> None:
    """Refuse queries that are blank or not text."""
    for row, query in enumerate(queries):
        where = named(queries, row)
        for part in cast("tuple[object, ...]", query.parts):
            if not isinstance(part, str):
                raise InputError(f"{where} must be a str, not {type(part).__name__}")
        whole = "".join(query.parts)
        if not whole.strip():
            raise InputError(f"{where} is empty: there is nothing to explain")
        if query.target is not None and not query.target.strip():
            raise InputError(f"the target of {where} is empty: give the completion, or leave the target out")
        if "\0" in whole:
            raise InputError(f"{where} contains a NUL character: remove it")
        try:
            whole.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{where} contains bytes that are not UTF-8 (character {error.start}): convert it first"
            ) from error


def check_against(against: AnyLabel | None, method: str, run: Run, *, contrasts: bool) -> None:
    """Refuse a second class if classes are not compared."""
    if against is not None and not contrasts:
        raise InputError(f"{method} does not compare two labels: leave `against` out")
    if against is not None and not run.task.labels:
        kind = "language" if run.task.predicts_tokens else run.task.kind
        way = "give the completion to explain as target instead" if run.task.predicts_tokens else "leave it out"
        raise InputError(f"`against` compares two classes, and this run is a {kind} model: {way}")


def labels_of(
    last: GradientComputer, queries: Sequence[Example], encoded: Sequence[Encoded], size: int
) -> tuple[list[int], list[int], list[Float[np.ndarray, " l"]]]:
    """Find the classes to explain: the given ones, otherwise those that the model predicts."""
    run = last.run
    if not run.task.labels:
        labelled = next((query.label for query in queries if query.label is not None), None)
        if labelled is not None and not run.task.answers:
            kind = "language" if run.task.predicts_tokens else run.task.kind
            raise LabelError(f"label {labelled!r} was given, but this run is a {kind} model and has no labels")
        return [-1] * len(queries), [-1] * len(queries), []
    if all(query.label is not None for query in queries):  # the gradient pass predicts as well
        given = [run.label_number(plain_label(query.label)) for query in queries if query.label is not None]
        return given, [-1] * len(given), []
    size = 1 if run.equal_lengths else size
    batches = [last.probabilities(encoded[start : start + size]) for start in range(0, len(encoded), size)]
    probabilities = [one for batch in batches if batch is not None for one in batch]
    predicted = [int(one.argmax()) for one in probabilities]
    labels = [
        guess if query.label is None else run.label_number(query.label)
        for query, guess in zip(queries, predicted, strict=True)
    ]
    return labels, predicted, probabilities


class Seen(NamedTuple):
    """Outputs of a checkpoint for queries: class probabilities, mean last hidden states."""

    probabilities: list[Float[np.ndarray, " l"]]
    pooled: list[Float[np.ndarray, " d"]]


class QueryBatch:
    """Queries: encodings, labels, and gradients at every checkpoint."""

    def __init__(
        self,
        queries: Sequence[Example],
        encoded: Sequence[Encoded],
        labels: list[int],
        against: int | None,
        predicted: list[int],
        probabilities: list[Float[np.ndarray, " l"]],
    ) -> None:
        self.queries, self.encoded, self.labels, self.against = queries, encoded, labels, against
        self.predicted, self.probabilities = predicted, probabilities
        self.gradients: dict[CheckpointId, Gradient] = {}
        self.factors: dict[CheckpointId, Float[np.ndarray, " q"]] = {}
        self.losses: list[float] = []
        self.pooled: list[Float[np.ndarray, " d"]] = []
        self.seen: dict[CheckpointId, Seen] = {}
        self.counted: dict[int, tuple[tuple[Span, ...], ...]] = {}  # of conversations: places that count in each turn
        self.stretches: dict[int, tuple[Span, ...]] = {}  # of truncated queries: what the model reads of each text
        self.answered: list[AnsweredQuery] = []  # of a task with answers
        self._words: dict[int, tuple[Word, ...]] = {}

    @classmethod
    def of(
        cls, last: GradientComputer, queries: Sequence[Example], size: int, against: AnyLabel | None = None
    ) -> "QueryBatch":
        """Encode queries, and determine their classes with the last checkpoint."""
        encoded = last.encoder.encode(queries, asked=True) if queries else []
        empty = next((place for place, one in enumerate(encoded) if not len(one.ids)), None)
        if empty is not None:
            raise InputError(
                f"{named(queries, empty)} has no token: the model's tokenizer knows none of its characters"
            )
        answered = last.answered(queries, encoded, size)
        encoded = [one.encoded for one in answered] or encoded
        other = None if against is None else last.run.label_number(plain_label(against))
        labels, predicted, probabilities = labels_of(last, queries, encoded, size)
        if other is not None and other in labels:
            raise InputError(
                f"`against` is {against!r}, and so is the label of {named(queries, labels.index(other))} (without a "
                "label, the predicted class): choose two different classes"
            )
        made = cls(queries, encoded, labels, other, predicted, probabilities)
        turned = [row for row, query in enumerate(queries) if query.turns is not None]
        made.answered = answered
        made.counted = {row: last.encoder.counted_spans(queries[row], asked=True) for row in turned}
        cut = ((row, last.encoder.stretches(queries[row])) for row, one in enumerate(encoded) if one.truncated)
        made.stretches = {row: read for row, read in cut if read is not None}
        return made

    def add_gradients(
        self, step: CheckpointId, computer: GradientComputer, size: int, preconditioner: QueryPreconditioner
    ) -> None:
        """Compute gradients at one checkpoint, in batches of similar length (equal length if necessary)."""
        count = len(self.encoded)
        parts: dict[int, Gradient] = {}
        losses, pooled, seen = dict[int, float](), dict[int, np.ndarray](), dict[int, np.ndarray]()
        for rows in alike([one.length for one in self.encoded], size, 1.0 if computer.run.equal_lengths else ALIKE):
            against = None if self.against is None else [self.against] * len(rows)
            labels = [self.labels[row] for row in rows]
            batch = computer.query([self.encoded[row] for row in rows], labels, against)
            if batch.bad.any():
                raise InputError(self._reason(rows[int(np.flatnonzero(batch.bad)[0])], step, computer))
            for place, row in enumerate(rows):
                parts[row] = batch.gradient.example(place)
                losses[row] = float(batch.losses[place])
                if batch.pooled is not None:
                    pooled[row] = batch.pooled[place]
                if batch.probabilities is not None:
                    seen[row] = batch.probabilities[place]
        self.losses = [losses[row] for row in range(count)]
        self.pooled = [pooled[row] for row in range(count)] if pooled else []
        if seen:
            self.probabilities = [seen[row] for row in range(count)]
            self.predicted = [int(one.argmax()) for one in self.probabilities]
        self.seen[step] = Seen(self.probabilities, self.pooled)
        if parts:
            whole = Gradient.stack([parts[row] for row in range(count)])
            self.gradients[step], self.factors[step] = preconditioner.query(step, whole)

    def _reason(self, row: int, step: CheckpointId, computer: GradientComputer) -> str:
        """Why a query has no gradient."""
        where, one, most = named(self.queries, row), self.encoded[row], computer.encoder.max_length
        if not one.n_counted and one.length >= most:
            return (
                f"what counts of {where} lies beyond the {most} tokens that the index reads: shorten what stands "
                "before it, or build the index with a larger --max-length"
            )
        return (
            f"the loss or gradient of {where} is not finite at {step}: "
            "nothing can be explained (a language model needs two tokens at least, and finite weights)"
        )

    def select(self, rows: Sequence[int]) -> dict[CheckpointId, Gradient]:
        """Return the gradients of some queries, by step."""
        if list(rows) == list(range(len(self.queries))):
            return self.gradients
        return {step: Gradient.stack([one.example(row) for row in rows]) for step, one in self.gradients.items()}

    def words(self, row: int) -> tuple[Word, ...]:
        """Return the words of one query."""
        if row not in self._words:  # splitting a long text is slow
            found, read = words_of(self.queries[row]), self.stretches.get(row)
            self._words[row] = found if read is None else within(found, read)
        return self._words[row]

    def paired(self, row: int) -> bool:
        """Whether one query has a second text."""
        return len(self.queries[row].parts) > 1 and not self.turned(row)

    def turned(self, row: int) -> bool:
        """Whether one query is a conversation."""
        return self.queries[row].turns is not None

    def split(self, row: int, step: CheckpointId, computer: GradientComputer) -> Float[np.ndarray, "w p"]:
        """One query's vector by word, not preconditioned but scaled by its factor; special tokens last."""
        width = len(self.words(row))
        encoded = self.encoded[row]
        calls = computer.query_calls(encoded, self.labels[row], self.against)
        assert computer.layers is not None
        return computer.layers.by_word(calls, encoded, width, computer.elementwise) * self.factors[step][row]

    def texts(self, row: int) -> Texts:
        """One query as the baselines see it."""
        labelled = bool(self.probabilities)
        return Texts(
            [" ".join(self.queries[row].parts)],
            np.asarray([self.labels[row]]) if labelled else None,
            self.probabilities[row][None].astype(np.float64) if labelled else None,
            self.pooled[row][None] if self.pooled else None,
        )

    def answer(self, row: int) -> tuple[str, ...]:
        """The texts of one query whose copies are looked for: what counts of it; of a classifier, all it reads."""
        query = self.queries[row]
        if row in self.counted:
            return tuple(
                piece
                for text, some in zip(query.parts, self.counted[row], strict=True)
                for piece in _pieces(text, some)
            )
        if query.span is not None:
            return (query.parts[-1][slice(*query.span)],)
        return query.parts if query.target is None else query.parts[-1:]

    def group(self, labels: Labels) -> tuple[QueryView, ...] | None:  # noqa: ARG002
        """The queries that are explained together; None if each is explained separately."""
        return None

    def notes(self, row: int) -> list[str]:
        """Notes on truncated texts."""
        one = self.encoded[row]
        left = "reads nothing before it" if one.cut_before else "reads no further"
        second = "the second text" if self.queries[row].target is None else "the target"
        cuts = {"the text": one.truncated_at, second: one.pair_truncated_at}
        notes = [
            f"{name} was truncated at character {place}: the model {left}"
            for name, place in cuts.items()
            if place is not None
        ]
        return [*notes, *one.remarks, *self._masked(row)]

    def _masked(self, row: int) -> list[str]:
        """Note which words were masked, if the query did not choose them."""
        one, query = self.encoded[row], self.queries[row]
        if one.targets is None or one.start is not None or query.target is not None:
            return []
        places = sorted({int(word) for word in one.words[one.counted] if word >= 0})
        return ["masked and predicted: " + ", ".join(self.words(row)[place].text for place in places)]

    def view(self, row: int, labels: Labels) -> QueryView:
        """Return one query as the explanation shows it."""
        query, said = self.queries[row], self.answered[row] if self.answered else None
        probabilities = None if said is None else said.probabilities
        if labels:
            probabilities = {name: float(value) for name, value in zip(labels, self.probabilities[row], strict=True)}
        return QueryView(
            id=query.id,
            text=query.text,
            text_pair=query.text_pair,
            target=query.target,
            turns=None if query.turns is None else turn_views(query.content, self.counted[row]),
            label=labels.name(self.labels[row]) if said is None else said.label,
            against=labels.name(self.against),
            predicted=labels.name(self.predicted[row]) if said is None else said.predicted,
            probabilities=probabilities,
            loss=self.losses[row],
            truncated_at=self.encoded[row].truncated_at,
            truncated_before=True if self.encoded[row].cut_before and self.encoded[row].truncated else None,
        )


def _pieces(text: str, spans: Sequence[Span]) -> list[str]:
    """The text of some places in order; places with only white space between them are one."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and not text[joined[-1][1] : start].strip():
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return [text[start:end] for start, end in joined]


def alike(lengths: Sequence[int], size: int, share: float) -> list[list[int]]:
    """Split queries into batches of similar length: rows of each, longest first."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        fits = batches and len(batches[-1]) < size and lengths[row] >= share * lengths[batches[-1][0]]
        if fits:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
