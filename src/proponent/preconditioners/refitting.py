"""Fit again, without the model, what depends on all examples of an index: when indexes are merged, and after an append.

Counts are exact for the rows that are stored, and the norms of examples follow from them.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from proponent.gradients.gradient import Gradient
from proponent.preconditioners.base import FitFacts, preconditioners_of
from proponent.preconditioners.batches import StoredBatch, Sums, Totals
from proponent.preconditioners.query_preconditioner import QueryPreconditioner
from proponent.store import Segment, Store
from proponent.store.refit import Refit
from proponent.store.rows import decode_arrays
from proponent.store.shard_outputs import ShardOutputs
from proponent.types import CheckpointId


def refit(stores: Sequence[Store]) -> Refit | None:
    """Fit to the remaining examples of some indexes; None for a method without such a fit, and if nothing changes."""
    store = stores[0]
    plan, segments = store.plan, [one for other in stores for one in other.segments]
    fitters = [one for one in preconditioners_of(plan.term) if one.repeated is not None]
    ids = [one.id for one in plan.checkpoints]
    tables: dict[CheckpointId, Sums] = {}
    for at in ids if fitters else ():
        held, tables[at] = store.table(at), {}
        for one in fitters:
            assert one.repeated is not None
            totals = Totals()
            for segment in segments:
                for batch in _remaining(segment, at):
                    totals.add(one.partial(one.repeated, batch, held, ()))
            tables[at] |= one.reduce(one.repeated, totals.sums(), held, ())
    if all(_holds(other, tables) for other in stores):
        return None
    changed = QueryPreconditioner(plan.term, plan.blocks, lambda at: store.table(at) | tables[at], tied=plan.tied)
    scales = {
        at: {one: changed.scale(at, _weights(one, weighted=plan.weighted), _gradients(one, at)) for one in segments}
        for at in (ids if plan.scales_train else ())
    }
    before = {line for other in stores for line in _described(other, {})}
    kept = [
        note
        for other in stores
        for note in other.manifest.notes
        if note not in before and not any(one.outdated in note for one in fitters)
    ]
    return Refit(tables, scales, [*kept, *_described(store, tables)])


def _holds(store: Store, tables: dict[CheckpointId, Sums]) -> bool:
    """Whether an index has these arrays already."""
    return all(
        np.array_equal(store.table(at)[name], array) for at, table in tables.items() for name, array in table.items()
    )


def _described(store: Store, tables: dict[CheckpointId, Sums]) -> list[str]:
    """The notes on what is fitted, with some arrays replaced."""
    return list(
        dict.fromkeys(
            line
            for at in (one.id for one in store.plan.checkpoints)
            for one in preconditioners_of(store.plan.term)
            if one.repeated is not None
            for line in one.describe(store.table(at) | tables.get(at, {}), FitFacts(str(at), ()))
        )
    )


def _weights(segment: Segment, *, weighted: bool) -> Float[np.ndarray, " n"]:
    return segment.features("weights") if weighted else np.ones(segment.n)


def _gradients(segment: Segment, at: CheckpointId) -> Iterator[tuple[np.ndarray, Gradient]]:
    for examples, arrays in segment.shards(at):
        yield examples, Gradient.unpack(decode_arrays(arrays))


def _remaining(segment: Segment, at: CheckpointId) -> Iterator[StoredBatch]:
    """The gradients of a segment without those of deleted examples, shard by shard."""
    labels, kept = segment.features("labels"), segment.kept
    for examples, arrays in segment.shards(at):
        gradient, own = Gradient.unpack(decode_arrays(arrays)), kept[examples]
        gradient = gradient if own.all() else gradient.without(~own)
        yield StoredBatch(gradient, own & ~ShardOutputs.of(arrays).bad, labels[examples])
