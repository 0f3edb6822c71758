"""A training run on disk: its checkpoints in numeric order, each with the learning rate that was actually used.

Reads json and safetensors only. `training_args.bin`, `rng_state.pth`, `scheduler.pt` are never opened; `optimizer.pt`
only when the user asks for it by name (see `proponent.preconditioners.second_moments`).
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from proponent.errors import RunError
from proponent.models.foreign import refuse_foreign
from proponent.models.former import recorded
from proponent.models.run_files import read_settings, require_inside, weights_file
from proponent.models.weights import ADAPTER_FILE, hash_files, require_weights
from proponent.suggest import nearest
from proponent.types import CheckpointId

RECORD_FILE = "proponent_recorder.json"
MOMENTS_FILE = "proponent_moments.safetensors"
TRAINING = "training"
"""The mark of one training, in the Recorder's record of a checkpoint and in its second moments."""
_NUMBERED = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
MOST_STEPS = 10**9
"""Steps of one training are below this number."""

MOST_RATE = 1e6
"""The largest learning rate that is believed."""

_UNKNOWN = "unknown: equal weight"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One saved state of a run."""

    path: Path  # folder of the weights
    id: CheckpointId  # step 0 for a folder that is not a Trainer checkpoint
    learning_rate: float  # factor of the optimizer's update at that step; 1.0 if no checkpoint has a known rate
    rule: str  # how the learning rate was determined, in words

    @property
    def step(self) -> int:
        """The optimizer step within its run."""
        return self.id.step

    @property
    def moments(self) -> Path | None:
        """The Recorder's second moments, if they were recorded."""
        path = recorded(self.path, MOMENTS_FILE)
        return weights_file(path) if path.is_file() else None


def discover(folder: Path) -> tuple[Checkpoint, ...]:
    """Find the checkpoints of a training run."""
    if not folder.is_dir():
        raise RunError(_no_folder(folder))
    numbered = sorted(
        (int(match[1]), require_inside(entry))
        for entry in folder.iterdir()
        if (match := _NUMBERED.fullmatch(entry.name)) and entry.is_dir()
    )
    if numbered and numbered[-1][0] >= MOST_STEPS:
        raise RunError(f"{numbered[-1][1]} is named after a step that no training reaches: rename that folder")
    for home in [folder, *(path for _, path in numbered[-1:])]:
        refuse_foreign(home)
    if not numbered:
        require_weights(folder, "expected checkpoint-* folders, model.safetensors or " + ADAPTER_FILE)
        return _with_rates([_checkpoint(folder, _step_of(folder))])
    for _, path in numbered:
        require_weights(path, "it was saved or copied incompletely: remove that folder or restore it")
    return _with_rates([_checkpoint(path, step) for step, path in numbered])


def tokenizer_fingerprint(folder: Path) -> str:
    """Hash the tokenizer files of a folder by content."""
    names = (
        "tokenizer.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "spiece.model",
        "tokenizer.model",
        "sentencepiece.bpe.model",
    )
    return hash_files([path for name in names if (path := folder / name).is_file()])


def _no_folder(folder: Path) -> str:
    if folder.exists():
        return f"{folder} is a file: give the folder of the run"
    if not folder.parent.is_dir():
        return f"no run folder at {folder}: check the path"
    beside = sorted(entry.name for entry in folder.parent.iterdir() if entry.is_dir())
    near = nearest(folder.name, beside)
    return f"no run folder at {folder}" + (
        near or (f"; the folder contains: {', '.join(beside[:5])}" if beside else ": check the path")
    )


def _checkpoint(path: Path, step: int) -> Checkpoint:
    rate, rule = _learning_rate(path, step)
    return Checkpoint(path, CheckpointId(0, step), rate, rule)


def _step_of(folder: Path) -> int:
    state = folder / "trainer_state.json"
    record = recorded(folder, RECORD_FILE)
    for path, key in ((record, "step"), (state, "global_step")):
        if path.is_file():
            step = read_settings(path).get(key, 0)
            if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < MOST_STEPS:
                raise RunError(f"{path} has the value {step!r} for {key}: the run folder is damaged")
            return step
    match = _NUMBERED.fullmatch(folder.name)
    return int(match[1]) if match else 0


def _with_rates(checkpoints: list[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Give a checkpoint of unknown rate its nearest neighbour's rate: 1.0 next to 5e-5 would dominate all others."""
    known = [one for one in checkpoints if not one.rule.startswith(_UNKNOWN)]
    if not known:
        return tuple(checkpoints)
    return tuple(one if one in known else _borrowed(one, known) for one in checkpoints)


def _borrowed(checkpoint: Checkpoint, known: list[Checkpoint]) -> Checkpoint:
    source = min(known, key=lambda other: (abs(other.step - checkpoint.step), other.step))
    rule = f"unknown here: using that of step {source.step}, the nearest checkpoint with a known rate"
    return replace(checkpoint, learning_rate=source.learning_rate, rule=rule)


def _learning_rate(folder: Path, step: int) -> tuple[float, str]:
    record = recorded(folder, RECORD_FILE)
    if record.is_file():
        rate = _rate(read_settings(record).get("learning_rate"))
        if rate is None:
            raise RunError(f"{record} contains no learning rate: the run folder is damaged or incompletely copied")
        return rate, "recorded at the step (exact)"
    state = folder / "trainer_state.json"
    if not state.is_file():
        return 1.0, f"{_UNKNOWN} (no trainer_state.json)"
    logged = _logged(state)
    if not logged:
        return 1.0, f"{_UNKNOWN} (trainer_state.json logs no learning rate)"
    # old versions log the next step's rate, which is 0 at the end of a schedule: the checkpoint would have no weight
    positive = [entry for entry in logged if entry[1] > 0]
    if not positive:
        return 1.0, f"{_UNKNOWN} (trainer_state.json logs no learning rate above 0)"
    closest, rate = min(positive, key=lambda entry: (abs(entry[0] - step), entry[0]))
    if closest == step:
        return rate, "trainer_state.json at this step (may be one step off with old versions of transformers)"
    zero = " above 0" if (step, 0.0) in logged else ""
    return rate, f"trainer_state.json at step {closest}, the nearest logged one{zero}"


def _logged(state: Path) -> list[tuple[int, float]]:
    """Steps with their learning rates, where the log has a usable rate."""
    history = cast("object", read_settings(state).get("log_history") or [])
    if not isinstance(history, list):
        raise RunError(f"{state} has a log_history that is not a list: the run folder is damaged")
    found: list[tuple[int, float]] = []
    for entry in cast("list[object]", history):
        if isinstance(entry, dict):
            values = cast("dict[str, object]", entry)
            step, rate = values.get("step"), _rate(values.get("learning_rate"))
            if isinstance(step, int) and rate is not None and 0 <= step < MOST_STEPS:
                found.append((step, rate))
    return found


def _rate(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= MOST_RATE else None


def members_of(folder: Path) -> list[Path]:
    """Find the runs in a folder of runs, as `proponent train --runs` creates it."""
    if not folder.is_dir() or (folder / "config.json").is_file() or next(folder.glob("checkpoint-*"), None) is not None:
        return []
    found = [one for one in folder.glob("seed-*") if one.is_dir() and one.name[5:].isdecimal()]
    return sorted(found, key=lambda one: int(one.name[5:]))
