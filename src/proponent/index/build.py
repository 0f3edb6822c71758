"""Build an index: every example's kept gradient at every checkpoint, shard by shard, resumable, by many processes."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from proponent.curvature import MeanSquares
from proponent.data import Examples
from proponent.errors import DataError, DiskFullError, InputError
from proponent.gradients.forms import Rows
from proponent.gradients.gradient import Gradient
from proponent.index.clock import Clock
from proponent.index.curvature_fitter import RIDGES, SPREAD, CurvatureFitter
from proponent.index.gradient_computer import gradient_spec
from proponent.index.layer_vectors import LayerVectors, chosen_layers, refuse_layers, with_layers_named
from proponent.index.mixing import (
    check_curvature,
    describe_eval_spread,
    describe_mixing,
    describe_sampled_labels,
    refuse_too_few,
)
from proponent.index.options import DEFAULTS, Options
from proponent.index.planning import (
    SegmentPlan,
    chosen,
    known_ids,
    label_numbers,
    plan_segments,
    refuse_empty_share,
    refuse_ids,
)
from proponent.index.principal_directions import describe as leading_told
from proponent.index.query_preconditioner import QueryPreconditioner
from proponent.index.second_moments import moments_fingerprints, read_moments
from proponent.index.stored_columns import stored_columns
from proponent.index.worker import KEPT_BYTES, Worker
from proponent.models import Checkpoint, Encoder, Masks, Run
from proponent.models.best import OTHERS
from proponent.processes import peak_memory
from proponent.recipe import Recipe
from proponent.store import FORMAT, Manifest, Plan, PlannedCheckpoint, SkippedRow, Source, Store, Writer
from proponent.types import step_name
from proponent.version import __version__
from proponent.words import RULES

_SMALLER = "--rows int8 or a method that keeps fewer tokens (tracin-we-topk)"


def build(
    run: Run, examples: Examples, folder: Path, recipe: Recipe, options: Options = DEFAULTS
) -> tuple[SkippedRow, ...]:
    """Build an index, go on with an unfinished one, or append to a finished one."""
    options.check()
    if not len(examples):
        raise DataError(f"{examples.name} has no rows: there is nothing to index")
    made = Build(run, examples, folder, recipe, options)
    try:
        return made.run_all()
    finally:
        made.writer.close()


class Build:
    """One build; see `build`."""

    def __init__(self, run: Run, examples: Examples, folder: Path, recipe: Recipe, options: Options) -> None:
        self.run, self.examples, self.recipe, self.options = run, examples, recipe, options
        refuse_layers(recipe)
        check_curvature(recipe, options.queries)
        self.clock = Clock()
        self.checkpoints = chosen(run, options.steps, recipe)
        self.encoder: Encoder = run.encoder(run.length(options.max_length), Masks.of(recipe))
        with self.clock("tokenize"):
            self.labels = label_numbers(run, examples)
            self._lengths, encoded = self.encoder.lengths_and_encoded(examples, KEPT_BYTES)
        with self.clock("load"):
            first = run.load(self.checkpoints[0])
        self.recipe = recipe = with_layers_named(recipe, run, first)
        self.spec = gradient_spec(recipe, run, first)
        self._told = [] if recipe.solver == "none" else self._describe_choice(first)
        self._layered = None if self.spec.choice is None else LayerVectors(self.spec.choice, recipe)
        if self._layered is not None:
            refuse_too_few(recipe, self._layered.widths, options.queries)
        self.moments = {one.step: read_moments(one, recipe, options.second_moment) for one in self.checkpoints}
        if self.spec.head and recipe.preconditioner == "adam" and options.second_moment == "estimate":
            raise InputError(
                "the second moment cannot be estimated for a table that the head shares: "
                "record it (proponent.Recorder), or choose --path input"
            )
        if options.rows != "fp32" and not self.spec.rows:
            raise InputError(f"--rows {options.rows} is about rows of the word embedding, and {recipe.name} keeps none")
        self.worker = Worker(
            run, examples, self.labels, recipe, options, self.checkpoints, first, self.encoder, self.spec,
            self.moments, encoded, self.clock,
        )  # fmt: skip
        self._table = self.worker.table
        self.cuts = self._cut(0)
        refuse_empty_share(options.shard, self.cuts)
        with self.clock("seal"):
            self.writer = self._writer(folder)

    def run_all(self) -> tuple[SkippedRow, ...]:
        """Do what is not done yet, and seal; an index that is sealed already is left alone."""
        sealed = self.writer.finished
        if sealed is not None:
            return tuple(sealed.skipped)
        self._space()
        rows_only = self._layered is None
        estimated = rows_only and self.recipe.preconditioner == "adam" and self.options.second_moment == "estimate"
        estimated |= self.recipe.curvature != "none"
        for at, one in enumerate(self.cuts):
            with self.clock("tables"):
                self._examples(one)
            with self.clock("gradients"):
                self.worker.gradients(self.writer, self.cuts, at)
            if not estimated and self.worker.complete(self.writer, one):
                self._finish(one)
        # Other shares went on meanwhile: only a look after one's own last shard tells who is the last of all.
        if not all(self.worker.complete(self.writer, one) for one in self.cuts):
            self.options.say("this share of the shards is done; the index is sealed once the other shares are")
            return ()
        if estimated:
            with self.clock("tables"), self.writer.leases.whole():
                if rows_only:
                    self._estimate()
                else:
                    self._fit()
        for one in self.cuts:
            self._finish(one)
        with self.clock("seal"):
            skipped = self.worker.skipped(self.writer, self.cuts)
        if len(skipped) == len(self.examples):
            raise InputError(f"no row of {self.examples.name} has a finite loss and gradient: is the run broken?")
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
            waiting=lambda: self.options.say(f"another process holds {folder}: waiting for it"),
        )

    def _source(self) -> Source:
        return Source(
            data=self.examples.name,
            columns=self.options.columns,
            fingerprint=self.examples.fingerprint,
            n=len(self.examples),
            batch_size=self.options.batch_size,
            segments=[one.planned for one in self.cuts],
        )

    def _plan(self) -> Plan:
        recipe, run = self.recipe, self.run
        weighted = recipe.weights == "learning-rate"
        return Plan(
            format=FORMAT,
            proponent=__version__,
            recipe=recipe,
            rows=self.options.rows,
            embedding_path=self.spec.path,
            tied=self.spec.tied,
            run=str(run.path.absolute()),
            joined=[str(path.absolute()) for path in run.joined],
            tokenizer=run.named_tokenizer,
            kind=run.info.kind,
            label_names=list(run.label_names) if run.label_names else None,
            max_length=self.encoder.max_length,
            trust_remote_code=run.trust_remote_code,
            fingerprints=self._fingerprints(),
            checkpoints=[
                PlannedCheckpoint(
                    step=one.step,
                    learning_rate=one.learning_rate,
                    rule=one.rule,
                    weight=one.learning_rate if weighted else self._unit(),
                    preconditioner=self.moments[one.step].source if recipe.preconditioner == "adam" else "",
                )
                for one in self.checkpoints
            ],
            blocks=[] if self._layered is None else self._layered.planned(),
            word_rules=RULES,
            source=self._source(),
        )

    def _unit(self) -> float:
        """What multiplies products at a checkpoint besides its learning rate: representer values have a unit."""
        recipe = self.recipe
        if recipe.refit is None or recipe.measure != "logit":
            return 1.0
        return 1.0 / (2.0 * recipe.refit * len(self.examples))

    def _fingerprints(self) -> dict[str, str]:
        """Tokenizer, the weights that are used (others may come and go), second moments, queries of the curvature."""
        unused = {f"weights {step_name(one.step)}" for one in self.run.saved if one not in self.checkpoints}
        own = {name: value for name, value in self.run.fingerprints.items() if name not in unused}
        queries = self.options.queries
        mixed = {} if queries is None else {"queries": queries.fingerprint}
        return own | moments_fingerprints(self.checkpoints, self.recipe, self.options.second_moment) | mixed

    def _space(self) -> None:
        """Stop before the work begins when even half of a guess does not fit on the disk."""
        if not self.spec.rows and self._layered is None:
            return
        top = self.recipe.top
        kept = np.minimum(self._lengths, top) if top is not None else self._lengths
        size = {"fp32": 4, "fp16": 2, "int8": 1}[self.options.rows]
        guess = int(kept.sum()) * self._table[1] * size * 2 * self.spec.rows
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
            kept = stored_columns(self.examples, one.rows, self.labels, self.run.label_names, one.order)
            self.writer.put_examples(one.planned.name, kept)

    def _finish(self, one: SegmentPlan) -> None:
        """Postings and features of a segment; one process does it, the others wait for it."""
        with self.writer.leases.whole():
            if self.writer.is_finished(one.planned.name) or self.writer.finished is not None:
                return
            with self.clock("tables"):
                features = self.writer.gather(one.planned, one.order, [self.labels[row] for row in one.rows])
                scaled = self.checkpoints if self.recipe.normed else ()
                features |= {f"scale.{at.step}": self._scale(one, at) for at in scaled}
            with self.clock("postings"):
                self.writer.finish(one.planned, one.order, features, postings=self.spec.by_token)

    def _scale(self, one: SegmentPlan, checkpoint: Checkpoint) -> np.ndarray:
        """1 / norm of each training gradient, turned by the second moment when the recipe says so."""
        inverse_root = self.writer.read_table(checkpoint.step).get("inverse_root")
        turning = QueryPreconditioner(self.recipe, self.writer.plan.blocks, self.writer.read_table)
        scale = np.ones(one.planned.n)
        for places, arrays in self.writer.decoded(checkpoint.step, one.planned, one.order):
            kept = Gradient.unpack(arrays)
            if inverse_root is not None and kept.rows is not None:
                kept = replace(kept, rows=kept.rows.times(inverse_root[kept.rows.ids]))
            norms = turning.norms(checkpoint.step, kept)
            scale[places] = 1.0 / np.where(norms > 0, norms, 1.0)
        return scale

    def _fit(self) -> None:
        """The recipe's curvature at every checkpoint, once all gradients of the training set are there."""
        assert self._layered is not None
        for checkpoint in self.checkpoints:
            held = self.writer.read_table(checkpoint.step)
            if RIDGES in held or self.writer.base is not None:
                continue

            def shards(step: int = checkpoint.step) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
                for one in self.cuts:
                    for places, arrays in self.writer.decoded(step, one.planned, one.order):
                        yield places + one.rows.start, arrays

            with self.clock("curvature"):
                given = self.options.queries is not None
                queries = (lambda one=checkpoint: self.worker.queries(self.writer, one)) if given else None
                fitting = CurvatureFitter(self.recipe, self._layered.planned(), shards, self.labels, queries)
                made = fitting.tables(
                    lambda one=checkpoint: self.worker.factors(self.writer, one),
                    lambda bases, one=checkpoint: self.worker.squares(self.writer, one, bases),
                )
                self.writer.put_table(checkpoint.step, held | made)

    def _estimate(self) -> None:
        """Second moments from the whole training set, once all of its gradients are there."""
        for checkpoint in self.checkpoints:
            if self.writer.base is not None or "inverse_root" in self.writer.table_names(checkpoint.step):
                continue
            sums = MeanSquares(*self._table)
            for one in self.cuts:
                for _, arrays in self.writer.decoded(checkpoint.step, one.planned, one.order):
                    sums.add(_rows(arrays))
            moment = sums.fitted(self.recipe.epsilon)
            held = self.writer.read_table(checkpoint.step)
            self.writer.put_table(checkpoint.step, held | {"inverse_root": moment.inverse_root})

    def _notes(self, skipped: tuple[SkippedRow, ...]) -> list[str]:
        notes = self._told if self._layered is None else [*self._layered.notes(), *self._turned()]
        notes = [*self._run_notes(), *notes]
        if self.run.info.kind == "masked-lm":
            notes.append(
                f"{self.recipe.mask_share:.0%} of the tokens of each text are masked and have to be guessed, chosen by "
                f"seed {self.recipe.mask_seed} and the text's own tokens; of a row with a target, its gap is masked"
            )
        if skipped:
            notes.append(
                f"{len(skipped)} training rows have no finite loss or gradient and are left out: ids "
                + ", ".join(one.id for one in skipped[:10])
                + (f" and {len(skipped) - 10} more" if len(skipped) > 10 else "")
            )
        long = self.encoder.at_limit(self.examples, self._lengths)
        added = "" if self.writer.base is None else f" of {self.examples.name}"  # equal notes of two sources merge
        if long:
            notes.append(
                f"{long} training texts{added} reach the limit of {self.encoder.max_length} tokens; "
                "the rest was not read"
            )
        if self.run.info.adapter and self.recipe.layer == "embedding":
            notes.append(
                "this run is an adapter: its word embeddings were not trained, so embedding gradients are a proxy"
            )
        if self.spec.path == "input" and self.spec.tied:
            notes.append("path input: the head shares the embedding's table, and its part of the gradient is left out")
        if self.writer.base is not None and self.recipe.preconditioner == "adam":
            notes.append(f"{self.examples.name} was appended: second moments are those of the first build")
        if self.options.rows != "fp32":
            notes.append(f"gradient rows are kept as {self.options.rows} with one scale each: scores are rounded")
        return notes

    def _run_notes(self) -> list[str]:
        """How the run's folder was read; which checkpoints are left out is said only where the user did not choose."""
        return [note for note in self.run.notes if self.options.steps is None or not note.endswith(OTHERS)]

    def _describe_choice(self, model: nn.Module) -> list[str]:
        """What is scored of a recipe whose index keeps no gradients."""
        choice = chosen_layers(self.recipe, self.run, model)
        return [f"{self.recipe.name} scores {choice.description()}; gradients are not stored: queries recompute them"]

    def _turned(self) -> list[str]:
        """Say how gradients of layers were turned: curvature with its damping, refit."""
        recipe, lines = self.recipe, list[str]()
        if recipe.refit is not None:
            lines.append(f"the last layer was refitted, without bias, under an L2 penalty of {recipe.refit:g}")
        lines += leading_told(recipe, [one.step for one in self.checkpoints], self.writer.read_table)
        for one in self.checkpoints if recipe.curvature != "none" else ():
            table = self.writer.read_table(one.step)
            ridges, spread = table[RIDGES], sum(name.startswith(SPREAD) for name in table)
            of = {"mean": "the mean eigenvalue", "top": "the top eigenvalue", "absolute": "1"}[recipe.damping_of]
            lines.append(
                f"curvature {recipe.curvature}, step {one.step}: damping {recipe.damping:g} of {of} of each layer, "
                f"{ridges.min():.3g} to {ridges.max():.3g}"
            )
            if spread:
                lines.append(describe_eval_spread(spread, len(ridges)))
            if recipe.curvature == "ekfac":
                lines.append(describe_sampled_labels(recipe))
            if recipe.curvature == "autocorrelation":
                widest = max(block.kept_o * block.kept_i for block in self.writer.plan.blocks)
                lines.append(describe_mixing(one.step, table, self.options.queries, widest))
        return lines


def _rows(arrays: dict[str, np.ndarray]) -> Rows:
    rows = Gradient.unpack(arrays).rows
    assert rows is not None
    return rows
