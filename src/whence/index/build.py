"""Build an index: every training example's kept gradient at every checkpoint, shard by shard, resumable."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Int

from whence.curvature import MeanSquares, SecondMoment
from whence.errors import DataError, InputError, LabelError, MismatchError
from whence.examples import Examples
from whence.forms import Gradient, Rows
from whence.index.kept import columns, gather
from whence.index.moments import Source, moments_fingerprints, read_moments
from whence.index.passes import Pass, Passed, batches, wanted
from whence.model import Checkpoint, Encoded, Encoder, Run
from whence.progress import track
from whence.recipe import Recipe
from whence.store import FORMAT, Plan, PlannedCheckpoint, SkippedRow, Writer
from whence.version import __version__
from whence.words import RULES

KEPT_TOKENS = 2_000_000
"""Training sets up to this size (some tens of MB encoded) are encoded once for all checkpoints, larger ones at each."""

SHARD_BYTES = 64 * 2**20
"""Aim for the size of one shard of embedding gradients."""


@dataclass(frozen=True)
class Options:
    """How to build.

    Attributes:
        max_length: most tokens of a text; None for the model's limit, at most 512.
        batch_size: examples per pass.
        max_bad_rows: share of rows that may be skipped for a loss or gradient that is not finite; at least one row
            may, unless the share is 0.
        steps: checkpoints to use, by step; None uses all.
        second_moment: where an optimizer-aware recipe finds the second moments.
        quiet: no progress on stderr.
        columns: the user's names of the columns, for the record.
    """

    max_length: int | None = None
    batch_size: int = 32
    max_bad_rows: float = 0.01
    steps: tuple[int, ...] | None = None
    second_moment: Source = "recorded"
    quiet: bool = False
    columns: dict[str, str] = field(default_factory=dict[str, str])

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            InputError: the message names the option.
        """
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: a batch holds at least one example")
        if not 0.0 <= self.max_bad_rows <= 1.0:
            raise InputError(f"--max-bad-rows {self.max_bad_rows}: give a share of the rows, from 0 to 1")
        if self.steps is not None and not self.steps:
            raise InputError("no checkpoint is chosen: name at least one step, or none to use all")


def build(
    run: Run, examples: Examples, folder: Path, recipe: Recipe, options: Options = Options()
) -> tuple[SkippedRow, ...]:
    """Build an index, or go on with an unfinished one.

    Args:
        run: the training run.
        examples: its training set.
        folder: where the index goes.
        recipe: the method.
        options: how to build.

    Returns:
        The rows that were skipped because their loss or gradient is not finite.

    Raises:
        InputError: data or recipe do not fit the run, or more rows than allowed are not finite.
        DataError: the data has no rows.
        MismatchError: the folder holds an index of something else.
        DiskFullError: no space left; the same call resumes.
    """
    options.check()
    if not len(examples):
        raise DataError(f"{examples.name} has no rows: there is nothing to index")
    return Build(run, examples, folder, recipe, options).run_all()


