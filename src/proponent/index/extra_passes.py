"""Run the passes that fitters request in addition to the pass over training gradients; independent of their kind.

Fit what gradients depend on before the gradients, and query-side preconditioners after them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from proponent.data import Examples
from proponent.errors import InputError
from proponent.gradients.computer import GradientComputer
from proponent.gradients.forms import Dense
from proponent.gradients.gradient import Gradient
from proponent.index.planning import batches
from proponent.index.queries import check_queries, labels_of, named
from proponent.models import Checkpoint, Encoded, SampledLabels
from proponent.preconditioners.base import BuildOptions, Fitter, Pass
from proponent.preconditioners.batches import Arrays, Batch, LayerShape, StoredBatch, Sums, TextBatch, Totals

HELD_BYTES = 512 * 2**20
"""Maximum bytes of layer sums held at once while stored gradients are read; more layers need another read."""

Texts = Iterator[tuple[Sequence[Encoded], Sequence[int]]]
"""The training set in batches of encoded examples and their classes."""

Source = Callable[[Pass], Iterable[Batch]]


def follows(fitter: Fitter, options: BuildOptions) -> bool:
    """Whether any pass of a fitter needs the gradients."""
    return any(one.when == "after" for one in fitter.passes(options))


def lacking(
    fitters: Iterable[Fitter], names: Iterable[str], layers: Sequence[LayerShape], options: BuildOptions, *, after: bool
) -> list[Fitter]:
    """Return the fitters of one stage (before or after the gradients) whose arrays are missing from a table."""
    held = set(names)
    return [one for one in fitters if follows(one, options) == after and not held.issuperset(one.arrays(layers))]


def fitted_before(
    fitters: Iterable[Fitter],
    computer: GradientComputer,
    source: Source,
    checkpoint: Checkpoint,
    layers: Sequence[LayerShape],
    options: BuildOptions,
) -> Sums:
    """Fit what gradients depend on; each fit uses the earlier ones."""
    known: Sums = {}
    for one in fitters:
        if not follows(one, options):
            known |= one.recorded(checkpoint, computer, options)
            known = _all_passes(one, source, known, layers, options)
            one.install(computer, known)
    return _published(known)


def fitted_after(
    fitters: Iterable[Fitter], source: Source, known: Arrays, layers: Sequence[LayerShape], options: BuildOptions
) -> Sums:
    """Fit the query-side preconditioners."""
    made = dict(known)
    for one in fitters:
        made = _all_passes(one, source, made, layers, options)
    return _published(made)


def _all_passes(
    fitter: Fitter, source: Source, known: Sums, layers: Sequence[LayerShape], options: BuildOptions
) -> Sums:
    for this in fitter.passes(options):
        known = run_pass(fitter, this, source, known, layers)
    return known


def run_pass(
    fitter: Fitter, this: Pass, source: Source, known: Arrays, layers: Sequence[LayerShape], most: int = HELD_BYTES
) -> Sums:
    """Run one pass; return everything known after it."""
    after = dict(known)
    for group in layer_groups(fitter, this, layers, most):
        totals = Totals()
        for batch in source(this):
            totals.add(fitter.partial(this, batch, after, group))
        after |= fitter.reduce(this, totals.sums(), after, group)
    return after | dict(fitter.close(this, after, layers))


def layer_groups(
    fitter: Fitter, this: Pass, layers: Sequence[LayerShape], most: int
) -> Iterator[tuple[LayerShape, ...]]:
    """Layers whose sums are held together: all layers in a pass over texts or queries, otherwise as many as fit."""
    if this.over != "gradients" or not layers:
        yield tuple(layers)
        return
    group: list[LayerShape] = []
    held = 0
    for layer in layers:
        size = fitter.held(this, layer)
        if group and held + size > most:
            yield tuple(group)
            group, held = [], 0
        if size:
            group.append(layer)
            held += size
    if group:
        yield tuple(group)


def _published(known: Sums) -> Sums:
    return {name: value for name, value in known.items() if not name.startswith("_")}


def text_batches(computer: GradientComputer, texts: Texts, this: Pass) -> Iterator[TextBatch]:
    """Run texts through the model, in parts where necessary."""
    draws = None if this.sampled is None else SampledLabels(this.sampled)
    for encoded, labels in texts:
        start = 0
        for captured, count in computer.calls(encoded, labels, draws):
            yield TextBatch(computer, captured, count, labels[start : start + count])
            start += count


def query_batch(
    computer: GradientComputer, last: Callable[[], GradientComputer], queries: Examples, size: int
) -> StoredBatch:
    """Compute the queries' gradients exactly as an index does for its queries."""
    rows = list(queries)
    check_queries(rows)
    encoded = computer.encoder.encode(rows)
    labels, _, _ = labels_of(computer if all(one.label is not None for one in rows) else last(), rows, encoded, size)
    lengths = np.asarray([one.length for one in encoded])
    order = np.argsort(lengths, kind="stable")
    parts: dict[int, Gradient] = {}
    for start, stop in batches(lengths[order], 0, len(order), size, equal=computer.run.equal_lengths):
        own: list[int] = order[start:stop].tolist()
        passed = computer.query([encoded[row] for row in own], [labels[row] for row in own])
        if passed.bad.any():
            where = named(rows, own[int(np.flatnonzero(passed.bad)[0])])
            raise InputError(f"{queries.name}: the loss or gradient of {where} is not finite: leave it out of --eval")
        assert passed.gradient.dense is not None
        parts |= {row: Gradient(dense=Dense.of(v[None])) for row, v in zip(own, passed.gradient.dense.v, strict=True)}
    whole = Gradient.stack([parts[row] for row in range(len(rows))])
    return StoredBatch(whole, np.ones(len(rows), dtype=np.bool_), np.asarray(labels, dtype=np.int64))
