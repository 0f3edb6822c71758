"""An evaluation: a run, its training set and queries, the scores of methods and of controls."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from proponent.api import build
from proponent.baselines import Texts
from proponent.engine import engine_of
from proponent.errors import InputError
from proponent.evaluate.chat import as_questions, layout_of, rows_like
from proponent.evaluate.controls import controls, refuse_clashes
from proponent.evaluate.deletion import SIDES, Side
from proponent.evaluate.groups import GROUPINGS, row_groups
from proponent.evaluate.kept_order import kept_order
from proponent.evaluate.label_noise import plant
from proponent.index import Index, summed
from proponent.method import Method
from proponent.method_table import METHODS, stored_method
from proponent.models import Run
from proponent.models.counting import RowRules, rules_of
from proponent.models.model_outputs import pooled_states
from proponent.suggest import nearest
from proponent.training.loop import TrainingLoop, one_thread
from proponent.training.rerun import RerunSettings, RunProblem, settings_of_run, starting_weights, write_run
from proponent.training.retraining import Retrains
from proponent.types import Example

_BATCH = 64
DEFAULT_METHODS = ("tracin-we", "tracin-we-adam+unit-norm", "tracin-last")
UNIT_NORM = "+unit-norm"
SCORED_SEED = 1001
"""Seed of the first scored run: distinct from every retrain's seed."""

ONE_CHECKPOINT = (
    "the run keeps a single checkpoint, and all scores rest on it: on other runs several checkpoints gave higher "
    "figures (docs/evaluation.md, one checkpoint); train with --checkpoints 10, or 3 for fine-tuning"
)


