"""Build an index: store each example's gradient at each checkpoint; sharded, resumable, in parallel processes."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from torch import nn

from proponent.data import Examples
from proponent.errors import DataError, DiskFullError, InputError
from proponent.gradients.gradient import Gradient
from proponent.gradients.layer_vectors import chosen_layers
from proponent.gradients.model_parts import second_tables
from proponent.index.checkpoint_notes import too_few
from proponent.index.clock import Clock
from proponent.index.example_weights import weight_notes
from proponent.index.model_check import check_as_stored
from proponent.index.options import DEFAULTS, Options
from proponent.index.planning import (
    SegmentPlan,
    chosen,
    known_ids,
    label_numbers,
    plan_segments,
    planned_blocks,
    refuse_empty_share,
    refuse_ids,
)
from proponent.index.row_check import check_rows
from proponent.index.stored_columns import stored_columns
from proponent.index.worker import KEPT_BYTES, NOT_TRAINED, Worker, listed, untrained
from proponent.method import Baseline, Gradients, Logit, Loss, Retaken, Term
from proponent.models import Checkpoint, Encoder, Masks, Run
from proponent.models.best import OTHERS
from proponent.models.counting import rules_of
from proponent.models.example_weights import refuse_missing_weights
from proponent.models.padding import NOTE
from proponent.models.tokenizer_files import few_tokens
from proponent.models.trained_parts import trained_of
from proponent.preconditioners.base import FitFacts
from proponent.preconditioners.query_preconditioner import QueryPreconditioner
from proponent.processes import peak_memory
from proponent.store import (
    FORMAT,
    Manifest,
    Plan,
    PlannedCheckpoint,
    PlannedTerm,
    SkippedRow,
    Source,
    Store,
    Writer,
    array_name,
)
from proponent.version import __version__
from proponent.words import RULES

_SMALLER = "--rows int8 or a method that keeps fewer tokens (tracin-we-topk)"


def build(
    run: Run,
    examples: Examples,
    folder: Path,
    method: Term,
    options: Options = DEFAULTS,
    ahead: Callable[["Build"], None] | None = None,
) -> tuple[SkippedRow, ...]:
    """Build an index, resume an unfinished one, or append to a finished one; `ahead` may have shards computed."""
    options.check()
    if not len(examples):
        raise DataError(f"{examples.name} has no rows: there is nothing to index")
    made = Build(run, examples, folder, method, options)
    try:
        if ahead is not None and made.writer.finished is None:
            made.check_space()
            ahead(made)
        return made.run_all()
    finally:
        made.writer.close()


class Build:
    """One build; see `build`."""

    def __init__(self, run: Run, examples: Examples, folder: Path, method: Term, options: Options) -> None:
        self._data_names = [] if run.named(examples.label_names) is run else list(examples.label_names or ())
        run = run.named(examples.label_names)
        self.run, self.examples, self.options = run, examples, options
        self.clock = Clock()
        self.checkpoints = chosen(run, options.steps, method)
        self.rules = rules_of(run, examples.layout, options.max_length, options.stated)
        self.encoder: Encoder = run.encoder(self.rules.max_length, Masks.of(method), self.rules.counting)
        with self.clock("tokenize"):
            refuse_missing_weights(run, examples.name, weighted=examples.weights is not None)
            self.labels = label_numbers(run, examples)
            self._lengths, encoded = self.encoder.lengths_and_encoded(examples, KEPT_BYTES)
            self._fed, self._row_notes = check_rows(run, examples, self.encoder, encoded)
        with self.clock("load"):
            first = run.load(self.checkpoints[0])
        checked = check_as_stored(folder, method, run, first, self.checkpoints, options)
        self.method, self.spec, self._table = checked.method, checked.spec, checked.table
        self._fitters, self._layered, self._layers = checked.fitters, checked.layers, checked.shapes
        self._choice_notes = self._describe_choice(first)
        self._trained, self._second = trained_of(first), second_tables(first)
        self.worker = Worker(
            run, examples, self.labels, checked, options, self.checkpoints, first, self.encoder, encoded, self.clock
        )
        self.cuts = self._cut(0)
        refuse_empty_share(options.shard, self.cuts)
        with self.clock("seal"):
            self.writer = self._writer(folder)

    def run_all(self) -> tuple[SkippedRow, ...]:
        """Do the remaining work and seal; a sealed index is left unchanged."""
        sealed = self.writer.finished
        if sealed is not None:
            return tuple(sealed.skipped)
        self.check_space()
        for at, one in enumerate(self.cuts):
            with self.clock("tables"):
                self._examples(one)
            with self.clock("gradients"):
                self.worker.gradients(self.writer, self.cuts, at)
            if not self.worker.follows and self.worker.complete(self.writer, one):
                self._finish(one)
        self.writer.refresh()
        if (sealed := self.writer.finished) is not None:  # by another machine
            return tuple(sealed.skipped)
        # Other processes work at the same time: only a check after its last shard shows a process whether all are done.
        if not all(self.worker.complete(self.writer, one) for one in self.cuts):
            self.options.say(
                "this share of the shards is finished; the index is complete when the other shares are finished"
            )
            return ()
        if self.worker.follows:
            with self.clock("tables"), self.writer.leases.whole():
                self.worker.fit(self.writer, self.cuts)
        for one in self.cuts:
            self._finish(one)
        with self.clock("seal"):
            skipped = self.worker.skipped(self.writer, self.cuts)
        if len(skipped) == len(self.examples):
            if all(one.cause == NOT_TRAINED for one in skipped):
                raise InputError(
                    f"no token of {self.examples.name} counts within the first {self.encoder.max_length} tokens of its "
                    "rows: give a larger --max-length, or say which tokens the training counted"
                )
            raise InputError(
                f"no row of {self.examples.name} has a finite loss and gradient: check the weights of the run"
            )
        self.writer.seal(skipped, self._notes(skipped), self.clock.seconds, peak_memory() or 0)
        return skipped

    def _cut(self, first: int) -> list[SegmentPlan]:
        width = self._table[1]
        if self._layered is not None:
            width = self._layered.width(width, self._lengths)
        return plan_segments(self._lengths, width, self.options.segment_rows, first)

    def _writer(self, folder: Path) -> Writer:
        def addition(first: int, manifest: Manifest) -> Source | None:
            known = known_ids(Store(folder), self.examples)
            if known and self.examples.fingerprint in {one.fingerprint for one in manifest.sources}:
                self.options.say(f"{self.examples.name} is in {folder} already: nothing to append")
                return None
            refuse_ids(known, folder, self.examples)
            self.cuts = self._cut(first)
            return self._source()

        return Writer(
            folder,
            self._plan(),
            append=addition if self.options.append else None,
            repair=self.options.repair,
            waiting=lambda: self.options.say(f"another process is using {folder}: waiting for it"),
            follows=self.worker.follows,
        )

    def _source(self) -> Source:
        return Source(
            data=self.examples.name,
            columns=self.options.columns | dict(self.examples.written),
            fingerprint=self.examples.fingerprint,
            n=len(self.examples),
            batch_size=self.options.batch_size,
            segments=[one.planned for one in self.cuts],
        )

    def _plan(self) -> Plan:
        run = self.run
        return Plan(
            format=FORMAT,
            proponent=__version__,
            method=self.method,
            rows=self.options.rows,
            terms=[self._term()],
            run=str(run.path.absolute()),
            joined=[str(path.absolute()) for path in run.joined],
            tokenizer=run.named_tokenizer,
            base=run.info.base,
            kind=run.task.kind,
            label_names=list(run.label_names) if run.label_names else None,
            data_names=self._data_names,
            max_length=self.encoder.max_length,
            counting=self.rules.counting,
            trust_remote_code=run.trust_remote_code,
            fingerprints=self._fingerprints(),
            predicts=self.run.task.predicts,
            weighted=self.examples.weights is not None,
            word_rules=RULES,
            source=self._source(),
        )

    def _term(self) -> PlannedTerm:
        source = next(filter(None, (one.source(self.options) for one in self._fitters)), "")
        return PlannedTerm(
            embedding_path=self.spec.path,
            tied=self.spec.tied,
            checkpoints=[
                PlannedCheckpoint(
                    id=one.id,
                    learning_rate=one.learning_rate,
                    rule=one.rule,
                    weight=self._weight(one),
                    preconditioner=source,
                )
                for one in self.checkpoints
            ],
            blocks=planned_blocks(self._layered),
        )

    def _weight(self, checkpoint: Checkpoint) -> float:
        """The factor of products at a checkpoint; representer values have a unit."""
        method = self.method
        if isinstance(method, Baseline) or (isinstance(method, Gradients) and method.weights.kind == "learning-rate"):
            summed = isinstance(method.objective, Loss) and method.objective.reduction == "sum"
            if self._fed is None or not summed or not len(self._fed.counted) or self.run.task.pairing is not None:
                return checkpoint.learning_rate
            return checkpoint.learning_rate / float(self._fed.counted.mean())  # a step divides by its counted tokens
        refit = method.prepare if isinstance(method, Gradients) else None
        if refit is None or not isinstance(method.objective, Logit):
            return 1.0
        return 1.0 / (2.0 * refit.penalty * len(self.examples))

    def _fingerprints(self) -> dict[str, str]:
        """Fingerprints of the tokenizer, of the weights in use (others may change), and of fitted files."""
        unused = {f"weights {one.id}" for one in self.run.saved if one not in self.checkpoints}
        own = {name: value for name, value in self.run.fingerprints.items() if name not in unused}
        named = {str(one.id): one for one in self.checkpoints}
        for one in self._fitters:
            own |= one.fingerprints(named, self.options)
        return own

    def check_space(self) -> None:
        """Stop before the work begins if not even half of the estimated size fits on the disk."""
        if not self.spec.rows and self._layered is None:
            return
        top = getattr(self.method.gradient, "top", None) if isinstance(self.method, Gradients) else None
        kept = np.minimum(self._lengths, top) if top is not None else self._lengths
        size = {"fp32": 4, "fp16": 2, "int8": 1}[self.options.rows]
        guess = int(kept.sum()) * self._table[1] * (size * 2 * self.spec.rows + 4 * self.spec.head)
        guess += 0 if self._layered is None else 4 * self._layered.projection.size * len(self._lengths)
        guess *= len(self.checkpoints)
        there = sum(path.stat().st_size for path in self.writer.folder.rglob("*") if path.is_file())
        free = shutil.disk_usage(self.writer.folder).free
        if free + there < guess // 2:
            raise DiskFullError(
                f"{self.writer.folder}: the index needs about {guess / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are "
                "free: free some space, choose "
                + ("fewer --steps or a smaller --project" if self._layered is not None else _SMALLER)
            )

    def _examples(self, one: SegmentPlan) -> None:
        if not self.writer.has_examples(one.planned.name):
            kept = stored_columns(
                self.examples,
                one.rows,
                self.labels,
                self.run.label_names,
                one.order,
                self.encoder.decoded,
                self.run.task.stored,
            )
            self.writer.put_examples(one.planned.name, kept)

    def _finish(self, one: SegmentPlan) -> None:
        """Write postings and features of a segment; one process does it, the others wait for it."""
        with self.writer.leases.whole():
            if self.writer.is_finished(one.planned.name) or self.writer.finished is not None:
                return
            with self.clock("tables"):
                features = self.writer.gather(one.planned, one.order, [self.labels[row] for row in one.rows])
                weights = self._weights_of(one)
                features |= {"weights": weights} if self.writer.plan.weighted else {}
                scaled = self.checkpoints if self.writer.plan.scales_train else ()
                features |= {array_name("scale", at.id): self._scale(one, at, weights) for at in scaled}
            with self.clock("postings"):
                self.writer.finish(one.planned, one.order, features, postings=self.spec.by_token)

    def _weights_of(self, one: SegmentPlan) -> np.ndarray:
        weights = self.examples.weights
        return np.ones(len(one.rows)) if weights is None else weights[one.rows.start : one.rows.stop]

    def _scale(self, one: SegmentPlan, checkpoint: Checkpoint, weights: np.ndarray) -> np.ndarray:
        """The factor of each training gradient: its weight, and 1 / norm in the method's metric if it is normalized."""
        preconditioner = QueryPreconditioner(
            self.method, self.writer.plan.blocks, self.writer.read_table, tied=self.spec.tied
        )
        shards = self.writer.decoded(checkpoint.id, one.planned, one.order)
        gradients = ((places, Gradient.unpack(arrays)) for places, arrays in shards)
        return preconditioner.scale(checkpoint.id, weights, gradients)

    def _notes(self, skipped: tuple[SkippedRow, ...]) -> list[str]:
        layered = [] if self._layered is None else self._layered.notes()
        notes = [*self._run_notes(), *self._choice_notes, *layered, *self._fitted_notes()]
        notes += [*self.run.task.notes(self.encoder.masks), *self.rules.notes, *self._row_notes]
        if not self.run.placement.plain:
            of = "" if self.writer.base is None else f"{self.examples.name} was "
            notes.append(f"{of}computed on {self.run.placement.name}")
        notes += weight_notes(self.run, self.examples, self.method)
        idle = [one.id for one in skipped if one.cause == NOT_TRAINED]
        broken = [one.id for one in skipped if one.cause != NOT_TRAINED]
        notes += [untrained(idle, self.encoder.max_length)] if idle else []
        if broken:
            notes.append(
                f"{len(broken)} training rows have no finite loss or gradient and are left out: {listed(broken)}"
            )
        long = self.encoder.at_limit(self.examples, self._lengths)
        added = "" if self.writer.base is None else f" of {self.examples.name}"  # equal notes of two sources merge
        if long:
            notes.append(
                f"{long} training texts{added} reach the limit of {self.encoder.max_length} tokens; tokens beyond the "
                "limit were ignored"
            )
        notes += [NOTE] if self.run.padding.changes else []
        notes += few_tokens(len(self.run.tokenizer), self._table[0])
        if self._data_names:
            names = ", ".join(self._data_names[:8])
            notes.append(
                f"the model's classes have no names: those of {self.examples.name} are used in order ({names})"
            )
        notes += [] if self._trained is None else self._trained.notes(self.writer.plan.shown_path)
        if self._second and self.writer.plan.shown_path is not None:
            notes.append(
                f"this model also looks tokens up in {', '.join(self._second)}, whose rows are left out: tracin-layers "
                "scores them as layers"
            )
        if self.spec.path == "input" and self.spec.tied:
            notes.append(
                "path input: the head shares the embedding's table, and the head's part of the gradient is left out"
            )
        notes += self._appended_notes()
        notes += too_few(self.method, self.run, self.checkpoints)
        if self.options.rows != "fp32":
            notes.append(f"gradient rows are stored as {self.options.rows} with one scale each: scores are rounded")
        return notes

    def _appended_notes(self) -> Iterator[str]:
        """Notes on what an appended source takes over from the first build."""
        first = self.checkpoints[0]
        for one in self._fitters if self.writer.base is not None else ():
            table = self.writer.read_table(first.id)
            said = one.appended(table, self.worker.stored(self.writer, self.cuts, first))
            if said:
                yield f"{self.examples.name} was appended: {said}"

    def _run_notes(self) -> list[str]:
        """Notes on how the run's folder was read; excluded checkpoints are named only if the user chose no steps."""
        return [note for note in self.run.notes if self.options.steps is None or not note.endswith(OTHERS)]

    def _describe_choice(self, model: nn.Module) -> list[str]:
        """Describe what a method scores if its index stores no gradients."""
        if not isinstance(self.method, Retaken):
            return []
        choice = chosen_layers(self.method, self.run, model)
        return [
            f"{self.method.name} scores {choice.description()}; no gradients are stored: each query computes them again"
        ]

    def _fitted_notes(self) -> list[str]:
        """Describe what was fitted."""
        steps = [one.id for one in self.checkpoints if self._fitters]
        tables = {step: self.writer.read_table(step) for step in steps}
        contexts = {step: FitFacts(str(step), self._layers, self.options.queries) for step in steps}
        lines = [
            line
            for fitters in (
                [one for one in self._fitters if one.stage != "query"],
                [one for one in self._fitters if one.stage == "query"],
            )
            for step in steps
            for one in fitters
            for line in one.describe(tables[step], contexts[step])
        ]
        return list(dict.fromkeys(lines))
