"""Where a checkpoint's second moments are read from, and squares of layer gradients."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from proponent.errors import InputError, MismatchError
from proponent.gradients.layer_hooks import Call
from proponent.gradients.layer_rules import Block, OneHot
from proponent.models.checkpoints import RECORD_FILE, TRAINING
from proponent.models.former import recorded
from proponent.models.placement import device_of, host
from proponent.models.run_files import DOOR, MOST_WEIGHTS, home_of, weights_file
from proponent.models.settings import read_settings
from proponent.preconditioners.base import CheckpointFiles
from proponent.preconditioners.batches import Arrays, Computer, Parts, TextBatch
from proponent.tensors import TensorSlices, read_tensors


def refuse_missing(checkpoint: CheckpointFiles, method: str, source: str, *, by_layer: bool) -> None:
    """Refuse a checkpoint without the second moments that a method needs, or with those of another training."""
    if by_layer:
        _refuse_foreign(checkpoint, _layers_file(checkpoint, method, source))
    elif source == "optimizer":
        _optimizer_file(checkpoint)
    else:
        _refuse_foreign(checkpoint, _table_file(checkpoint, method))


def _refuse_foreign(checkpoint: CheckpointFiles, path: Path) -> None:
    """Refuse moments whose mark is not that of the checkpoint; earlier versions wrote none."""
    record = recorded(checkpoint.path, RECORD_FILE)
    wanted = read_settings(record).get(TRAINING) if record.is_file() else None
    found = TensorSlices(path).metadata.get(TRAINING)
    if wanted and found and wanted != found:
        raise MismatchError(
            f"{path} holds second moments of another run: {record.name} beside it was written by a different "
            "training; restore the file of this run, or choose --second-moment estimate"
        )


def of_table(checkpoint: CheckpointFiles, method: str, source: str, shape: tuple[int, int]) -> Float[np.ndarray, "v d"]:
    """Read the second moment of the word embedding."""
    if source == "optimizer":
        v = _from_optimizer(_optimizer_file(checkpoint))
    else:
        v = read_tensors(_table_file(checkpoint, method), ("embedding",))["embedding"]
    if v.shape != shape:
        raise MismatchError(
            f"the second moments of {checkpoint.path} have shape {list(v.shape)} and its word embedding has shape "
            f"{list(shape)}: they belong to another parameter; choose --second-moment estimate"
        )
    return v


def of_layers(
    checkpoint: CheckpointFiles, method: str, source: str, computer: Computer
) -> list[Float[np.ndarray, "o i"]]:
    """Read the second moments of the layers, in order."""
    path = _layers_file(checkpoint, method, source)
    every = read_tensors(path, TensorSlices(path).names)
    return [_of_layer(computer.model, block, every, checkpoint.path) for block in _blocks(computer)]


def _of_layer(model: nn.Module, block: Block, every: Arrays, path: Path) -> Float[np.ndarray, "o i"]:
    names = [f"{module}.{block.part}" for module in block.modules]
    held = [every[name] for name in names if name in every]
    if not held:
        raise InputError(
            f"{path} has no recorded second moment of {names[0]}: train with "
            'proponent.Recorder(moments="all"), or choose --second-moment estimate'
        )
    turned = type(model.get_submodule(block.modules[0])).__name__ == "Conv1D" and block.part == "weight"
    value = held[0].T if turned else held[0]
    if value.size != block.size:
        raise MismatchError(
            f"the second moments of {names[0]} in {path} have shape {list(held[0].shape)} and the layer has shape "
            f"{[block.o, block.i]}: they belong to another model; choose --second-moment estimate"
        )
    return value.reshape(block.o, block.i)


def file_hash(checkpoint: CheckpointFiles, source: str) -> str:
    """Hash the file that second moments come from."""
    path = checkpoint.path / "optimizer.pt" if source == "optimizer" else checkpoint.moments
    assert path is not None
    with DOOR.open(path, most=MOST_WEIGHTS, within=home_of(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def squares(batch: TextBatch) -> Parts:
    """Squares of the layer gradients, summed over a batch, layer by layer."""
    for block in cast("Sequence[Block]", batch.projection.blocks):
        calls = cast("Sequence[Call]", batch.calls.get(block.name, ()))
        if calls:
            whole = _whole(calls, batch.count)
            yield block.name, host(whole.nan_to_num(0.0, 0.0, 0.0).double().pow(2).sum(0))


def weights(computer: Computer, table: Arrays) -> dict[str, Tensor]:
    """The elementwise factors of the layer gradients."""
    here = device_of(computer.model)
    blocks = enumerate(_blocks(computer))
    return {block.name: torch.as_tensor(table[f"root.{at}"], device=here) for at, block in blocks}


def _blocks(computer: Computer) -> Sequence[Block]:
    assert computer.layers is not None
    return computer.layers.projection.blocks


def _whole(calls: Sequence[Call], count: int) -> Float[Tensor, "n o i"]:
    """Form the gradients of a layer."""
    parts = [
        (one.left.full() if isinstance(one.left, OneHot) else one.left).transpose(1, 2) @ one.right for one in calls
    ]
    return torch.stack(parts).sum(0).view(count, *parts[0].shape[1:])


def _table_file(checkpoint: CheckpointFiles, method: str) -> Path:
    path = checkpoint.moments
    if path is None or "embedding" not in TensorSlices(path).names:
        if recorded(checkpoint.path, RECORD_FILE).is_file():
            raise InputError(
                f"{method} needs the optimizer's second moments of the word embedding, and there were none for "
                f"proponent.Recorder to keep in {checkpoint.path}: the embedding was frozen, the optimizer keeps none "
                '(SGD, Adafactor), or moments="none" was set; choose --second-moment estimate, or another method'
            )
        raise InputError(
            f"{method} needs the optimizer's second moments, and {checkpoint.path} recorded none: train with "
            "proponent.Recorder(), or choose --second-moment estimate (mean squared gradient over the training set) "
            "or --second-moment optimizer (opens optimizer.pt)"
        )
    return path


def _layers_file(checkpoint: CheckpointFiles, method: str, source: str) -> Path:
    """Find the second moments of layers: only the Recorder's file has them, since the optimizer state has no names."""
    path = checkpoint.moments
    if source == "optimizer" or path is None or len(TensorSlices(path).names) < 2:
        raise InputError(
            f"{method} needs the optimizer's second moments of its layers, and {checkpoint.path} recorded none: "
            'train with proponent.Recorder(moments="all"), or choose --second-moment estimate (mean squared '
            "gradient over the training set), or leave them out with --set preconditioner=none"
        )
    return path