class Build:
    """One build; see `build`."""

    def __init__(self, run: Run, examples: Examples, folder: Path, recipe: Recipe, options: Options) -> None:
        self.run, self.examples, self.recipe, self.options = run, examples, recipe, options
        self.seconds: dict[str, float] = {}
        self.labels = label_numbers(run, examples)
        self.checkpoints = _chosen(run, options.steps)
        self.encoder: Encoder = run.encoder(run.length(options.max_length))
        began = time.perf_counter()
        lengths = self.encoder.lengths(examples)
        self.order: Int[np.ndarray, " n"] = np.lexsort((np.arange(len(lengths)), lengths))
        self.lengths: Int[np.ndarray, " n"] = lengths[self.order]
        self.seconds["tokenize"] = time.perf_counter() - began
        first = run.load(self.checkpoints[0])
        self.wanted = wanted(recipe, run, first)
        self.moments = {one.step: read_moments(one, recipe, options.second_moment) for one in self.checkpoints}
        if self.wanted.head and recipe.preconditioner == "adam" and options.second_moment == "estimate":
            raise InputError(
                "the second moment cannot be estimated for a table that the head shares: "
                "record it (whence.Recorder), or choose --path input"
            )
        self._table = cast("tuple[int, int]", tuple(cast("Any", first).get_input_embeddings().weight.shape))
        self.writer = Writer(folder, self._plan(self._table[1]))
        self._loaded = {self.checkpoints[0].step: first}
        self._bad: dict[int, str] = {}
        self._encoded: dict[int, list[Encoded]] = {}

    def run_all(self) -> tuple[SkippedRow, ...]:
        """Do what is not done yet, and seal; an index that is sealed already is left alone.

        Returns:
            The skipped rows.

        Raises:
            InputError: no row has a finite loss and gradient.
        """
        sealed = self.writer.finished
        if sealed is not None:
            return tuple(sealed.skipped)
        for checkpoint in self.checkpoints:
            self._timed("gradients", lambda one=checkpoint: self._gradients(one))
        if len(self._bad) == len(self.examples):
            raise InputError(f"no row of {self.examples.name} has a finite loss and gradient: is the run broken?")
        shards = [self._shards(one) for one in self.checkpoints]
        features = gather(self.order, self.labels, sorted(self._bad), shards)
        for checkpoint in self.checkpoints:
            self._timed("tables", lambda one=checkpoint: self._tables(one, features))
            if self.wanted.rows and not self.wanted.head:
                self._timed("postings", lambda one=checkpoint: self.writer.put_postings(one.step, self.order))
        self.writer.put_examples(columns(self.examples, self.run.label_names, features), features)
        skipped = self._skipped()
        self.writer.seal(skipped, self._notes(skipped), self.seconds)
        return skipped

    def _timed(self, stage: str, work: Callable[[], None]) -> None:
        began = time.perf_counter()
        work()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def _plan(self, width: int) -> Plan:
        recipe, run = self.recipe, self.run
        per_example = max(1.0, float(self.lengths.mean())) * width * 4
        size = int(np.clip(SHARD_BYTES / per_example, 64, 8192))
        weighted = recipe.weights == "learning-rate"
        return Plan(
            format=FORMAT,
            whence=__version__,
            recipe=recipe,
            embedding_path=self.wanted.path,
            tied=self.wanted.tied,
            run=str(run.path.absolute()),
            tokenizer=run.named_tokenizer,
            kind=run.card.kind,
            label_names=list(run.label_names) if run.label_names else None,
            max_length=self.encoder.max_length,
            batch_size=self.options.batch_size,
            trust_remote_code=run.trust_remote_code,
            fingerprints={"data": self.examples.fingerprint}
            | self._run_fingerprints()
            | moments_fingerprints(self.checkpoints, recipe, self.options.second_moment),
            checkpoints=[
                PlannedCheckpoint(
                    step=one.step,
                    learning_rate=one.learning_rate,
                    rule=one.rule,
                    weight=one.learning_rate if weighted else 1.0,
                    preconditioner=self.moments[one.step].source if recipe.preconditioner == "adam" else "",
                )
                for one in self.checkpoints
            ],
            word_rules=RULES,
            data=self.examples.name,
            columns=self.options.columns,
            n=len(self.examples),
            shards=[*range(0, len(self.examples), size), len(self.examples)],
        )

    def _run_fingerprints(self) -> dict[str, str]:
        """Tokenizer and the weights that are used: others may come and go."""
        unused = {f"weights step {one.step}" for one in self.run.checkpoints if one not in self.checkpoints}
        return {name: value for name, value in self.run.fingerprints.items() if name not in unused}

    def _gradients(self, checkpoint: Checkpoint) -> None:
        bounds = list(zip(self.writer.plan.shards[:-1], self.writer.plan.shards[1:], strict=True))
        todo = [shard for shard in range(len(bounds)) if not self.writer.has_shard(checkpoint.step, shard)]
        for shard in set(range(len(bounds))) - set(todo):
            self._note_bad(checkpoint, shard, self.writer.read_shard(checkpoint.step, shard))
        tabled = self.wanted.head or self.recipe.synonym_threshold is not None
        if not todo and not (tabled and not self.writer.read_table(checkpoint.step)):
            return
        model = self._loaded.pop(checkpoint.step, None)
        work = Pass(
            self.run,
            model if model is not None else self.run.load(checkpoint),
            self.recipe,
            self.encoder,
            pooled=checkpoint is self.checkpoints[-1],
        )
        self.writer.put_table(checkpoint.step, work.tables())  # before the last shard, which says that all is done
        cuts = [(shard, cut) for shard in todo for cut in self._cuts(*bounds[shard])]
        label = f"gradients, step {checkpoint.step}" if self.recipe.baseline is None else "predictions"
        steps = track(
            cuts,
            total=sum(stop - start for _, (start, stop) in cuts),
            label=label,
            weight=lambda cut: cut[1][1] - cut[1][0],
            quiet=self.options.quiet,
        )
        done: list[Passed] = []
        for shard, cut in steps:
            done.append(self._batch(work, *cut))
            if cut[1] == bounds[shard][1]:
                arrays = _shard_arrays(done)
                self.writer.put_shard(checkpoint.step, shard, arrays)
                self._note_bad(checkpoint, shard, arrays)
                done = []

    def _cuts(self, start: int, stop: int) -> list[tuple[int, int]]:
        return batches(self.lengths, start, stop, self.options.batch_size, equal=self.run.equal_lengths)

    def _batch(self, work: Pass, start: int, stop: int) -> Passed:
        rows = [int(row) for row in self.order[start:stop]]
        return work(self._encode(start, rows), [self.labels[row] for row in rows])

    def _encode(self, start: int, rows: list[int]) -> list[Encoded]:
        """Encode a batch, or take it from the pass over an earlier checkpoint."""
        found = self._encoded.get(start)
        if found is None:
            found = self.encoder.encode([self.examples[row] for row in rows])
            if len(self.checkpoints) > 1 and int(self.lengths.sum()) <= KEPT_TOKENS:
                self._encoded[start] = found
        return found

    def _note_bad(self, checkpoint: Checkpoint, shard: int, arrays: dict[str, np.ndarray]) -> None:
        start = self.writer.plan.shards[shard]
        for place in np.flatnonzero(arrays["meta.bad"]).tolist():
            cause = "loss" if not np.isfinite(arrays["meta.losses"][place]) else "gradient"
            self._bad.setdefault(int(self.order[start + place]), f"{cause} is not finite at step {checkpoint.step}")
        share = self.options.max_bad_rows
        allowed = max(1, int(share * len(self.examples) + 1e-9)) if share else 0
        if len(self._bad) > allowed:
            listed = "; ".join(f"id {one.id} (row {one.row}): {one.cause}" for one in self._skipped()[:20])
            more = f"; and {len(self._bad) - 20} more" if len(self._bad) > 20 else ""
            raise InputError(
                f"{len(self._bad)} rows have no finite loss or gradient, more than the {allowed} that --max-bad-rows "
                f"{share:g} allows: {listed}{more}"
            )

    def _skipped(self) -> tuple[SkippedRow, ...]:
        return tuple(
            SkippedRow(id=self.examples[row].id, row=self.examples[row].row, cause=cause)
            for row, cause in sorted(self._bad.items())
        )

    def _shards(self, checkpoint: Checkpoint) -> Iterator[tuple[Int[np.ndarray, " m"], dict[str, np.ndarray]]]:
        for shard, (start, stop) in enumerate(
            zip(self.writer.plan.shards[:-1], self.writer.plan.shards[1:], strict=True)
        ):
            yield self.order[start:stop], self.writer.read_shard(checkpoint.step, shard)

    def _tables(self, checkpoint: Checkpoint, features: dict[str, np.ndarray]) -> None:
        """Add what depends on all shards: an estimated second moment, and norms."""
        if self.recipe.preconditioner == "none" and not self.recipe.unit_norm:
            return
        moment = self._moment(checkpoint) if self.recipe.preconditioner == "adam" else None
        if moment is not None:
            self.writer.put_table(
                checkpoint.step, self.writer.read_table(checkpoint.step) | {"inverse_root": moment.inverse_root}
            )
        if self.recipe.unit_norm:
            scale = np.ones(len(self.examples))
            for places, arrays in self._shards(checkpoint):
                rows = _rows(arrays)
                norms = (moment.turn(rows) if moment is not None else rows).norms()
                scale[places] = 1.0 / np.where(norms > 0, norms, 1.0)
            features[f"scale.{checkpoint.step}"] = scale

    def _moment(self, checkpoint: Checkpoint) -> SecondMoment:
        found = self.moments[checkpoint.step]
        if found.v is not None:
            v = found.v()
            if v.shape != self._table:
                raise MismatchError(
                    f"the second moments of {checkpoint.path} are {list(v.shape)} and its word embedding is "
                    f"{list(self._table)}: they belong to another parameter; choose --second-moment estimate"
                )
            return SecondMoment(v, self.recipe.epsilon, found.source)
        sums: MeanSquares | None = None
        for _, arrays in self._shards(checkpoint):
            rows = _rows(arrays)
            sums = sums or MeanSquares(*self._table)
            sums.add(rows)
        assert sums is not None
        return sums.fitted(self.recipe.epsilon)

    def _notes(self, skipped: tuple[SkippedRow, ...]) -> list[str]:
        notes: list[str] = []
        if skipped:
            notes.append(
                f"{len(skipped)} training rows have no finite loss or gradient and are left out: ids "
                + ", ".join(one.id for one in skipped[:10])
                + (f" and {len(skipped) - 10} more" if len(skipped) > 10 else "")
            )
        cut = int((self.lengths >= self.encoder.max_length).sum())
        if cut:
            notes.append(
                f"{cut} training texts reach the limit of {self.encoder.max_length} tokens; "
                "what lies past it was not read"
            )
        if self.run.card.adapter and self.recipe.layer == "embedding":
            notes.append(
                "this run is an adapter: its word embeddings were not trained, so embedding gradients are a proxy"
            )
        if self.wanted.path == "input" and self.wanted.tied:
            notes.append("path input: the head shares the embedding's table, and its part of the gradient is left out")
        return notes


