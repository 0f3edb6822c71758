"""A training run on disk: its checkpoints in numeric order, each with the learning rate that was really used.

Reads json and safetensors only. `training_args.bin`, `rng_state.pth`, `scheduler.pt` are never opened; `optimizer.pt`
only when the user asks for it by name (see `whence.model.moments`).
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from whence.errors import RunError

RECORD_FILE = "whence_recorder.json"
MOMENTS_FILE = "whence_moments.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", ADAPTER_FILE)
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One saved state of a run.

    Attributes:
        path: folder of the weights.
        step: optimizer step, 0 for a folder that is not a checkpoint of a Trainer.
        learning_rate: what multiplied the optimizer's update at that step; 1.0 when it is unknown.
        rule: how the learning rate is known, in words.
    """

    path: Path
    step: int
    learning_rate: float
    rule: str

    @property
    def moments(self) -> Path | None:
        """The Recorder's second moments, when they were recorded."""
        path = self.path / MOMENTS_FILE
        return path if path.is_file() else None


def discover(folder: Path) -> tuple[Checkpoint, ...]:
    """Find the checkpoints of a training run.

    Args:
        folder: a Trainer output folder (checkpoint-*), a model folder, or a PEFT adapter folder.

    Returns:
        Checkpoints in numeric order of their steps; one when the folder itself holds the weights.

    Raises:
        RunError: nothing usable is there; the message says what is.
    """
    if not folder.is_dir():
        near = (
            ", ".join(sorted(entry.name for entry in folder.parent.iterdir() if entry.is_dir())[:5])
            if folder.parent.is_dir()
            else ""
        )
        raise RunError(f"no run folder at {folder}" + (f"; beside it stand: {near}" if near else ": check the path"))
    numbered = sorted(
        (int(match[1]), entry)
        for entry in folder.iterdir()
        if (match := re.fullmatch(r"checkpoint-(\d+)", entry.name)) and entry.is_dir()
    )
    if not numbered:
        _require_weights(folder)
        return (_checkpoint(folder, _step_of(folder)),)
    for _, path in numbered:
        _require_weights(path)
    return tuple(_checkpoint(path, step) for step, path in numbered)


def weights_fingerprint(folder: Path) -> str:
    """Hash the weights and the configuration of one checkpoint by content.

    Args:
        folder: the checkpoint's folder.

    Returns:
        SHA-256, hexadecimal.
    """
    files = [path for path in sorted(folder.glob("*.safetensors")) if path.name != MOMENTS_FILE]
    files += [path for name in ("config.json", "adapter_config.json") if (path := folder / name).is_file()]
    return _hash_files(files)


def tokenizer_fingerprint(folder: Path) -> str:
    """Hash the tokenizer files of a folder by content.

    Args:
        folder: where the tokenizer was saved.

    Returns:
        SHA-256, hexadecimal.
    """
    names = (
        "tokenizer.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "spiece.model",
        "tokenizer.model",
        "sentencepiece.bpe.model",
    )
    return _hash_files([path for name in names if (path := folder / name).is_file()])


def _hash_files(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _require_weights(folder: Path) -> None:
    if any((folder / name).is_file() for name in _WEIGHTS):
        _require_shards(folder)
        return
    if any((folder / name).is_file() for name in _PICKLES):
        raise RunError(
            f"{folder} holds its weights as a pickle only, which whence never opens: save them again with "
            "model.save_pretrained(folder), which writes safetensors"
        )
    held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
    raise RunError(
        f"no weights in {folder} (it holds: {held}): expected checkpoint-* folders, model.safetensors or {ADAPTER_FILE}"
    )


def _require_shards(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    weight_map = cast("dict[str, str]", _read_json(index).get("weight_map", {}))
    missing = sorted({name for name in weight_map.values() if not (folder / name).is_file()})
    if missing:
        raise RunError(
            f"{folder} is incomplete: {missing[0]} is named in {index.name} but is not there: copy the whole checkpoint"
        )


def _checkpoint(path: Path, step: int) -> Checkpoint:
    rate, rule = _learning_rate(path, step)
    return Checkpoint(path, step, rate, rule)


def _step_of(folder: Path) -> int:
    state = folder / "trainer_state.json"
    record = folder / RECORD_FILE
    for path, key in ((record, "step"), (state, "global_step")):
        if path.is_file():
            return int(_read_json(path).get(key, 0))
    match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    return int(match[1]) if match else 0


def _learning_rate(folder: Path, step: int) -> tuple[float, str]:
    record = folder / RECORD_FILE
    if record.is_file():
        return float(_read_json(record)["learning_rate"]), "recorded at the step (exact)"
    state = folder / "trainer_state.json"
    if not state.is_file():
        return 1.0, "unknown: equal weight (no trainer_state.json)"
    history = cast("list[dict[str, Any]]", _read_json(state).get("log_history", []))
    logged = [
        (int(entry["step"]), float(entry["learning_rate"]))
        for entry in history
        if "learning_rate" in entry and "step" in entry
    ]
    if not logged:
        return 1.0, "unknown: equal weight (trainer_state.json logs no learning rate)"
    nearest, rate = min(logged, key=lambda entry: (abs(entry[0] - step), entry[0]))
    if nearest == step:
        return rate, "trainer_state.json at this step (may be one step off with old versions of transformers)"
    return rate, f"trainer_state.json at step {nearest}, the nearest logged one"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}: the run folder is damaged or half copied") from error
    if not isinstance(loaded, dict):
        raise RunError(f"cannot read {path}: expected a JSON object")
    return cast("dict[str, Any]", loaded)
