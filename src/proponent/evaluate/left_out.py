"""The truth about whole corpora: losses of models that were trained again without one of them, for as many steps.

Isonuma and Titov 2024 (arXiv 2401.15241): the influence of a corpus on a test set is the test loss without it minus
the test loss with all. A model that misses a corpus trains for the same number of steps, not of epochs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float

from proponent.engine import engine_of
from proponent.errors import InputError
from proponent.evaluate.intervals import Estimate, bootstrap
from proponent.evaluate.lds import spearman
from proponent.models import Run
from proponent.models.counting import RowRules
from proponent.training.loop import TrainingLoop
from proponent.training.rerun import RunProblem, settings_of_run
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


def leave_out(
    run: Run,
    corpora: Mapping[str, Sequence[Example]],
    tests: Mapping[str, Sequence[Example]],
    weights: Sequence[Float[np.ndarray, " _"]],
    rules: RowRules,
    settings: LeftOutSettings,
    *,
    quiet: bool = False,
) -> LeftOut:
    """Train on all corpora and without each of them, with every seed; `weights` make the mean loss of each test set."""
    rerun = settings_of_run(run)
    initial = settings.initial or rerun.initial
    if initial is None:
        raise InputError(
            f"the initial weights of the run in {run.path} are unknown: give --initial with the folder or name of the "
            "pretrained model, or --initial fresh for randomly initialized weights"
        )
    rows = [one for examples in corpora.values() for one in examples]
    queries = [one for examples in tests.values() for one in examples]
    problem = RunProblem(run, rows, queries, initial, rules.max_length, rules.counting)
    steps = rerun.settings.epochs * -(-len(rows) // rerun.settings.batch_size)
    retrains = Retrains(
        TrainingLoop(problem, rerun.settings, steps), settings.cache / "retrains", engine_of(settings.workers), quiet
    )
    edges: list[int] = np.cumsum([0, *map(len, corpora.values())]).tolist()
    deleted = [range(0), *(range(*pair) for pair in pairwise(edges))]
    jobs = [RetrainJob.without(one, len(rows), seed) for seed in range(settings.seeds) for one in deleted]
    found = np.stack([one.loss for one in retrains.outputs(jobs, "leaving corpora out")])
    splits = np.cumsum([len(one) for one in tests.values()])[:-1]
    means = [part @ own / own.sum() for part, own in zip(np.split(found, splits, axis=1), weights, strict=True)]
    losses = np.stack(means, axis=1).reshape(settings.seeds, len(deleted), len(tests))
    return LeftOut(losses[:, 1:] - losses[:, :1], steps, rerun.notes)


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
        bootstrap(correlations(ours, truth)),
        bootstrap(spearman(ours, truth)),
        bootstrap(among.astype(np.float64)),
    )
