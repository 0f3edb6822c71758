"""Record of every optimizer step: rows, learning rates and random state, enough to repeat the training.

    proponent_replay/steps.json           optimizer, its constants, clipping, names and groups of the trained parameters
    proponent_replay/steps.safetensors    order [m], ends [t], rates [t g], widths [t], digests [t], random [t b]
    (dropout) proponent_replay/initial.safetensors  the trained parameters before the first step

`order` lists the rows in the order in which training read them; step t used the rows from `ends[t - 1]` to `ends[t]`.
"""

import json
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import xxhash
from jaxtyping import Float, Int, UInt8, UInt64
from torch import Tensor

from proponent.disk import make_folder, write_bytes
from proponent.errors import RunError
from proponent.models.former import recorded
from proponent.models.placement import device_of
from proponent.models.run_files import read_settings, weights_file
from proponent.tensors import read_tensors, write_tensors

FOLDER = "proponent_replay"
OPTIMIZERS = ("AdamW", "Adam", "SGD")
_HOW = "record one with Trainer(..., callbacks=[proponent.Recorder(replay=True)]) or `proponent train --replay`"


@dataclass(frozen=True)
class ParameterGroup:
    """Optimizer settings of some parameters."""

    names: tuple[str, ...]  # the parameters, as the model names them
    weight_decay: float  # decoupled for AdamW, added to the gradient for Adam and SGD
    betas: tuple[float, float]  # decay of Adam's moments; (momentum, 0) for SGD
    epsilon: float  # added to the root of Adam's second moment


@dataclass(frozen=True)
class TrainingTrace:
    """A recorded training, step by step."""

    folder: Path  # the run's folder
    optimizer: str  # "AdamW", "Adam" or "SGD"
    groups: tuple[ParameterGroup, ...]  # the optimizer's parameter groups
    clip: float  # maximum norm of clipped gradients; 0 without clipping
    order: Int[np.ndarray, " m"]  # rows of the training set as they were read [m]
    ends: Int[np.ndarray, " t"]  # places in `order` where each step ended [t]
    rates: Float[np.ndarray, "t g"]  # learning rate of each group at each step [t g]
    widths: Int[np.ndarray, " t"]  # tokens to which each batch was padded [t]
    digests: UInt64[np.ndarray, " t"]  # xxh3 of each batch's token ids, padding included [t]
    # torch's random state at the start of each step [t b]; None if nothing was drawn
    random: UInt8[np.ndarray, "t b"] | None

    def __len__(self) -> int:
        return len(self.ends)

    def rows(self, step: int) -> Int[np.ndarray, " b"]:
        """Rows of one step."""
        return self.order[(self.ends[step - 1] if step else 0) : self.ends[step]]

    def initial(self) -> dict[str, np.ndarray]:
        """Read the trained parameters as they were before the first step."""
        return _read(recorded(self.folder, FOLDER) / "initial.safetensors")


