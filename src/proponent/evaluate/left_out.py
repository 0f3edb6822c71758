"""The truth about whole corpora: losses of models that were trained again without one of them, for as many steps.

Isonuma and Titov 2024 (arXiv 2401.15241): the influence of a corpus on a test set is the test loss without it minus
the test loss with all. A model that misses a corpus trains for the same number of steps, not of epochs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float

from proponent.engine import engine_of
from proponent.evaluate.intervals import Estimate, bootstrap, mean_fisher
from proponent.evaluate.lds import spearman
from proponent.models import Run
from proponent.models.counting import RowRules
from proponent.training.loop import TrainingLoop
from proponent.training.rerun import RerunSettings, RunProblem, settings_of_run, starting_weights
from proponent.training.retraining import RetrainJob, Retrains
from proponent.types import Example


@dataclass(frozen=True)
class LeftOutSettings:
    """How models are trained again."""

    cache: Path  # folder of the retrains: an interrupted measurement resumes
    seeds: int = 1
    initial: str | None = None  # initial weights, if the run does not record them
    workers: int = 1


@dataclass(frozen=True)
class SetTrainings:
    """Trainings of a run's model on parts of some rows, and its mean losses on test sets."""

    run: Run
    rows: Sequence[Example]  # of all sets; ids are distinct
    tests: Sequence[Sequence[Example]]
    weights: Sequence[Float[np.ndarray, " _"]]  # of the rows of each test set in its mean loss
    rules: RowRules
    settings: LeftOutSettings

    @cached_property
    def rerun(self) -> RerunSettings:
        """The hyper-parameters of the run."""
        return settings_of_run(self.run)

    @cached_property
    def initial(self) -> str:
        """Initial weights of every training."""
        return starting_weights(self.run, self.settings.initial)

    @property
    def steps(self) -> int:
        """Steps of a training on all rows."""
        return self.rerun.settings.epochs * -(-len(self.rows) // self.rerun.settings.batch_size)

    def losses(
        self, jobs: Sequence[RetrainJob], label: str, steps: int | None = None, *, quiet: bool = False
    ) -> Float[np.ndarray, "r t"]:
        """Mean losses on the test sets after each training, of so many steps or of the run's epochs."""
        queries = [one for rows in self.tests for one in rows]
        problem = RunProblem(self.run, self.rows, queries, self.initial, self.rules.max_length, self.rules.counting)
        loop, engine = TrainingLoop(problem, self.rerun.settings, steps), engine_of(self.settings.workers)
        found = Retrains(loop, self.settings.cache / "retrains", engine, quiet).outputs(jobs, label)
        parts = np.split(
            np.stack([one.loss for one in found]), np.cumsum([len(one) for one in self.tests])[:-1], axis=1
        )
        return np.stack([part @ own / own.sum() for part, own in zip(parts, self.weights, strict=True)], axis=1)


@dataclass(frozen=True)
class LeftOut:
    """Losses on the tests with all corpora and without each."""

    truth: Float[np.ndarray, "s c t"]  # loss without the corpus minus loss with all; above 0 it helped
    steps: int  # of every training
    notes: tuple[str, ...]

    @property
    def ceiling(self) -> Float[np.ndarray, " t"] | None:
        """Correlation of one half of the seeds with the other, per test; None for one seed."""
        seeds = len(self.truth)
        if seeds < 2:
            return None
        return correlations(self.truth[: seeds // 2].mean(0), self.truth[seeds // 2 :].mean(0))


def leave_out(trainings: SetTrainings, sizes: Sequence[int], *, quiet: bool = False) -> LeftOut:
    """Train on all corpora, of so many rows each, and without each of them, with every seed."""
    edges: list[int] = np.cumsum([0, *sizes]).tolist()
    deleted = [range(0), *(range(*pair) for pair in pairwise(edges))]
    seeds, steps = trainings.settings.seeds, trainings.steps
    jobs = [RetrainJob.without(one, edges[-1], seed) for seed in range(seeds) for one in deleted]
    losses = trainings.losses(jobs, "leaving corpora out", steps, quiet=quiet)
    each = losses.reshape(seeds, len(deleted), losses.shape[1])
    return LeftOut(each[:, 1:] - each[:, :1], steps, trainings.rerun.notes)


def correlations(ours: Float[np.ndarray, "c t"], truth: Float[np.ndarray, "c t"]) -> Float[np.ndarray, " t"]:
    """Pearson correlation over corpora, per test set; 0 where one side is constant."""
    first, second = ours - ours.mean(0), truth - truth.mean(0)
    size = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    return np.where(size > 0, (first * second).sum(0) / np.where(size > 0, size, 1.0), 0.0)


def agreement(ours: Float[np.ndarray, "c t"], truth: Float[np.ndarray, "c t"]) -> tuple[Estimate, Estimate, Estimate]:
    """Pearson and Spearman over corpora, and how often the first corpus is among the truth's first two; over tests."""
    first = ours.argmax(0)
    among = (truth > truth[first, np.arange(truth.shape[1])]).sum(0) < 2
    return (
        mean_fisher(correlations(ours, truth), len(ours)),
        mean_fisher(spearman(ours, truth), len(ours)),
        bootstrap(among.astype(np.float64)),
    )
