"""Build an index in several processes: each takes parts of it, and this one seals."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from proponent.data import Examples
from proponent.engine import Engine, InProcess
from proponent.errors import InputError
from proponent.index.build import Build
from proponent.index.options import Options
from proponent.method import Term
from proponent.models import Run
from proponent.models.placement import refuse_split
from proponent.progress import track
from proponent.ray_actors import RayActors
from proponent.types import CheckpointId

ROUNDS = 4
"""Parts of each checkpoint that a process takes, so that slower processes may take fewer."""


@dataclass(frozen=True)
class Part:
    """Some shards of one checkpoint, whichever process computes them."""

    step: CheckpointId
    number: int
    of: int


class PartWork:
    """Computes parts in another process, where the build is prepared once; parts may be computed twice."""

    def __init__(
        self, run: Run, examples: Examples, folder: Path, method: Term, options: Options, threads: int
    ) -> None:
        self._lines: list[str] = []
        self._given = run, examples, folder, method, options
        self._threads = threads
        self._build: Build | None = None

    def __call__(self, part: Part) -> list[str]:
        """Compute a part; lines for the user."""
        if self._build is None:
            torch.set_num_threads(self._threads)
            run, examples, folder, method, options = self._given
            self._build = Build(run, examples, folder, method, replace(options, quiet=True, say=self._lines.append))
        made = self._build
        made.worker.part(made.writer, made.cuts, part.step, part.number, part.of)
        said, self._lines[:] = list(self._lines), []
        return said


def in_parts(engine: Engine, workers: int, options: Options) -> Callable[[Build], None] | None:
    """What has shards computed by the processes of an engine; None for this process; InputError for its options."""
    if isinstance(engine, InProcess):
        return None
    for name in ("shard", "repair"):
        if getattr(options, name):
            raise InputError(f"--{name} is for a build in one process: leave it out, or --workers and --engine")
    return partial(_compute, engine=engine, workers=workers)


def _compute(made: Build, engine: Engine, workers: int) -> None:
    if all(made.worker.complete(made.writer, one) for one in made.cuts):
        return  # an earlier build ended before its seal: no process has anything to do
    shards = sum(len(one.planned.shards) - 1 for one in made.cuts)
    of = max(1, min(shards, workers * ROUNDS))
    parts = [Part(one.id, number, of) for one in made.checkpoints for number in range(of)]
    if len(parts) < 2:
        return  # this process computes it while it seals
    threads = max(1, (os.cpu_count() or 1) // min(workers, len(parts)))
    options, said = replace(made.options, say=_unheard), set[str]()  # a function of this process is not sent
    work = PartWork(
        _on_first_card(made.run) if isinstance(engine, RayActors) else made.run,
        made.examples,
        made.writer.folder,
        made.method,
        options,
        threads,
    )
    steps = track(
        engine.map(work, parts), total=len(parts), label="parts of the index", weight=_one, quiet=made.options.quiet
    )
    for lines in steps:
        for line in lines:
            if line not in said:
                made.options.say(line)
            said.add(line)


def _on_first_card(run: Run) -> Run:
    """The run on the first GPU, if it is on one: an actor of Ray sees only its own; InputError for a split model."""
    refuse_split(run.placement, "--engine ray gives each worker one GPU, and")
    if not run.placement.device.startswith("cuda"):
        return run
    return replace(run, info=replace(run.info, placement=replace(run.placement, device="cuda:0")))


def _unheard(_: str) -> None:
    """Not heard: replaced in the process that does the work."""


def _one(_: object) -> int:
    return 1
