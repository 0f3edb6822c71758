"""The weight files of a folder: safetensors of that folder only; what is loaded is what is hashed."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

from proponent.errors import RunError
from proponent.models.run_files import DOOR, MOST_WEIGHTS, StoredName, home_of, read_settings, require_inside

if TYPE_CHECKING:
    from proponent.models.tasks import Task

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_SETTINGS = "adapter_config.json"
CONFIG_FILE = "config.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")
_SHARDED = ("pytorch_model_fsdp*", "global_step*", "*.distcp", "zero_pp_rank_*", "bf16_zero_pp_rank_*")
"""Files that FSDP and DeepSpeed write in place of whole weights, one part per process."""

_WAY_OUT = "save the model again with model.save_pretrained(folder), which writes safetensors"


def weight_files(folder: Path) -> list[Path]:
    """Find the files that loading a folder reads, without those of an adapter's base model."""
    home = adapter_home(folder)
    if home is not None:
        return [home / ADAPTER_FILE]
    named = _named_by_config(folder)
    if named is not None:
        return _shards(named) if named.name.endswith(".index.json") else [named]
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    return _shards(folder / INDEX_FILE) if (folder / INDEX_FILE).is_file() else []


def adapter_home(folder: Path) -> Path | None:
    """Where the adapter of a folder lies: PEFT saves every adapter but "default" in a subfolder of its name."""
    if (folder / ADAPTER_FILE).is_file():
        return folder
    named = [] if (folder / CONFIG_FILE).is_file() else adapters_inside(folder)
    return named[0] if len(named) == 1 else None


def adapters_inside(folder: Path) -> list[Path]:
    """Subfolders with an adapter that has a name of its own."""
    found = sorted(require_inside(path.parent) for path in folder.glob(f"*/{ADAPTER_FILE}"))
    return [one for one in found if not one.name.startswith("checkpoint-")]


def require_weights(folder: Path, way_out: str) -> None:
    """Refuse a folder without weights, and weights that are not safetensors of that folder."""
    files = weight_files(folder)
    inside = [] if files else adapters_inside(folder)
    if len(inside) > 1:
        names = ", ".join(one.name for one in inside)
        raise RunError(
            f"{folder} holds several adapters ({names}): a model is explained with one of them; give its folder "
            f"({inside[0]}), or leave only that one in each checkpoint"
        )
    if not files:
        raise RunError(_no_weights(folder, way_out))
    if (folder / ADAPTER_SETTINGS).is_file() and not (folder / ADAPTER_FILE).is_file():
        raise RunError(
            f"{folder} has {ADAPTER_SETTINGS} but no {ADAPTER_FILE}: the loaded model would differ from the one in "
            f"{files[0].name}: restore the adapter's weights as safetensors, or remove {ADAPTER_SETTINGS}"
        )


def weights_fingerprint(folder: Path, named: str | None = None) -> str:
    """Hash the weights and the configuration of one checkpoint by content; with an adapter, its base model too."""
    # A base model named on a hub is hashed by its name, which is part of the adapter's configuration.
    files: list[Path] = []
    base, own = base_model(folder, named), adapter_home(folder) or folder
    for home in [own] if base is None else [own, Path(base)]:
        files += sorted(weight_files(home))
        files += [path for name in (CONFIG_FILE, ADAPTER_SETTINGS) if (path := home / name).is_file()]
    return hash_files(files)


def base_model(folder: Path, named: str | None = None) -> str | None:
    """Return the base model of an adapter: the one that the user named, else the one that the adapter names."""
    home = adapter_home(folder)
    if home is None:
        return None
    found: object = read_settings(home / ADAPTER_SETTINGS).get("base_model_name_or_path")
    if not isinstance(found, str | None):
        raise RunError(f"{home / ADAPTER_SETTINGS} names a base model that is no text: name it with --base (base=)")
    return named or (StoredName(found) if found else None)


def hash_files(files: list[Path]) -> str:
    """Hash files by name and content, in the given order."""
    digest = hashlib.sha256()
    for path in files:
        with DOOR.open(path, most=MOST_WEIGHTS, within=home_of(path)) as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def sizes_of_weights(folder: Path) -> str:
    """Sizes of a folder's weight files: enough to tell two pretrained models apart without reading them."""
    return " ".join(f"{one.name}:{one.stat().st_size}" for one in sorted(folder.glob("*.safetensors")))


def _named_by_config(folder: Path) -> Path | None:
    """The weight file that a configuration names (transformers_weights), if any."""
    config = folder / CONFIG_FILE
    name = read_settings(config).get("transformers_weights") if config.is_file() else None
    if name is None:
        return None
    path = _beside(config, name, (".safetensors", ".safetensors.index.json"))
    if not path.is_file():
        raise RunError(
            f"{config} names {path.name} as its weights, but this file is missing: copy the whole checkpoint again"
        )
    return path


def _shards(index: Path) -> list[Path]:
    weight_map = read_settings(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise RunError(f"{index} names no weight files (weight_map): copy the whole checkpoint again")
    named = cast("dict[str, object]", weight_map).values()
    files = {_beside(index, name, (".safetensors",)) for name in named}
    missing = sorted(path.name for path in files if not path.is_file())
    if missing:
        raise RunError(
            f"{index.parent} is incomplete: {missing[0]} is named in {index.name} but is missing: copy the whole "
            "checkpoint"
        )
    return sorted(files)


def _beside(source: Path, name: object, endings: tuple[str, ...]) -> Path:
    """A file in the same folder, of a type that holds no code."""
    plain = isinstance(name, str) and not {"/", "\\", "\0"} & set(name) and name.endswith(endings)
    if not plain:
        raise RunError(
            f"{source} names {str(name)[:100]!r} as its weights: only safetensors files of the same folder are read, "
            f"never a pickle or a file elsewhere: {_WAY_OUT}"
        )
    return source.parent / cast("str", name)


def _no_weights(folder: Path, way_out: str) -> str:
    if any((folder / name).is_file() for name in _PICKLES):
        return f"{folder} contains its weights only as a pickle, which proponent never opens: {_WAY_OUT}"
    if any(next(folder.glob(pattern), None) is not None for pattern in _SHARDED):
        return (
            f"{folder} contains its weights in parts, one for each process (FSDP or DeepSpeed): merge them with "
            "`accelerate merge-weights` (FSDP) or zero_to_fp32.py --safe_serialization (DeepSpeed), or copy the "
            "final model, which is in the folder of the run, into a separate folder and give that folder"
        )
    inside = sorted(entry for entry in folder.iterdir() if entry.is_dir() and weight_files(entry))
    if inside:
        names = ", ".join(entry.name for entry in inside[:5]) + (" ..." if len(inside) > 5 else "")
        return (
            f"no weights in {folder}, but in its folders {names}: give one of them ({inside[-1]}), or name them "
            "checkpoint-STEP if they are the checkpoints of one training"
        )
    held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
    return f"no weights in {folder} (it contains: {held}): {way_out}"


def loss_fingerprints(task: "Task", *, adapter: bool) -> dict[str, str]:
    """What the loss of pairs depends on beside the weights: its settings, and a reference model on disk."""
    found = {"loss": hashlib.sha256(task.settings.encode()).hexdigest()} if task.settings else {}
    home = None if task.reference is None or adapter else Path(task.reference)
    return found | ({"reference": weights_fingerprint(home)} if home is not None and home.is_dir() else {})
