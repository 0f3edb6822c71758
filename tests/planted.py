"""Things to retrain whose true leave-out effects are known, in a module that worker processes import fast: no torch."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proponent.training.outputs import Outputs
from proponent.training.retraining import Function


@dataclass(frozen=True)
class Planted:
    """A model whose log-odds are a planted sum over the rows it was trained on, plus seeded noise.

    Attributes:
        effects: of each row on each query [q n].
        noise: standard deviation of the noise of a retrain.
        drift: added to every call after the first: not deterministic.
        trail: a file that gets a line per training; None keeps none.
        pause: seconds per training.
    """

    effects: np.ndarray
    noise: float = 0.0
    trail: Path | None = None
    pause: float = 0.0

    @property
    def size(self) -> int:
        return self.effects.shape[1]

    @property
    def identity(self) -> str:
        return f"planted {self.effects.shape} {self.effects.sum():.6f} {self.noise}"

    def __call__(self, rows: np.ndarray, seed: int) -> Outputs:
        if self.trail is not None:
            with self.trail.open("a") as file:
                file.write(f"{len(rows)} {seed}\n")
        time.sleep(self.pause)
        generator = np.random.default_rng([seed, int(rows.sum()), len(rows)])
        odds = self.effects[:, rows].sum(1) + self.noise * generator.standard_normal(len(self.effects))
        return Outputs(np.stack([odds, -odds], axis=1), np.logaddexp(0, -odds))


def planted(
    queries: int = 12, size: int = 120, noise: float = 0.0, seed: int = 0, trail: Path | None = None
) -> Planted:
    effects = np.random.default_rng(seed).standard_normal((queries, size)) / np.sqrt(size)
    return Planted(effects, noise, trail)


def fickle(size: int = 20) -> Function:
    """A training function that says something else every time."""
    calls = iter(range(1000))

    def train(rows: np.ndarray, seed: int) -> Outputs:
        odds = np.full((3, 2), float(next(calls)))
        return Outputs(odds, np.zeros(3))

    return Function(train, size, "fickle")


@dataclass(frozen=True)
class Ridge:
    """Ridge regression, retrained in full; its predictions stand for the log-odds."""

    x: np.ndarray
    y: np.ndarray
    queries: np.ndarray
    ridge: float = 0.1

    @property
    def size(self) -> int:
        return len(self.x)

    @property
    def identity(self) -> str:
        return f"ridge {self.x.sum()} {self.y.sum()} {self.queries.sum()} {self.ridge}"

    def __call__(self, rows: np.ndarray, seed: int) -> Outputs:  # noqa: ARG002
        x, y = self.x[rows], self.y[rows]
        weights = np.linalg.solve(x.T @ x + self.ridge * np.eye(x.shape[1]), x.T @ y)
        odds = self.queries @ weights
        return Outputs(odds[:, None], -odds)
