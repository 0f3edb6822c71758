"""Summed checkpoints must come from one training: this is checked as far as their files allow."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from proponent.errors import DamagedError, RunError
from proponent.models.adapters import adapter_settings
from proponent.models.checkpoints import RECORD_FILE, Checkpoint
from proponent.models.former import recorded
from proponent.models.run_files import read_settings
from proponent.models.settings import check_numbers
from proponent.models.weights import CONFIG_FILE, adapter_home, weight_files
from proponent.tensors import TensorSlices

_ADAPTER = ("peft_type", "task_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path")


def check_one_training(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse checkpoints of several trainings in one folder; name two of them and what differs."""
    last = checkpoints[-1].path
    kept = [one.path for one in checkpoints[:-1] if (one.path / CONFIG_FILE).is_file() or _adapter(one.path)]
    made = _made(last) if kept else {}
    shapes = _shapes(last) if kept else {}
    for path in kept:
        _refuse(path, last, _difference(_made(path), made) or _other_shape(_shapes(path), shapes))
    for before, after in pairwise(checkpoints):
        _refuse(before.path, after.path, _other_history(before.path, after.path))


def _refuse(path: Path, other: Path, differs: str | None) -> None:
    if differs is not None:
        raise RunError(
            f"{path} and {other} are from different trainings: {differs}; move the checkpoints of one training to a "
            "separate folder"
        )


def _adapter(folder: Path) -> bool:
    return adapter_home(folder) is not None


def _made(folder: Path) -> dict[str, Any]:
    """Describe a model's configuration in the user's terms."""
    if _adapter(folder):
        settings = adapter_settings(folder)
        return {f"adapter's {name}": _unordered(settings.get(name)) for name in _ADAPTER}
    settings = check_numbers(folder / CONFIG_FILE)
    return {
        "architecture": settings.get("architectures"),
        "model type": settings.get("model_type"),
        "labels": settings.get("id2label"),
        "vocabulary": settings.get("vocab_size"),
    }


def _unordered(value: object) -> object:
    return sorted(map(str, cast("list[object]", value))) if isinstance(value, list) else value


def _difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    differing = [name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)]
    order = [*mine, *theirs]
    for name in sorted(differing, key=order.index):
        return f"they differ in {name} ({_short(mine.get(name))} and {_short(theirs.get(name))})"
    return None


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Every array with its shape, from the headers of the files."""
    found: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            slices = TensorSlices(path)
        except DamagedError:  # loading reports what is wrong
            return {}
        found |= {name: slices.shape(name) for name in slices.names}
    return found


def _other_shape(mine: Mapping[str, tuple[int, ...]], theirs: Mapping[str, tuple[int, ...]]) -> str | None:
    if not mine or not theirs:
        return None
    alone = sorted(mine.keys() ^ theirs.keys())
    if alone:
        return f"only one of them has the weights {alone[0]}"
    unlike = next((name for name in sorted(mine) if mine[name] != theirs[name]), None)
    return None if unlike is None else f"the sizes of {unlike} differ ({mine[unlike]} and {theirs[unlike]})"


def _other_history(before: Path, after: Path) -> str | None:
    """How the log or the Recorder's mark of a later checkpoint contradicts an earlier one; None if they agree."""
    first, second = _record(before), _record(after)
    marks = first.get("training"), second.get("training")
    if all(marks) and marks[0] != marks[1]:
        return "the Recorder marked them as two trainings"
    logged, later = _logged(before), _logged(after)
    for step, values in logged.items():
        same = {name: value for name, value in values.items() if name in later.get(step, {})}
        name = next((name for name, value in same.items() if later[step][name] != value), None)
        if name is not None:
            return f"at step {step} they log different values of {name} ({same[name]} and {later[step][name]})"
    seeds = first.get("seed"), second.get("seed")
    resumed = bool(logged) and all(later.get(step) == values for step, values in logged.items())
    if None not in seeds and seeds[0] != seeds[1] and not resumed:
        return f"their seeds differ ({seeds[0]} and {seeds[1]})"
    return None


def _record(folder: Path) -> dict[str, Any]:
    path = recorded(folder, RECORD_FILE)
    return read_settings(path) if path.is_file() else {}


def _logged(folder: Path) -> dict[int, dict[str, str]]:
    """Logged figures by step, which cannot differ within one training."""
    path = folder / "trainer_state.json"
    history = read_settings(path).get("log_history") if path.is_file() else None
    found: dict[int, dict[str, str]] = {}
    for entry in cast("list[object]", history) if isinstance(history, list) else []:
        values = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
        step = values.get("step")
        if isinstance(step, int):
            told = {name: json.dumps(values[name]) for name in ("loss", "grad_norm", "eval_loss") if name in values}
            found.setdefault(step, {}).update(told)
    return found


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
