"""The steps of a deterministic training: rows, learning rates and random states.

A schedule yields `Step`s. There are two: `hashed` (order and random states depend on the ids of the examples, the seed
and the step, so that a deletion changes only the batches that it affects) and `recorded` (as a training was recorded).
"""

import hashlib
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8, UInt64

from proponent.models import TrainingTrace

State = TypeVar("State")
Gradient = TypeVar("Gradient", contravariant=True)

_HOST = torch.device("cpu")
_GOLDEN = 0x9E3779B97F4A7C15
_DECAY, _DECAY_STEPS = 0.96, 1000


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of a training."""

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: Literal["adamw", "sgd", "lazy-adam"] = "adamw"  # lazy: only rows with a gradient move
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0  # not applied to biases and norms, as in the Trainer
    schedule: Literal["constant", "linear", "exponential"] = "constant"  # exponential: .96 for every 1,000 steps
    warmup: int = 0  # steps
    clip: float | None = None  # largest norm of the whole gradient
    keep_places: bool = False  # leave holes where examples are deleted


@dataclass(frozen=True)
class Step:
    """One optimizer step."""

    number: int  # from 0
    rows: Int[np.ndarray, " b"]
    rates: Float[np.ndarray, " g"]  # a single one if the schedule is the same for all groups
    draw: int | UInt8[np.ndarray, " s"] | None = None  # seed, or state of torch's generator; None: no random numbers
    epoch: int = 0  # 0 throughout if it was not recorded
    width: int = 0  # tokens to which the batch is padded; 0: its longest text
    digest: int | None = None  # of the batch's token ids, if recorded


@runtime_checkable
class Optimizer(Protocol[State, Gradient]):
    """Applies a gradient in one step, in place or out of place."""

    def apply(self, state: State, gradient: Gradient, step: Step) -> State:
        """The state after the step."""
        ...


def advance(
    state: State,
    step: Step,
    gradient: Callable[[State, Step], Gradient],
    optimizer: Optimizer[State, Gradient],
    device: torch.device = _HOST,  # where the model draws its random numbers
) -> State:
    """Train for one step."""
    with drawing(step, device):
        found = gradient(state, step)
    return optimizer.apply(state, found, step)


@contextmanager
def drawing(step: Step, device: torch.device = _HOST) -> Generator[None]:
    """Set the random state of the step, on a device as well; the generators' own states are restored afterwards."""
    forked = [device] if device.type == "cuda" else []
    with cast("Any", torch).random.fork_rng(devices=forked, enabled=step.draw is not None):
        if isinstance(step.draw, int):
            cast("Any", torch).default_generator.manual_seed(step.draw)  # the global one also formats a stack trace
            _seed(device, step.draw)
        elif step.draw is not None:
            torch.set_rng_state(torch.as_tensor(step.draw))
        yield


def _seed(device: torch.device, number: int) -> None:
    """Seed the generator of a device other than the CPU, from which dropout draws there."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)


def recorded(trace: TrainingTrace) -> list[Step]:
    """The steps of a recorded training."""
    draws = [None] * len(trace) if trace.random is None else trace.random
    pairs = zip(trace.rates, draws, trace.widths.tolist(), trace.digests.tolist(), strict=True)
    return [
        Step(number, trace.rows(number), rates, draw, 0, width, digest)
        for number, (rates, draw, width, digest) in enumerate(pairs)
    ]


def hashed(
    hashes: UInt64[np.ndarray, " n"],
    kept: Bool[np.ndarray, " n"],
    seed: int,
    settings: Settings,
    steps: int | None = None,
    *,
    numbered: bool = False,
) -> Iterator[Step]:
    """The steps of a training on a subset, by epochs or so many in all.

    A fully deleted batch has no step; with `numbered`, the later ones keep their numbers, and with them their rates and
    random draws.
    """
    count = len(kept) if settings.keep_places or numbered else int(kept.sum())
    total, number = steps or settings.epochs * -(-count // settings.batch_size), 0
    places = settings.keep_places or numbered
    for epoch in range(settings.epochs) if steps is None else itertools.count():
        for rows in batches(hashes, kept, seed, epoch, settings.batch_size, keep_places=places):
            if number == steps:
                return
            if not len(rows):
                number += numbered
                continue
            rates = np.asarray([settings.learning_rate * _factor(settings, number, total)])
            yield Step(number, rows, rates, (seed * 1_000_003 + number * 7919 + 1) % 2**63, epoch)
            number += 1


def _factor(settings: Settings, number: int, total: int) -> float:
    """Factor of the highest rate, by the rule of the Trainer's schedules, or an exponential decay."""
    if settings.schedule == "exponential":
        return _DECAY ** (number / _DECAY_STEPS)
    if number < settings.warmup:
        return number / max(1, settings.warmup)
    if settings.schedule == "linear":
        return max(0.0, (total - number) / max(1, total - settings.warmup))
    return 1.0


def id_hashes(ids: Sequence[str]) -> UInt64[np.ndarray, " n"]:
    """Hash ids."""
    digests = b"".join(hashlib.sha256(one.encode("utf-8", "surrogatepass")).digest()[:8] for one in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def order(hashes: UInt64[np.ndarray, " n"], seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """Shuffle examples for one pass over the data: deleting some preserves the order of the rest."""
    salt = int.from_bytes(hashlib.sha256(f"{seed} {epoch}".encode()).digest()[:8], "little")
    drawn = _mixed(hashes ^ np.uint64(salt))
    return np.lexsort((np.arange(len(hashes)), drawn))


def batches(
    hashes: UInt64[np.ndarray, " n"],
    kept: Bool[np.ndarray, " n"],
    seed: int,
    epoch: int,
    size: int,
    *,
    keep_places: bool,
) -> Iterator[Int[np.ndarray, " m"]]:
    """Split one pass over a subset into batches; where places are kept, fully deleted ones are empty."""
    whole = order(hashes, seed, epoch)
    if not keep_places:
        whole = whole[kept[whole]]
    for start in range(0, len(whole), size):
        batch = whole[start : start + size]
        yield batch[kept[batch]]


def _mixed(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """The finalizer of the splitmix64 generator: neighbouring inputs give unrelated numbers."""
    mixed = values + np.uint64(_GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