def _optimizer_file(checkpoint: CheckpointFiles) -> Path:
    """The optimizer's own state, weights only; needs a torch with the fixed loader (2.10 or newer)."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 10):
        raise InputError(
            f"reading optimizer.pt needs torch 2.10 or newer (this is {torch.__version__}): older versions can "
            "execute code from the file"
        )
    path = checkpoint.path / "optimizer.pt"
    if not path.is_file():
        raise InputError(f"no optimizer.pt in {checkpoint.path}: choose --second-moment estimate")
    return path


def _from_optimizer(path: Path) -> Float[np.ndarray, "v d"]:
    """The bias-corrected second moment of the one largest matrix."""
    try:
        state = cast("dict[str, Any]", torch.load(weights_file(path), map_location="cpu", weights_only=True))
        decay = {number: group["betas"][1] for group in state["param_groups"] for number in group["params"]}
        found = {
            number: one
            for number, one in cast("dict[int, dict[str, Any]]", state["state"]).items()
            if "exp_avg_sq" in one and one["exp_avg_sq"].dim() == 2
        }
    except Exception as error:  # a damaged file, or a state of another shape
        raise InputError(
            f"{path} is not the state of an Adam-like optimizer: choose --second-moment estimate"
        ) from error
    heights = {number: int(one["exp_avg_sq"].shape[0]) for number, one in found.items()}
    largest = [number for number, height in heights.items() if height == max(heights.values())]
    if len(largest) != 1:
        raise InputError(
            f"cannot identify the state of the embedding in {path}: choose --second-moment estimate, or train with "
            "proponent.Recorder()"
        )
    one = found[largest[0]]
    correction = 1.0 - float(decay[largest[0]]) ** float(one["step"])
    return (one["exp_avg_sq"].float() / correction).numpy()
