"""The batches of a KTO training, whose rows share an estimate: as TRL's KTOTrainer (1.16) prepares them.

Rows whose prompt fills what the model reads are dropped. Of the others, as many as a batch holds follow one another, in
the order of the data, in every epoch. The estimate of a batch reads each of its prompts with the answer of the row
before, the first with the last one's.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from proponent.errors import InputError, MismatchError
from proponent.models.batch import Encoded
from proponent.models.batch_record import row_hash
from proponent.types import Example

Parts = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]
"""Tokens of a prompt, and those of the answer after it."""


def sequence(prompt: Int[np.ndarray, " _"], answer: Int[np.ndarray, " _"], most: int) -> Encoded:
    """What the model reads of a prompt with an answer; the answer's tokens count."""
    ids = np.concatenate([prompt, answer])[:most]
    counted = np.arange(len(ids)) >= max(1, len(prompt))  # nothing predicts the first token
    return Encoded(ids, None, np.full(len(ids), -1), counted)


@dataclass(frozen=True)
class JudgedBatches:
    """Prompts with answers of other rows, by batch."""

    batches: tuple[tuple[Encoded, ...], ...]
    batch_of: dict[int, int]  # of each row by its number; rows that were dropped have none

    @classmethod
    def of(cls, rows: Iterable[tuple[int, Parts]], size: int, most: int) -> "JudgedBatches":
        """Cut rows, by number, into batches."""
        kept = [(number, parts) for number, parts in rows if len(parts[0]) < most]
        cuts = [kept[start : start + size] for start in range(0, len(kept), size)]
        batches = tuple(
            tuple(sequence(prompt, cut[at - 1][1][1], most) for at, (_, (prompt, _)) in enumerate(cut)) for cut in cuts
        )
        return cls(batches, {number: at for at, cut in enumerate(cuts) for number, _ in cut})


class JudgedSource:
    """Where a run finds the batches of its training set: made when they are first asked for."""

    def __init__(self) -> None:
        self._make: Callable[[], JudgedBatches] | None = None
        self._made: JudgedBatches | None = None

    def tell(self, make: Callable[[], JudgedBatches]) -> None:
        """Say how they are made."""
        self._make, self._made = make, None

    @property
    def batches(self) -> JudgedBatches:
        """The batches."""
        if self._made is None:
            if self._make is None:
                raise InputError(
                    "the loss of a judged answer (KTO) depends on the rows of its batch, and the training set is not "
                    "read here: build an index and ask that"
                )
            self._made = self._make()
        return self._made


def refuse_other_order(
    rows: Sequence[tuple[Example, Parts]], most: int, recorded: Sequence[int], name: str, home: object
) -> None:
    """Refuse rows that are not exactly those of the training, in its order: their neighbours are in their loss."""
    kept = [(example, parts) for example, parts in rows if len(parts[0]) < most]
    for at, (example, (prompt, answer)) in enumerate(kept):
        one = sequence(prompt, answer, most)
        labels = np.where(np.arange(len(one.ids)) >= len(prompt), one.ids, -100)
        if at >= len(recorded) or row_hash(one.ids, labels) != recorded[at]:
            raise MismatchError(
                f"{name}, row {example.row} (id {example.id}) is not row {at} of the training in {home}, by the "
                "Recorder: the loss of KTO depends on the rows of the same batch, so give all rows of the training in "
                "its order, with its tokenizer, template and max_length"
            )
    if len(kept) < len(recorded):
        raise MismatchError(
            f"{name} holds {len(kept)} of the {len(recorded)} rows of the training in {home}: the loss of KTO depends "
            "on the rows of the same batch, so give all of them in the order of the training"
        )
