"""Compute the shards of an index, one checkpoint, shard and batch at a time, alongside other processes."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from torch import nn

from proponent.data import Examples
from proponent.errors import InputError
from proponent.gradients.computer import GradientBatch, GradientComputer, joined
from proponent.gradients.gradient import Gradient
from proponent.index.clock import Clock
from proponent.index.extra_passes import fitted_after, fitted_before, follows, lacking, query_batch, text_batches
from proponent.index.model_check import CheckedMethod
from proponent.index.options import Options
from proponent.index.planning import SegmentPlan, batches, shard_of
from proponent.index.row_check import not_trained
from proponent.method import Baseline, Retaken, similarity_of
from proponent.models import Checkpoint, Encoded, Encoder, Run, encoded_bytes
from proponent.preconditioners.base import Pass, install_fitted
from proponent.preconditioners.batches import Batch, StoredBatch
from proponent.progress import track
from proponent.store import SkippedRow, Writer
from proponent.store.shard_outputs import REQUIRED, ShardOutputs
from proponent.types import CheckpointId

KEPT_BYTES = 48 * 2**20
"""Maximum bytes of cached encoded examples: of a whole data set once its tokens are counted, or of one segment for the
next checkpoints."""

POLL = 0.5
"""Seconds between two checks of the shards that other processes compute."""


NOT_TRAINED = "not trained on: no token of it counts"
"""Cause of a skipped row that the training dropped; such rows are no sign of a broken run."""


class TokensRead(NamedTuple):
    """What a language model reads of some examples."""

    counted: Int[np.ndarray, " n"]  # tokens that count in the loss
    truncated: Bool[np.ndarray, " n"]  # whether a text of the example is longer than the model reads

    @classmethod
    def of(cls, encoded: Sequence[Encoded]) -> "TokensRead":
        """Of encoded examples."""
        counts, cuts = [one.n_counted for one in encoded], [one.truncated for one in encoded]
        return cls(np.asarray(counts, dtype=np.int32), np.asarray(cuts, dtype=np.bool_))


def untrained(ids: Sequence[str], most: int, of: str = "") -> str:
    """Say which rows the training dropped."""
    why = f"were not trained on, as none of their first {most} tokens counts; no score"
    return f"{len(ids)} training rows{of} {why}: {listed(ids)}"


def listed(ids: Sequence[str]) -> str:
    """The first of some rows, by their ids."""
    return f"ids {', '.join(ids[:10])}" + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")


class Worker:
    """Computes missing shards, and lists the rows without a finite gradient."""

    def __init__(
        self,
        run: Run,
        examples: Examples,
        labels: list[int],
        checked: CheckedMethod,
        options: Options,
        checkpoints: tuple[Checkpoint, ...],
        first: nn.Module,
        encoder: Encoder,
        encoded: list[Encoded] | None,
        clock: Clock,
    ) -> None:
        self.run, self.examples, self.labels, self.options = run, examples, labels, options
        self.checkpoints, self.encoder = checkpoints, encoder
        self.method, self.spec, self.table = checked.method, checked.spec, checked.table
        self._fitters, self._layers, self._similarity = checked.fitters, checked.shapes, similarity_of(self.method)
        self._loaded = {checkpoints[0].id: first}
        self._bad: dict[int, str] = {}
        self._said: set[str] = set()
        self._given, self._clock = encoded, clock
        self._encoded: dict[int, list[Encoded]] = {}
        self._mine = shard_of(options.shard)
        self._held: tuple[CheckpointId, GradientComputer] | None = None  # of a process that computes parts

    def gradients(self, writer: Writer, cuts: list[SegmentPlan], at: int) -> None:
        """Compute the shards of a segment that no process has computed."""
        self._encoded, one = {}, cuts[at]
        if writer.is_finished(one.planned.name):
            return
        before = sum(len(earlier.planned.shards) - 1 for earlier in cuts[:at])
        part = f" ({at + 1} of {len(cuts)})" if len(cuts) > 1 else ""
        for checkpoint in self.checkpoints:
            self._checkpoint(writer, one, checkpoint, before, part)

    def part(self, writer: Writer, cuts: list[SegmentPlan], step: CheckpointId, number: int, of: int) -> None:
        """Compute every `of`-th shard of a checkpoint, from one number on; its model stays loaded for the next part."""
        checkpoint = next(one for one in self.checkpoints if one.id == step)
        first = 0
        for one in cuts:
            count = len(one.planned.shards) - 1
            missing = [] if writer.is_finished(one.planned.name) else self._missing(writer, one, checkpoint)
            mine = [shard for shard in missing if (first + shard) % of == number]
            first += count
            if not mine:
                continue
            self._encoded = {}  # holds batches of one segment
            if self._held is None or self._held[0] != step:
                self._held = None  # before the next model is loaded
                self._held = step, self._pass(checkpoint)
            self._table_of(writer, checkpoint, self._held[1])
            self._shards(writer, one, checkpoint, self._held[1], mine, "")
            self._say(self._held[1].notes)

    def complete(self, writer: Writer, one: SegmentPlan) -> bool:
        """Whether all shards of a segment exist, whichever process computed them."""
        return not any(self._missing(writer, one, step) for step in self.checkpoints)

    def _missing(self, writer: Writer, one: SegmentPlan, checkpoint: Checkpoint) -> list[int]:
        shards = range(len(one.planned.shards) - 1)
        return [shard for shard in shards if not writer.has_shard(checkpoint.id, one.planned.name, shard)]

    def _checkpoint(self, writer: Writer, one: SegmentPlan, checkpoint: Checkpoint, before: int, part: str) -> None:
        computer: GradientComputer | None = None
        waiting = False
        while True:
            missing = self._missing(writer, one, checkpoint)
            if self._mine is not None:
                missing = [shard for shard in missing if (before + shard) % self._mine[1] == self._mine[0]]
            if not missing and not self._lacks_table(writer, checkpoint):
                return
            computer = computer or self._pass(checkpoint)
            with self._clock("tables"):
                self._table_of(writer, checkpoint, computer)
            if self._shards(writer, one, checkpoint, computer, missing, part) or not missing:
                self._say(computer.notes)
                continue
            if not waiting:
                self.options.say(f"other processes compute the last shards of {checkpoint.id}: waiting for them")
            waiting = True
            time.sleep(POLL)

    def _say(self, notes: list[str]) -> None:
        for note in notes:
            if note not in self._said:
                self.options.say(note)
                self._said.add(note)

    def _lacks_table(self, writer: Writer, checkpoint: Checkpoint) -> bool:
        """Whether arrays needed for the gradients of a checkpoint are missing; an append uses those of the index."""
        held = writer.table_names(checkpoint.id)
        needed = [*(["head"] if self.spec.head else []), *(["embedding"] if self._similarity is not None else [])]
        absent = lacking(self._fitters, held, self._layers, self.options, after=False)
        return writer.base is None and (bool(absent) or any(name not in held for name in needed))

    def _pass(self, checkpoint: Checkpoint) -> GradientComputer:
        model = self._loaded.pop(checkpoint.id, None)
        with self._clock("load"):
            model = model if model is not None else self.run.load(checkpoint)
        pooled = isinstance(self.method, Retaken) or checkpoint is self.checkpoints[-1]
        return GradientComputer(self.run, model, self.method, self.encoder, replace(self.spec, pooled=pooled))

    def _table_of(self, writer: Writer, checkpoint: Checkpoint, computer: GradientComputer) -> None:
        """Publish the tables for products at a checkpoint once: shards depend on them, so the first process decides."""
        if self._lacks_table(writer, checkpoint):
            made = self._tables(checkpoint, computer)
            with writer.leases.whole():
                if self._lacks_table(writer, checkpoint):
                    writer.put_table(checkpoint.id, writer.read_table(checkpoint.id) | made)
        install_fitted(self.method, computer, lambda: writer.read_table(checkpoint.id))

    def _tables(self, checkpoint: Checkpoint, computer: GradientComputer) -> dict[str, np.ndarray]:
        def source(this: Pass) -> Iterator[Batch]:
            return text_batches(computer, self.stream(), this)

        tables = computer.tables()
        return tables | fitted_before(self._fitters, computer, source, checkpoint, self._layers, self.options)

    def fit(self, writer: Writer, cuts: list[SegmentPlan]) -> None:
        """Fit the query-side preconditioners once all gradients exist; an append uses those of the index."""
        for checkpoint in self.checkpoints if writer.base is None else ():
            held = writer.read_table(checkpoint.id)
            fitters = lacking(self._fitters, held, self._layers, self.options, after=True)
            if not fitters:
                continue
            with self._clock("tables" if self.spec.choice is None else "curvature"):
                source = self._sources(writer, cuts, checkpoint)
                made = fitted_after(fitters, source, held, self._layers, self.options)
                writer.put_table(checkpoint.id, made, after=True)

    @property
    def follows(self) -> bool:
        """Whether something is fitted once all gradients exist."""
        return any(follows(one, self.options) for one in self._fitters)

    def _sources(
        self, writer: Writer, cuts: list[SegmentPlan], checkpoint: Checkpoint
    ) -> Callable[[Pass], Iterable[Batch]]:
        """The inputs of passes after the gradients; the model is loaded once, where needed."""
        prepared = cache(lambda: self._prepared(writer, checkpoint))

        def source(this: Pass) -> Iterable[Batch]:
            if this.over == "texts":
                return text_batches(prepared(), self.stream(), this)
            if this.over == "gradients":
                return self.stored(writer, cuts, checkpoint)
            assert self.options.queries is not None
            last = self.checkpoints[-1]
            return [query_batch(prepared(), lambda: self._pass(last), self.options.queries, self.options.batch_size)]

        return source

    def stored(self, writer: Writer, cuts: list[SegmentPlan], checkpoint: Checkpoint) -> Iterator[StoredBatch]:
        """Read the finished gradients of some segments, shard by shard."""
        labels = np.asarray(self.labels, dtype=np.int64)
        for one in cuts:
            for places, arrays in writer.decoded(checkpoint.id, one.planned, one.order):
                own, outputs = labels[places + one.rows.start], ShardOutputs.of(arrays)
                yield StoredBatch(Gradient.unpack(arrays), ~outputs.bad, own, outputs.probabilities, self.table)

    def stream(self) -> Iterator[tuple[list[Encoded], list[int]]]:
        """Read the training set in batches, shortest texts first."""
        lengths = self.encoder.lengths(self.examples)
        order = np.argsort(lengths, kind="stable")
        cuts = batches(lengths[order], 0, len(order), self.options.batch_size, equal=self.run.equal_lengths)
        for start, stop in track(
            cuts,
            total=len(order),
            label="a pass before the gradients",
            weight=lambda cut: cut[1] - cut[0],
            quiet=self.options.quiet,
        ):
            rows: list[int] = order[start:stop].tolist()
            yield self.encoder.encode([self.examples[row] for row in rows]), [self.labels[row] for row in rows]

    def _prepared(self, writer: Writer, checkpoint: Checkpoint) -> GradientComputer:
        computer = self._pass(checkpoint)
        install_fitted(self.method, computer, lambda: writer.read_table(checkpoint.id))
        return computer

    def _shards(
        self,
        writer: Writer,
        one: SegmentPlan,
        checkpoint: Checkpoint,
        computer: GradientComputer,
        shards: list[int],
        part: str,
    ) -> int:
        """Compute those shards that no other process is computing; return their number."""
        bounds, name = one.planned.shards, one.planned.name
        steps = track(
            self._todo(writer, one, checkpoint, shards),
            total=sum(bounds[shard + 1] - bounds[shard] for shard in shards),
            label=(f"gradients, {checkpoint.id}" if not isinstance(self.method, Baseline) else "predictions") + part,
            weight=lambda cut: cut[2] - cut[1],
            quiet=self.options.quiet,
        )
        done: list[tuple[GradientBatch, TokensRead]] = []
        computed = 0
        for shard, start, stop in steps:
            done.append(self._batch(one, computer, start, stop))
            if stop == bounds[shard + 1]:
                arrays = _shard_arrays(done, tokens=self.run.task.predicts_tokens)
                writer.put_shard(checkpoint.id, name, shard, arrays)
                writer.leases.drop(writer.units[name, checkpoint.id, shard])
                self._note_bad(one, checkpoint, bounds[shard], ShardOutputs.of(arrays))
                done, computed = [], computed + 1
        return computed

    def _todo(
        self, writer: Writer, one: SegmentPlan, checkpoint: Checkpoint, shards: list[int]
    ) -> Iterator[tuple[int, int, int]]:
        """Batches of one shard after another, as (shard, begin, end); a shard is claimed when it is reached."""
        name, step, bounds = one.planned.name, checkpoint.id, one.planned.shards
        for shard in shards:
            unit = writer.units[name, step, shard]
            if not writer.leases.take(unit):
                continue
            if writer.has_shard_now(step, name, shard):
                writer.leases.drop(unit)
                continue
            cuts = batches(
                one.lengths, bounds[shard], bounds[shard + 1], self.options.batch_size, equal=self.run.equal_lengths
            )
            yield from ((shard, start, stop) for start, stop in cuts)

    def _batch(
        self, one: SegmentPlan, computer: GradientComputer, start: int, stop: int
    ) -> tuple[GradientBatch, TokensRead]:
        rows = [one.rows[int(place)] for place in one.order[start:stop]]
        encoded = self._encode(one, start, rows)
        return computer.train(encoded, [self.labels[row] for row in rows]), TokensRead.of(encoded)

    def _encode(self, one: SegmentPlan, start: int, rows: list[int]) -> list[Encoded]:
        """Encode a batch, or use encodings cached while tokens were counted or at an earlier checkpoint."""
        if self._given is not None:
            return [self._given[row] for row in rows]
        found = self._encoded.get(start)
        if found is None:
            found = self.encoder.encode([self.examples[row] for row in rows])
            if len(self.checkpoints) > 1 and encoded_bytes(int(one.lengths.sum()), len(one.lengths)) <= KEPT_BYTES:
                self._encoded[start] = found
        return found

    def _note_bad(self, one: SegmentPlan, checkpoint: Checkpoint, start: int, outputs: ShardOutputs) -> None:
        for place in np.flatnonzero(outputs.bad).tolist():
            cause = "loss" if not np.isfinite(outputs.losses[place]) else "gradient"
            row = one.rows[int(one.order[start + place])]
            if row not in self._bad:
                empty = one.lengths[start + place] == 0
                idle = not empty and not_trained(self.encoder, self.examples[row])
                said = "the text has no token" if empty else f"{cause} is not finite at {checkpoint.id}"
                self._bad[row] = NOT_TRAINED if idle else said
        share = self.options.max_bad_rows
        allowed = max(1, int(share * len(self.examples) + 1e-9)) if share else 0
        broken = [bad for bad in self._skipped() if bad.cause != NOT_TRAINED] if len(self._bad) > allowed else []
        if len(broken) > allowed:
            listed = "; ".join(f"id {bad.id} (row {bad.row}): {bad.cause}" for bad in broken[:20])
            more = f"; and {len(broken) - 20} more" if len(broken) > 20 else ""
            raise InputError(
                f"{len(broken)} rows have no finite loss or gradient, more than the {allowed} that --max-bad-rows "
                f"{share:g} allows: {listed}{more}"
            )

    def _skipped(self) -> tuple[SkippedRow, ...]:
        return tuple(
            SkippedRow(id=self.examples[row].id, row=self.examples[row].row, cause=cause)
            for row, cause in sorted(self._bad.items())
        )

    def skipped(self, writer: Writer, cuts: list[SegmentPlan]) -> tuple[SkippedRow, ...]:
        """List the rows without a finite gradient in all shards, whichever process computed them."""
        for one in cuts:
            for checkpoint in self.checkpoints:
                shards = writer.shards(checkpoint.id, one.planned, np.arange(one.planned.n), REQUIRED)
                for places, arrays in shards:
                    start = int(places[0]) if len(places) else 0
                    self._note_bad(one, checkpoint, start, ShardOutputs.of(arrays))
        return self._skipped()


def _shard_arrays(done: list[tuple[GradientBatch, TokensRead]], *, tokens: bool) -> dict[str, np.ndarray]:
    """Concatenate the batches of a shard; with the numbers of tokens of a language model."""
    whole = joined([batch for batch, _ in done])
    outputs = ShardOutputs(whole.bad, whole.losses, whole.probabilities, whole.pooled)
    if tokens:
        counted, truncated = (np.concatenate(parts) for parts in zip(*(read for _, read in done), strict=True))
        outputs = replace(outputs, counted=counted, truncated=truncated)
    return whole.gradient.pack() | outputs.pack()