@dataclass(frozen=True)
class EvaluationRequest:
    """User input of an evaluation."""

    run: Run  # the scored run
    train: Sequence[Example]  # the training set
    # the queries; None holds out some training rows and retrains the scored run
    queries: Sequence[Example] | None
    cache: Path  # folder of retrains, runs and indexes
    methods: tuple[str, ...] = DEFAULT_METHODS  # names of the method table; the suffix `+unit-norm` selects a variant
    budget: float | None = None  # minutes for retraining; None for the usual sizes
    points: int = 40  # maximum number of queries
    ks: tuple[int, ...] = (10, 30, 100)  # numbers of rows deleted in a case deletion
    sides: tuple[Side, ...] = SIDES  # ends of the rankings that a case deletion deletes
    seeds: int | None = None  # retrains per subset or deletion; None for the metric's default
    subsets: int | None = None  # of an LDS; None derives them from the budget
    interval: float | None = None  # largest half-width of an LDS's interval; None for any
    groups: str = "auto"  # groups of an LDS within groups: class, source, format, length; auto chooses
    words: int = 3  # words taken out of each row in a word removal
    stratified: bool = False  # halves of an LDS with fixed group counts
    runs: int = 1  # independently seeded scored runs, whose scores are summed
    workers: int = 1  # processes that retrain
    initial: str | None = None  # initial weights of the run, if it does not record them
    changes: dict[str, Any] = field(default_factory=dict[str, Any])  # training settings given by the user
    max_length: int | None = None  # maximum tokens per text
    seed: int = 0  # seed for held-out rows, subsets and controls
    arrays: Path | None = None  # file that an LDS writes its scores, halves and outputs to
    bank: Path | None = None  # such a file, whose halves and outputs an LDS reads instead of training again
    quiet: bool = False  # no progress
    say: Callable[[str], None] = print  # receives lines for the user

    def check(self) -> None:
        """Refuse invalid values."""
        for name in ("points", "runs", "workers"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: must be at least 1")
        if self.seeds is not None and self.seeds < 1:
            raise InputError(f"--seeds {self.seeds}: must be at least 1")
        if not self.ks or min(self.ks) < 1:
            raise InputError("--k: give whole numbers from 1, separated by commas")
        if self.interval is not None and not self.interval > 0:
            raise InputError(f"--interval {self.interval}: give a half-width above 0, such as 0.05")
        if self.budget is not None and not self.budget > 0:
            raise InputError(f"--budget {self.budget}: give minutes above 0")
        if self.groups not in GROUPINGS:
            raise InputError(f"--groups {self.groups}{nearest(self.groups, GROUPINGS)}: give {', '.join(GROUPINGS)}")
        for name in self.methods:
            known_method(name)
        refuse_clashes(self.methods)


def known_method(name: str) -> tuple[str, dict[str, Any]]:
    """Parse a method name, with or without its variant."""
    plain = name.removesuffix(UNIT_NORM)
    stored_method(plain)
    return plain, {"unit_norm": True} if name.endswith(UNIT_NORM) else {}


class Experiment:
    """A request and everything derived from it, each computed once."""

    def __init__(self, request: EvaluationRequest) -> None:
        request.check()
        self.request = request
        self.rerun: RerunSettings = settings_of_run(request.run, **request.changes)
        initial = starting_weights(request.run, request.initial)
        rules = rules_of(request.run, layout_of(request.train), request.max_length)
        chat = rules.counting is not None
        train, queries = _held_out(request, rules)
        queries = as_questions(queries, train) if chat else queries
        self.problem = RunProblem(request.run, train, queries, initial, rules.max_length, rules.counting)
        if chat:
            self.problem.refuse_cut_queries()
        self.notes: list[str] = [*self.rerun.notes, *rules.notes]
        if request.initial is None and self.rerun.drawn:
            self.notes.append("nothing was trained before: initial weights are drawn from the configuration")
        if len(request.run.checkpoints) == 1:
            self.notes.append(ONE_CHECKPOINT)
        if request.queries is None:
            self.notes.append(
                f"{len(queries)} rows of the data were held out as queries, and the scored run was trained again "
                "without them"
            )

    def loop(self, *, keep_places: bool) -> TrainingLoop:
        """The training loop."""
        return TrainingLoop(self.problem, replace(self.rerun.settings, keep_places=keep_places))

    def retrains(self, *, keep_places: bool) -> Retrains:
        """The retraining engine."""
        request, loop = self.request, self.loop(keep_places=keep_places)
        return Retrains(loop, request.cache / "retrains", engine_of(request.workers), request.quiet)

    @cached_property
    def scored_runs(self) -> list[Run]:
        """The scored runs: retrained, one per seed."""
        loop = self.loop(keep_places=False)
        digest = hashlib.sha256(loop.identity.encode()).hexdigest()[:16]
        home = self.request.cache / "runs" / digest
        seeds = range(SCORED_SEED, SCORED_SEED + self.request.runs)
        count = len(self.request.run.checkpoints)  # as many as the user's run, whose checkpoints would be indexed
        return [
            write_run(loop, home / f"{count}-checkpoints-{seed}", seed, checkpoints=count, quiet=self.request.quiet)
            for seed in seeds
        ]

    @property
    def labels(self) -> Int[np.ndarray, " n"] | None:
        """Classes of the training set; None for a language model."""
        return self.problem.train_labels

    @cached_property
    def groups(self) -> tuple[str, Int[np.ndarray, " n"]]:
        """Name and groups of the training rows for an LDS within groups."""
        return row_groups(self.request.groups, self.problem.train, self.labels, self.request.train)

    def method_scores(self) -> dict[str, Float[np.ndarray, "q n"]]:
        """Score the training set by every method, summed over the runs."""
        return {
            name: np.sum([self._scores(run, name) for run in self.scored_runs], axis=0) for name in self.request.methods
        }

    def control_scores(self) -> dict[str, Float[np.ndarray, "q n"]]:
        """Score the training set by the controls, summed over the runs as the methods are."""
        each: list[dict[str, Float[np.ndarray, "q n"]]] = []
        for run in self.scored_runs:
            train, losses = self._seen(self.problem.train, run)
            queries, _ = self._seen(self.problem.queries, run)
            found, missing = controls(train, queries, losses)
            self.notes += [line for line in missing if line not in self.notes]
            each.append(found)
        return {name: np.sum([one[name] for one in each], axis=0) for name in each[0]}

    def _scores(self, run: Run, name: str) -> Float[np.ndarray, "q n"]:
        return self.indexed(run, name).scores(self.asked)

    def indexed(self, run: Run, name: str) -> Index:
        """The index of a method by its name, built if it does not exist."""
        named, changes = known_method(name)
        method = stored_method(named, **changes)
        if named in METHODS:
            method = summed(method, run, layout_of(self.request.train))
            weighted = any(one.weight != 1 for one in self.problem.train)  # earlier versions left the weights out
            self._note_projection(run, name, method)
            return self.built(run, method, run.path / "indexes" / (f"{name}-weighted" if weighted else name))
        self._note_projection(run, name, method)
        digest = hashlib.sha256(method.model_dump_json().encode()).hexdigest()[:12]  # the file may change
        return self.built(run, method, run.path / "indexes" / f"{Path(named).stem}-{digest}")

    def _note_projection(self, run: Run, name: str, method: Method) -> None:
        """Add a note if the method's random projection reorders its scores; measured on the first run."""
        if run is not self.scored_runs[0]:
            return
        train, encoder = self.problem.train, run.encoder(self.problem.max_length, counting=self.problem.counting)
        task = self.request.run.task
        labels = [run.label_number(one.label) if task.labels and one.label is not None else -1 for one in train]
        model = run.load(run.checkpoints[-1])
        found = kept_order(run, model, encoder, train, labels, encoder.lengths(train), method)
        line = "" if isinstance(found, str) else found.warning and f"{name}: {found.description}; {found.warning}"
        if line and line not in self.notes:
            self.notes.append(line)

    def scored(self, run: Run, method: Method, at: Path, *, quiet: bool = False) -> Float[np.ndarray, "q n"]:
        """Score the training set by an index."""
        return self.built(run, method, at, quiet=quiet).scores(self.asked)

    @property
    def asked(self) -> Sequence[Example]:
        """The queries as an index is asked; classes of texts are not asked for."""
        return self.problem.queries if self._has_answers else [replace(one, label=None) for one in self.problem.queries]

    @property
    def _has_answers(self) -> bool:
        task = self.request.run.task
        return bool(self.problem.counting is not None or task.labels or task.answers)

    def built(self, run: Run, method: Method, at: Path, *, quiet: bool = False) -> Index:
        """Build an index of the training set, or open it."""
        chat = self.problem.counting is not None  # by the rules of the training, which may read more than the tokenizer
        length = self.request.max_length if chat else self.problem.max_length
        how: dict[str, Any] = {"max_length": length, "quiet": quiet or self.request.quiet}
        train = rows_like(self.problem.train, self.request.train)
        return build(
            run, train if self._has_answers else [replace(one, label=None) for one in train], at, method, **how
        )

    def _seen(self, examples: Sequence[Example], run: Run) -> tuple[Texts, Float[np.ndarray, " n"]]:
        """Inputs of the controls, from the last checkpoint of a scored run."""
        problem = replace(self.problem, queries=examples)
        model = run.load(run.checkpoints[-1])
        encoder = run.encoder(self.problem.max_length, counting=self.problem.counting)
        hidden: list[np.ndarray] = []
        with one_thread(), torch.inference_mode():
            outputs = problem.outputs(model)
            for start in range(0, len(examples), _BATCH):
                encoded = encoder.encode(examples[start : start + _BATCH])
                hidden.append(pooled_states(model, encoder.collate(encoded, [-1] * len(encoded)).inputs))
        texts = [" ".join(one.parts) for one in examples]
        if self.labels is None:
            return Texts(texts, None, None, np.concatenate(hidden)), outputs.loss
        return Texts(texts, problem.query_labels, outputs.probabilities, np.concatenate(hidden)), outputs.loss


def with_noise(request: EvaluationRequest, share: float) -> tuple[Experiment, Bool[np.ndarray, " n"]]:
    """Plant wrong labels in a copy of the training set; the queries keep theirs."""
    if not request.run.task.labels:
        plain = request.run.task.predicts_tokens and request.run.task.trainer == "sft"
        kind = "language" if plain else request.run.task.kind
        raise InputError(f"wrong labels are planted among classes, and {request.run.path} is a {kind} model")
    clean = Experiment(request)
    noisy, wrong = plant(clean.problem.train, share, request.seed)
    made = Experiment(replace(request, train=noisy, queries=clean.problem.queries))
    made.notes = clean.notes
    return made, wrong


def _held_out(request: EvaluationRequest, rules: RowRules) -> tuple[list[Example], list[Example]]:
    """Training set and queries; no query's text is in the training set."""
    train = list(request.train)
    if request.queries is not None:
        queries = list(request.queries)[: request.points]
        texts = {one.parts for one in queries}
        shared = [one for one in train if one.parts in texts]
        if shared:
            raise InputError(
                f"{len(shared)} queries are also in the training set (row {shared[0].row} of it): scores would be "
                "evaluated on training data; remove these rows from one of the two"
            )
        return train, queries
    if len(train) < 2 * request.points:
        raise InputError(
            f"{len(train)} rows are too few to hold out {request.points} queries: give --queries FILE or fewer --points"
        )
    order: list[int] = np.random.default_rng(request.seed).permutation(len(train)).tolist()
    if rules.counting is not None:  # a row that was not trained on cannot be asked about
        encoder = request.run.encoder(rules.max_length, counting=rules.counting)
        idle = encoder.lengths_and_idle(train)[1]
        order = [place for place in order if not idle[place]]
    chosen = [train[place] for place in order[: request.points]]
    texts = {one.parts for one in chosen}
    return [one for one in train if one.parts not in texts], chosen