def label_numbers(run: Run, examples: Examples) -> list[int]:
    """Find the class number of every training row.

    Args:
        run: the run.
        examples: its training set.

    Returns:
        One number each; -1 throughout for a language model.

    Raises:
        DataError: rows without a label.
        LabelError: a label that the run does not know.
    """
    if run.label_names is None:
        return [-1] * len(examples)
    known: dict[object, int] = {}
    numbers: list[int] = []
    missing: list[str] = []
    for example in examples:
        if example.label is None:
            missing.append(str(example.row))
            continue
        if example.label not in known:
            try:
                known[example.label] = run.label_number(example.label)
            except LabelError as error:
                raise LabelError(f"{examples.name}, row {example.row}: {error}") from error
        numbers.append(known[example.label])
    if missing:
        raise DataError(
            f"{len(missing)} rows of {examples.name} have no label (rows {', '.join(missing[:5])}): "
            "name the column with --label-column, or fill it in"
        )
    return numbers


def _chosen(run: Run, steps: tuple[int, ...] | None) -> tuple[Checkpoint, ...]:
    if steps is None:
        return run.checkpoints
    found = {one.step: one for one in run.checkpoints}
    missing = [step for step in steps if step not in found]
    if missing:
        raise InputError(f"no checkpoint at step {missing[0]} in {run.path}: it has {', '.join(map(str, found))}")
    return tuple(found[step] for step in sorted(set(steps)))


def _shard_arrays(done: list[Passed]) -> dict[str, np.ndarray]:
    """Lay the batches of a shard one after another."""
    arrays = Gradient.stack([one.gradient for one in done]).pack()
    arrays |= {
        "meta.losses": np.concatenate([one.losses for one in done]),
        "meta.bad": np.concatenate([one.bad for one in done]),
    }
    for name in ("probabilities", "pooled"):
        values = [value for one in done if (value := getattr(one, name)) is not None]
        if values:
            arrays[f"meta.{name}"] = np.concatenate(values)
    return arrays


def _rows(arrays: dict[str, np.ndarray]) -> Rows:
    rows = Gradient.unpack(arrays).rows
    assert rows is not None
    return rows
