"""What loading a model reports: weights that are missing or unused, which are refused by name."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, cast

from torch import nn

from proponent.errors import DamagedError, RunError
from proponent.models.weights import CONFIG_FILE, weight_files
from proponent.tensors import TensorSlices

_OLD_NAMES = frozenset({"T5WithLMHeadModel"})
"""Classes of earlier versions of transformers that have another name now."""


class LoadReport(NamedTuple):
    """Result of loading: missing weights, now random, and weights that the model does not use."""

    missing: list[str]
    unused: list[str]


def require_whole(folder: Path, missing: list[str]) -> None:
    """Refuse weights that lack parameters, which would be random."""
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RunError(
            f"the weights in {folder} lack {missing[0]}{more}: this is not a complete checkpoint of this architecture"
        )


def refuse_compiled(folder: Path, unused: list[str]) -> None:
    """Refuse the weights of a compiled model, whose names differ."""
    if any("_orig_mod." in name for name in unused):
        raise RunError(
            f"the weights in {folder} were saved from a compiled model (their names begin with _orig_mod.): save them "
            "again with model._orig_mod.save_pretrained(folder)"
        )


def require_used(folder: Path, model: nn.Module, unused: list[str]) -> None:
    """Refuse weights that the model does not use."""
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise RunError(
            f"the weights in {folder} contain {unused[0]}{more}, which {type(model).__name__} does not use: the "
            "trained model differs from the model that would be explained; if its class has custom code, name it in "
            "auto_map of config.json and allow it with --trust-remote-code"
        )


def require_class(folder: Path, model: nn.Module, architecture: str, *, exists: bool) -> None:
    """Require the class that was trained; another class with similar weights may compute something else."""
    made = type(model).__name__
    if made != architecture and exists and architecture not in _OLD_NAMES:
        raise RunError(
            f"{folder / CONFIG_FILE} names {architecture} in architectures, and its model_type makes {made}: they "
            "contradict each other, and another model than the trained one would be explained; restore the file"
        )
    if made != architecture and architecture not in _OLD_NAMES:
        raise RunError(
            f"{folder / CONFIG_FILE} names {architecture}, which transformers does not have: {made} "
            "would be explained instead; if the class has custom code, name it in auto_map of config.json and allow "
            "it with --trust-remote-code"
        )


def misshapen(folder: Path, model: nn.Module) -> str | None:
    """Say which stored weight has another shape than the configuration gives it; None if none has."""
    named = cast("Iterable[tuple[str, nn.Parameter]]", model.named_parameters(remove_duplicate=False))
    wanted = {name: tuple(one.shape) for name, one in named}
    try:
        held = {
            name: one.shape(name) for path in weight_files(folder) for one in [TensorSlices(path)] for name in one.names
        }
    except DamagedError:
        return None
    name = next((name for name, shape in wanted.items() if held.get(name, shape) != shape), None)
    if name is None:
        return None
    return (
        f"{name} has the shape {list(held[name])} in the weights, and {list(wanted[name])} by config.json: the file "
        "belongs to another model, or is older than the weights; restore the config.json that was saved with them"
    )