def read_training_trace(folder: Path) -> TrainingTrace:
    """Read the record of a training."""
    home = recorded(folder, FOLDER)
    for name in ("steps.json", "steps.safetensors", "initial.safetensors"):
        if not (home / name).is_file():
            raise RunError(f"{folder} cannot be replayed: {home.name}/{name} is missing; {_HOW}")
    settings, arrays = read_settings(home / "steps.json"), _read(home / "steps.safetensors")
    try:
        counts = {len(arrays[name]) for name in ("ends", "rates", "widths", "digests")}
        counts |= {len(arrays[name]) for name in ("random",) if name in arrays}
        if len(counts) != 1 or 0 in counts or int(arrays["ends"][-1]) != len(arrays["order"]):
            raise RunError(f"{home} has steps without rows, rates or random states: the training stopped early; {_HOW}")
        groups = tuple(
            ParameterGroup(tuple(one["names"]), float(one["weight_decay"]), tuple(one["betas"]), float(one["epsilon"]))
            for one in settings["groups"]
        )
        return TrainingTrace(
            folder,
            str(settings["optimizer"]),
            groups,
            float(settings["clip"]),
            arrays["order"],
            arrays["ends"],
            arrays["rates"],
            arrays["widths"],
            arrays["digests"],
            arrays.get("random"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{home}: {error} is missing or invalid: the record is damaged; {_HOW}") from error


def digest(ids: Int[Tensor, "b t"]) -> int:
    """Hash a batch's token ids."""
    return xxhash.xxh3_64_intdigest(ids.detach().cpu().numpy().astype("<i8").tobytes())


class StepRecorder:
    """Records the steps of a training as it runs."""

    def __init__(self, model: Any, optimizer: Any, loader: Any, clip: float) -> None:
        inner = getattr(model, "module", model)
        optimizer = getattr(optimizer, "optimizer", optimizer)
        names = {id(parameter): name for name, parameter in inner.named_parameters() if parameter.requires_grad}
        self._optimizer = type(optimizer).__name__
        if self._optimizer not in OPTIMIZERS:
            raise RunError(f"a training with {self._optimizer} cannot be recorded for replay: use {OPTIMIZERS}")
        self._groups = [_group(one, names) for one in optimizer.param_groups]
        self._initial = {
            name: parameter.detach().float().cpu().numpy().copy()
            for name, parameter in inner.named_parameters()
            if parameter.requires_grad
        }
        self._drops = any(isinstance(one, torch.nn.Dropout) and one.p > 0 for one in inner.modules())
        if self._drops and device_of(inner).type != "cpu":
            raise RunError(
                "the random states of dropout on a GPU cannot be recorded for replay: train on the CPU (--device cpu, "
                "use_cpu=True), or without dropout"
            )
        self._clip = clip
        self._rates: list[list[float]] = []
        self._random: list[np.ndarray] = []
        self._batches: list[tuple[int, int]] = []
        self._watched = watch_rows(loader)
        self._hook = inner.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: torch.nn.Module, _inputs: Any, named: dict[str, Any]) -> None:
        """Record the batch that the model receives; forward passes outside training are ignored."""
        if module.training:
            ids: Tensor = named["input_ids"]
            self._batches.append((int(ids.shape[1]), digest(ids)))

    def begin(self) -> None:
        """Start a step: store the random state."""
        if self._drops:
            self._random.append(torch.get_rng_state().numpy().copy())

    def end(self, rates: list[float]) -> None:
        """End a step."""
        self._rates.append(rates)

    def write(self, folder: Path) -> None:
        """Write the record."""
        self._hook.remove()
        home = folder / FOLDER
        make_folder(home)
        order, ends = self._watched.cut(len(self._rates))
        arrays: dict[str, np.ndarray] = {
            "order": np.asarray(order, dtype=np.int64),
            "ends": np.asarray(ends, dtype=np.int64),
            "rates": np.asarray(self._rates, dtype=np.float64),
            "widths": np.asarray([width for width, _ in self._batches], dtype=np.int64),
            "digests": np.asarray([one for _, one in self._batches], dtype=np.uint64),
        }
        if self._drops:
            arrays["random"] = np.stack(self._random[: len(self._rates)])
        write_tensors(home / "steps.safetensors", arrays)
        write_tensors(home / "initial.safetensors", self._initial)
        settings = {"version": 1, "optimizer": self._optimizer, "groups": self._groups, "clip": self._clip}
        write_bytes(home / "steps.json", (json.dumps(settings, indent=1) + "\n").encode())


class _Watched:
    """A sampler that records its output by epoch and otherwise behaves like the wrapped sampler."""

    def __init__(self, sampler: Any, size: int, drop_last: bool) -> None:
        self._sampler, self._size, self._drop_last = sampler, size, drop_last
        self.epochs: list[list[int]] = []

    def __iter__(self) -> Iterator[int]:
        seen: list[int] = []
        self.epochs.append(seen)
        for row in cast("Iterable[int]", self._sampler):
            seen.append(int(row))
            yield row

    def __len__(self) -> int:
        return len(cast("Sized", self._sampler))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def place(self, step: int) -> tuple[int, int]:
        """Epoch and row of a step, in batches of one."""
        for number, epoch in enumerate(self.epochs):
            if step < len(epoch):
                return number, epoch[step]
            step -= len(epoch)
        raise RunError(f"step {step} read no row: the record of changes needs the Trainer's own sampler")

    def cut(self, steps: int) -> tuple[list[int], list[int]]:
        """The rows of the first steps, and where each step ended; no batch spans two epochs."""
        order: list[int] = []
        ends: list[int] = []
        for epoch in self.epochs:
            for start in range(0, len(epoch), self._size):
                batch = epoch[start : start + self._size]
                if len(ends) < steps and not (self._drop_last and len(batch) < self._size):
                    order += batch
                    ends.append(len(order))
        return order, ends


def watch_rows(loader: Any) -> _Watched:
    """Note the rows that a Trainer's loader yields."""
    batches: Any = getattr(loader, "batch_sampler", None)
    if not hasattr(batches, "sampler") or not hasattr(batches, "batch_size"):
        raise RunError(
            f"the batches of a {type(batches).__name__} cannot be recorded for replay: train with the Trainer's own "
            "sampler, in one process"
        )
    watched = _Watched(batches.sampler, int(batches.batch_size), bool(batches.drop_last))
    batches.sampler = watched
    return watched


def _group(group: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    momentum = group.get("momentum")
    for name in ("amsgrad", "maximize", "nesterov"):
        if group.get(name):
            raise RunError(f"a training with {name} cannot be recorded for replay")
    if group.get("dampening"):
        raise RunError("a training with dampening cannot be recorded for replay")
    return {
        "names": [names[id(parameter)] for parameter in group["params"] if id(parameter) in names],
        "weight_decay": float(group.get("weight_decay", 0.0)),
        "betas": [float(one) for one in group.get("betas", (momentum or 0.0, 0.0))],
        "epsilon": float(group.get("eps", 0.0)),
    }


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_tensors(weights_file(path))
    except Exception as error:  # the safetensors reader may raise anything
        raise RunError(f"cannot read {path}: {error}: the record is damaged; {_HOW}") from error
