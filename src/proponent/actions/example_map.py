"""A map of the training examples: the two main directions of vectors that an index stores of them.

This module reads an index only; it needs neither the model nor torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from proponent.actions.label_errors import judge, support
from proponent.actions.row_influence import row_influence
from proponent.data import from_json
from proponent.data.conversation_columns import format_of, system_prompt
from proponent.errors import InputError
from proponent.gradients.gradient import Gradient
from proponent.method import EmbeddingRows, Gradients, Layers
from proponent.store import Store
from proponent.store.rows import decode_arrays
from proponent.views.example_map import MapReport
from proponent.views.scatter import Kinds, influence_kinds, plain_kinds, scatter

Space = Literal["hidden", "gradients", "probabilities"]
SPACES: dict[Space, str] = {
    "hidden": "mean last hidden states at the last checkpoint: texts that the model reads alike lie near one another",
    "gradients": "loss gradients at the last checkpoint, of words summed over the tokens: examples that pull the model "
    "the same way lie near one another",
    "probabilities": "mean probabilities of the classes over the checkpoints",
}
"""Vectors that a map can be made of."""

NAMES: dict[Space, str] = {"hidden": "hidden states", "gradients": "gradients", "probabilities": "probabilities"}

COLOURS = {
    "label": "given label",
    "predicted": "predicted class",
    "flag": "likely wrong",
    "source": "source",
    "system": "system prompt",
    "format": "format",
    "influence": "influence of all other examples",
    "plain": "nothing",
}
"""What the marks may be coloured by, in the order of pages."""

_GROUPED = ("source", "system", "format")
"""Colours that are values of a column, or of what conversations hold."""

MOST_WIDTH = 4096
"""Width of the widest vectors that a map is made of: its cost grows with the square."""

_NAMES = {
    "hidden": ("meta.pooled",),
    "gradients": ("rows.indptr", "rows.ids", "rows.words", "rows.rows", "dense.indptr", "dense.v"),
}
"""Arrays of a shard that a map reads."""


@dataclass(frozen=True)
class ExampleMap:
    """Places of all training examples on a map.

    Attributes:
        space: what the vectors are.
        places: main directions of each example, the first one first; NaN for one without a finite vector.
        shares: share of the variance along each direction, 0 to 1.
        width: length of a vector.
    """

    space: Space
    places: Float[np.ndarray, "n 2"]
    shares: tuple[float, float]
    width: int

    @property
    def known(self) -> Bool[np.ndarray, " n"]:
        """Which examples have a place."""
        return np.isfinite(self.places[:, 0]) & np.isfinite(self.places[:, 1])


def spaces(store: Store) -> tuple[Space, ...]:
    """What maps an index allows, the best one first."""
    found: list[Space] = ["hidden"] if "pooled" in store.features else []
    term = store.plan.term
    if isinstance(term, Gradients) and isinstance(term.gradient, EmbeddingRows | Layers):
        found.append("gradients")
    if len(store.plan.label_names or ()) > 2:
        found.append("probabilities")
    return tuple(found)


def example_map(store: Store, space: Space | None = None) -> ExampleMap:
    """Project the vectors of all available examples to the two directions in which they vary most.

    Args:
        store: an index.
        space: what the vectors are; None: the first one that the index has.

    Returns:
        The places, by principal component analysis of the centred vectors. The sign of a direction is chosen so that
        its largest coordinate is positive.

    Raises:
        InputError: the index stores no such vectors, or they are too wide, or fewer than two are finite.
    """
    known = spaces(store)
    if not known:
        raise InputError(
            "this index stores no vectors that a map could be made of: build it with the baselines, which store the "
            "hidden states"
        )
    chosen = known[0] if space is None else space
    if chosen not in known:
        raise InputError(f"this index has no map of {chosen}: it has {', '.join(known)}")
    mean, axes, shares = _directions(store, chosen)
    places = np.full((store.n, 2), np.nan, dtype=np.float32)
    for examples, vectors in _vectors(store, chosen):
        places[examples] = (vectors - mean) @ axes
    return ExampleMap(chosen, places, shares, len(mean))


def influence(store: Store) -> Float[np.ndarray, " n"]:
    """Sum of the scores of all other training examples on each example."""
    try:
        return row_influence(store) if store.plan.label_names is None else support(store)
    except InputError as error:
        raise InputError(
            f"the influence of all other examples is a sum of plain products of gradients, and the method "
            f"{store.plan.method.name} of this index computes other scores: colour the map by something else"
        ) from error


def colours(store: Store) -> tuple[str, ...]:
    """What the marks may be coloured by; the influence may turn out to be one that the method has not."""
    own = ("label", "predicted", "flag") if store.plan.label_names is not None else ()
    return (*own, *(one for one in _GROUPED if any(_grouped(store, one))), "influence", "plain")


def kinds_of(store: Store, made: ExampleMap, colour: str) -> Kinds:
    """What tells the marks of a map apart.

    Args:
        store: an index.
        made: a map of it.
        colour: a name of `COLOURS`.

    Returns:
        The kind of each example.

    Raises:
        InputError: the examples of this index have no such property, or no sums of scores.
    """
    if colour not in colours(store):
        raise InputError(
            f"the examples of this index have no {COLOURS.get(colour, colour)}: choose one of "
            f"{', '.join(colours(store))}"
        )
    if colour == "influence":
        return influence_kinds(influence(store), made.known)
    if colour == "plain":
        return plain_kinds(store.n)
    if colour in _GROUPED:
        values, codes = np.unique(np.asarray(_grouped(store, colour), dtype=object), return_inverse=True)
        return Kinds(COLOURS[colour], codes.astype(np.int64), tuple(map(str, values)))
    judged, names = judge(store), tuple(store.plan.label_names or ())
    if colour == "flag":
        return Kinds(COLOURS[colour], judged.flagged.astype(np.int64), ("no", "yes"))
    codes = judged.given if colour == "label" else judged.likeliest
    return Kinds(COLOURS[colour], codes.astype(np.int64), names)


def report(store: Store) -> MapReport:
    """Report for the table of actions: the first map of an index, with its labels or influence."""
    return map_report(store, example_map(store))[0]


def map_report(store: Store, made: ExampleMap, colour: str | None = None) -> tuple[MapReport, Kinds]:
    """Draw a map.

    Args:
        store: an index.
        made: a map of it.
        colour: a name of `COLOURS`; None: the labels, else the influence, else one colour and a note.

    Returns:
        The page with the map, and the kind of every example.

    Raises:
        InputError: the marks cannot be coloured so.
    """
    notes = list(store.manifest.notes)
    kinds = _kinds(store, made, notes) if colour is None else kinds_of(store, made, colour)
    plot = scatter(
        made.places, kinds, title=title_of(made, kinds.title), x_name=axis_name(made, 0), y_name=axis_name(made, 1)
    )
    return MapReport(plot=plot, said=said(made), notes=tuple(notes)), kinds


def title_of(made: ExampleMap, kind: str) -> str:
    """Title of a map, coloured by something or by nothing."""
    return f"Training examples by their {NAMES[made.space]}" + (f", coloured by {kind}" if kind else "")


def axis_name(made: ExampleMap, at: int) -> str:
    """Name of an axis, with its share of the variance."""
    return f"{('first', 'second')[at]} direction ({made.shares[at]:.0%} of the variance)"


def said(made: ExampleMap) -> str:
    """What a map shows, in words."""
    return (
        f"Each mark is a training example, placed by {SPACES[made.space]}. The two axes are the directions in which "
        f"these {made.width:,} numbers vary most; what lies near on a map may be far apart in other directions."
    )


def _grouped(store: Store, colour: str) -> list[str]:
    """The value of each example; empty where it has none."""
    if colour == "source":
        return ["" if one is None else str(one) for one in store.examples["source"]]
    held = [None if one is None else from_json(one) for one in store.examples["content"]]
    if not any(one is not None for one in held):
        return []
    if colour == "system":
        return [system_prompt(one) for one in held]
    return [format_of(one, target) for one, target in zip(held, store.examples["target"], strict=True)]


def _kinds(store: Store, made: ExampleMap, notes: list[str]) -> Kinds:
    if store.plan.label_names is not None:
        return kinds_of(store, made, "label")
    try:
        return kinds_of(store, made, "influence")
    except InputError as error:
        notes.append(f"the marks have one colour: {error}")
        return plain_kinds(store.n)


def _directions(store: Store, space: Space) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Mean, the two main directions as columns, and their shares of the variance."""
    count, shift, total, products = 0, np.zeros(0), np.zeros(0), np.zeros((0, 0))
    for _, vectors in _vectors(store, space):
        if not count:  # sums of differences from the first mean stay exact where the mean is large
            shift = vectors.mean(0)
            total, products = np.zeros_like(shift), np.zeros((len(shift), len(shift)))
        centred = vectors - shift
        count += len(centred)
        total += centred.sum(0)
        products += centred.T @ centred
    if count < 2:
        raise InputError(f"fewer than two examples have finite {space}: there is no map to draw")
    spread = products - np.outer(total, total) / count
    values, vectors = np.linalg.eigh(spread)
    values, vectors = values[-2:], vectors[:, -2:]
    axes = np.zeros((len(spread), 2))
    axes[:, : len(values)] = vectors[:, ::-1]
    largest = axes[np.abs(axes).argmax(0), np.arange(2)]
    axes *= np.where(largest < 0, -1.0, 1.0)
    whole = float(np.trace(spread))
    parts = [max(0.0, float(value)) / whole if whole > 0 else 0.0 for value in values[::-1]]
    return shift + total / count, axes, (parts[0], parts[1] if len(parts) > 1 else 0.0)


