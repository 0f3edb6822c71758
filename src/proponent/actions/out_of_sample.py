"""Class probabilities of training rows by models that have not seen them, and their combination with the run's own."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.data import read_numbers
from proponent.errors import DataError, InputError, MismatchError
from proponent.plain_text import visible
from proponent.store import Store

FLOOR = 1e-6
"""Smallest probability that enters a combination: no source alone can rule out a class."""

TIMES = 2.5
"""A label is flagged if another class is this many times as probable: of best F1 on TREC and SST-2 (decision 0032)."""

SUM_ERROR = 0.01
"""Largest difference of a row's sum of probabilities from 1."""


@dataclass(frozen=True)
class OutOfSample:
    """Out-of-sample class probabilities of the rows of an index, by their source."""

    sources: Mapping[str, Float[np.ndarray, "n l"]]  # by name; rows of the index in data order, NaN for rows without
    notes: tuple[str, ...] = field(default=())  # what a reader must know

    def __add__(self, other: "OutOfSample") -> "OutOfSample":
        """The sources of both."""
        return OutOfSample({**self.sources, **other.sources}, self.notes + other.notes)

    def combined(self, *more: Float[np.ndarray, "n l"]) -> Float[np.ndarray, "n l"]:
        """Combine all sources, and the run's own probabilities if they are given; see `combine`."""
        return combine([*self.sources.values(), *more])


def combine(several: Sequence[Float[np.ndarray, "n l"]]) -> Float[np.ndarray, "n l"]:
    """Geometric mean of several probabilities of each row, scaled to a sum of 1.

    Args:
        several: probabilities [n l]; a row that is NaN does not count.

    Returns:
        The combination; NaN for a row that no source has.

    Source:
        The logarithmic opinion pool with equal weights (Genest and Zidek 1986, Combining Probability Distributions).
    """
    logs = np.stack([np.log(np.maximum(one, FLOOR)) for one in several])
    known: Bool[np.ndarray, "s n"] = np.isfinite(logs.min(axis=2))
    total = np.where(np.expand_dims(known, 2), logs, 0.0).sum(0)
    mean = total / np.expand_dims(np.maximum(known.sum(0), 1), 1)
    made = np.exp(mean - mean.max(1, keepdims=True))
    return np.where(np.expand_dims(known.any(0), 1), made / made.sum(1, keepdims=True), np.nan)


def much_likelier(
    probabilities: Float[np.ndarray, "n l"], given: Int[np.ndarray, " n"], times: float = TIMES
) -> Bool[np.ndarray, " n"]:
    """Flag the labels than which another class is at least `times` as probable."""
    own = probabilities[np.arange(len(given)), given]
    return (probabilities.max(1) >= times * own) & (probabilities.argmax(1) != given)


def read_probabilities(store: Store, path: str | os.PathLike[str]) -> OutOfSample:
    """Read the out-of-sample class probabilities of another model.

    Args:
        store: an index of a classifier.
        path: a file with a column `id` and one column for each class by its name, one row for each row of the index.

    Returns:
        The probabilities of the rows of the index, in its order.

    Raises:
        DataError: no such file, other columns, repeated ids, no number, a negative one, or sums other than 1.
        MismatchError: ids that the index does not have, or rows of the index that the file lacks.
        InputError: the index has no labels.
    """
    names = store.plan.labels.names
    if not names:
        raise InputError("this index belongs to a language model, which has no labels to check")
    found = read_numbers(path, names)
    table, values = found.table, found.values
    low, sums = np.flatnonzero((values < 0).any(1)), values.sum(1)
    if len(low):
        raise DataError(
            f"{table.name}: {table.where(low)}: a probability is below 0: give probabilities, not logits or log "
            "probabilities"
        )
    odd = np.flatnonzero(np.abs(sums - 1) > SUM_ERROR)
    if len(odd):
        raise DataError(
            f"{table.name}: the probabilities of {len(odd):,} rows do not sum to 1 ({table.where(odd)}; the first sums "
            f"to {sums[odd[0]]:.4g}): give one probability for each class, after the softmax"
        )
    alive, places = store.alive, {str(one): at for at, one in enumerate(store.examples["id"])}
    unknown = [row for row, one in enumerate(found.ids) if one not in places]
    if unknown:
        raise MismatchError(
            f"{table.name}: {len(unknown):,} ids are not in {store.folder} ({visible(found.ids[unknown[0]])}, "
            f"{table.where(unknown)}): give the probabilities of the rows that the index was built from, by their ids"
        )
    made = np.full((store.n, len(names)), np.nan)
    made[[places[one] for one in found.ids]] = values / sums[:, None]
    lost = np.flatnonzero(alive & np.isnan(made[:, 0]))
    if len(lost):
        first = visible(str(store.take("id", lost[:1])[0]))
        raise MismatchError(
            f"{table.name}: {len(lost):,} of {int(alive.sum()):,} rows of {store.folder} have no probabilities (the "
            f"first: id {first}): add them, or use --cross-validate"
        )
    made[~alive] = np.nan
    return OutOfSample({"file": made}, (f"out-of-sample probabilities of {visible(str(path))}",))
