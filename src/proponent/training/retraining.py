"""The retraining engine: train on subsets with seeds, each combination only once.

Every finished retraining is one file, written atomically and named by its inputs: the settings of the
run, the subset and the seed. An interrupted evaluation resumes; two evaluations of one run share
their common retrainings.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from proponent.disk import make_folder
from proponent.engine import Engine, InProcess
from proponent.errors import DamagedError, InputError, MismatchError
from proponent.progress import track
from proponent.store.files import publish_bytes
from proponent.tensors import TensorSlices, packed, read_tensors
from proponent.training.outputs import Outputs
from proponent.types import Example

SETTINGS_FILE = "recipe.txt"


@runtime_checkable
class Retrainer(Protocol):
    """Trains a model on some rows of a data set and returns its outputs on the queries."""

    # Custom retrainers need only these three members. With several worker processes the object is sent to them, so its
    # class must be in a module that they can import.

    @property
    def identity(self) -> str:
        """Everything that the outputs depend on, as text: model, data, queries, settings."""
        ...

    @property
    def size(self) -> int:
        """Number of rows of the whole training set."""
        ...

    def __call__(self, rows: Int[np.ndarray, " m"], seed: int) -> Outputs:
        """Train on these rows (ascending positions) with this seed."""
        ...


@runtime_checkable
class EditableRetrainer(Retrainer, Protocol):
    """A retrainer that can also train on other texts of some rows."""

    def edited(self, rows: Mapping[int, Example]) -> Retrainer:
        """The same training with other texts of these rows, in the same order and with the same random draws."""
        ...


@dataclass(frozen=True)
class Function:
    """Wraps a plain function as a retrainer."""

    train: Callable[[Int[np.ndarray, " m"], int], Outputs]
    size: int
    identity: str  # everything that the outputs depend on; change it when the function changes

    def __call__(self, rows: Int[np.ndarray, " m"], seed: int) -> Outputs:
        """Train."""
        return self.train(rows, seed)


@dataclass(frozen=True)
class RetrainJob:
    """The inputs of one retraining."""

    rows: Int[np.ndarray, " m"]  # ascending positions
    seed: int
    edited: tuple[tuple[int, Example], ...] = ()  # rows that are replaced by other texts, by position

    @classmethod
    def without(cls, deleted: "Sequence[int] | Int[np.ndarray, ' k']", size: int, seed: int) -> "RetrainJob":
        """Train on all rows except some."""
        return cls(np.setdiff1d(np.arange(size), np.asarray(deleted, dtype=np.int64)), seed)

    @property
    def name(self) -> str:
        """Name of its record: subset and seed."""
        digest = hashlib.sha256(np.ascontiguousarray(self.rows, dtype="<i8").tobytes()).hexdigest()
        name = f"{digest[:24]}-{len(self.rows)}-seed-{self.seed}"
        if not self.edited:
            return name
        texts = json.dumps([[row, *one.parts, str(one.label)] for row, one in self.edited])
        return f"{name}-edited-{hashlib.sha256(texts.encode()).hexdigest()[:24]}"

    def train(self, retrainer: Retrainer) -> Outputs:
        """Train.

        Args:
            retrainer: what trains.

        Returns:
            Its outputs on the queries.

        Raises:
            InputError: texts are replaced, and the retrainer cannot train on other texts.
        """
        if not self.edited:
            return retrainer(self.rows, self.seed)
        if not isinstance(retrainer, EditableRetrainer):
            raise InputError(
                f"{type(retrainer).__name__} trains on subsets of its rows only: to train on other texts it needs a "
                "method `edited`"
            )
        return retrainer.edited(dict(self.edited))(self.rows, self.seed)


@dataclass
class Retrains:
    """The retrainings of one run, stored on disk."""

    retrainer: Retrainer
    folder: Path
    engine: Engine = field(default_factory=InProcess)  # where models are trained
    quiet: bool = False
    performed: int = field(default=0, init=False)  # excludes retrainings that were already on disk

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.retrainer.identity.encode()).hexdigest()[:16]
        self.home = self.folder / digest
        make_folder(self.home)
        said = self.home / SETTINGS_FILE
        if not said.is_file():
            publish_bytes(said, [self.retrainer.identity.encode()], noted=False)
        elif said.read_bytes() != self.retrainer.identity.encode():
            raise MismatchError(f"{self.home} contains retrains of another run: give another --cache folder")

    def missing(self, jobs: Sequence[RetrainJob]) -> list[RetrainJob]:
        """List the jobs without a record."""
        wanted = {job.name: job for job in jobs}
        return [job for name, job in wanted.items() if not self._path(name).is_file()]

    def outputs(self, jobs: Sequence[RetrainJob], label: str = "retraining") -> list[Outputs]:
        """Return the outputs of some retrainings; train the missing ones."""
        for job in jobs:
            if len(job.rows) == 0 or job.rows[0] < 0 or job.rows[-1] >= self.retrainer.size:
                raise InputError(
                    f"cannot retrain on {len(job.rows)} rows of {self.retrainer.size}: give at least one row, by "
                    "position from 0"
                )
        todo = self.missing(jobs)
        done = self.engine.map(partial(perform, self.retrainer, self.home), todo)
        for _ in track(done, total=len(todo), label=label, unit="models", quiet=self.quiet):
            self.performed += 1
        return [self._read(job.name) for job in jobs]

    def seconds(self) -> Float[np.ndarray, " r"]:
        """Duration of each finished retraining."""
        paths = sorted(self.home.glob("*.safetensors"))
        return np.asarray([float(TensorSlices(path).read("seconds", 0, 1)[0]) for path in paths])

    def _path(self, name: str) -> Path:
        return self.home / f"{name}.safetensors"

    def _read(self, name: str) -> Outputs:
        path = self._path(name)
        found = read_tensors(path)
        if not {"log_odds", "loss"} <= set(found):
            raise DamagedError(f"{path} is not a record of a retrain: remove it and run the same command again")
        return Outputs(found["log_odds"], found["loss"])


def perform(retrainer: Retrainer, folder: Path, job: RetrainJob) -> None:
    """Train once and store the outputs."""
    began = time.perf_counter()
    made = job.train(retrainer)
    arrays: Mapping[str, np.ndarray] = {
        "log_odds": np.asarray(made.log_odds, dtype=np.float64),
        "loss": np.asarray(made.loss, dtype=np.float64),
        "seconds": np.asarray([time.perf_counter() - began]),
    }
    publish_bytes(folder / f"{job.name}.safetensors", [packed(arrays)], noted=False)


def null_gap(retrains: Retrains, seed: int) -> float:
    """Train twice on everything with one seed and compare: the null retraining."""
    # The second training is always repeated and never stored, so that a nondeterministic training function shows.
    whole = np.arange(retrains.retrainer.size)
    kept = retrains.outputs([RetrainJob(whole, seed)], "null retrain")[0]
    again = retrains.retrainer(whole, seed)
    return float(np.abs(kept.log_odds - again.log_odds).max(initial=0.0))