def _vectors(store: Store, space: Space) -> Iterator[tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m d"]]]:
    """Vectors of available examples, block by block; those that are not finite are left out."""
    alive = store.alive
    for examples, vectors in _blocks(store, space):
        if vectors.shape[1] > MOST_WIDTH:
            raise InputError(
                f"the {space} of this index have {vectors.shape[1]:,} numbers each: a map is made of at most "
                f"{MOST_WIDTH:,}"
            )
        good = alive[examples] & np.isfinite(vectors).all(1)
        if good.any():
            yield examples[good], vectors[good].astype(np.float64)


def _blocks(store: Store, space: Space) -> Iterator[tuple[Int[np.ndarray, " m"], np.ndarray]]:
    if space == "probabilities":
        yield np.arange(store.n), store.features["mean_probabilities"]
        return
    last = store.plan.checkpoints[-1].id
    scale = store.scale(last)
    for segment in store.segments:
        for places, arrays in segment.shards(last, _NAMES[space]):
            examples, decoded = segment.offset + places, decode_arrays(arrays)
            if space == "hidden":
                yield examples, decoded["meta.pooled"]
            else:
                yield examples, _summed(Gradient.unpack(decoded)) * scale[examples, None]


def _summed(gradient: Gradient) -> Float[np.ndarray, "m d"]:
    """One vector per example: the sum of its rows, or the vector of the other layers."""
    if gradient.rows is None:
        assert gradient.dense is not None
        return gradient.dense.v
    rows = gradient.rows
    found = np.zeros((len(rows), rows.rows.shape[1]))
    filled = np.flatnonzero(np.diff(rows.indptr))
    if len(filled):
        found[filled] = np.add.reduceat(rows.rows, rows.indptr[filled], axis=0, dtype=np.float64)
    return found
