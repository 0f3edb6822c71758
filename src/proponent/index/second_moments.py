"""Where an optimizer-aware recipe finds the second moments of a checkpoint."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from jaxtyping import Float

from proponent.errors import InputError
from proponent.models import Checkpoint
from proponent.recipe import Recipe
from proponent.tensors import TensorSlices, read_tensors
from proponent.types import step_name

Source = Literal["recorded", "optimizer", "estimate"]


@dataclass(frozen=True)
class CheckpointMoments:
    """A checkpoint's second moments, found but not yet read.

    Attributes:
        source: where they come from, in words.
        v: reads those of the word embedding; None when they are estimated from the training set.
        all: reads those of every parameter, by name; None when they are estimated, or when only rows are asked for.
    """

    source: str
    v: Callable[[], Float[np.ndarray, "v d"]] | None
    all: Callable[[], dict[str, np.ndarray]] | None = None


def read_moments(checkpoint: Checkpoint, recipe: Recipe, source: Source) -> CheckpointMoments:
    """Find the second moments that a recipe needs."""
    if source not in get_args(Source):
        raise InputError(f"second_moment is {source!r}: choose one of {', '.join(get_args(Source))}")
    if recipe.preconditioner == "none" or source == "estimate":
        return CheckpointMoments("estimated: mean squared row gradient over the training set", None)
    if recipe.layer == "layers":
        return _of_layers(checkpoint, recipe, source)
    if source == "optimizer":
        path = _optimizer_file(checkpoint)
        return CheckpointMoments("Adam's second moment, read from optimizer.pt", lambda: _from_optimizer(path))
    if checkpoint.moments is None or "embedding" not in TensorSlices(checkpoint.moments).names:
        raise InputError(
            f"{recipe.name} needs the optimizer's second moments, and {checkpoint.path} recorded none: train with "
            "proponent.Recorder(), or choose --second-moment estimate (mean squared gradient over the training set) "
            "or --second-moment optimizer (opens optimizer.pt)"
        )
    path = checkpoint.moments
    return CheckpointMoments(
        "Adam's second moment, recorded at the step", lambda: read_tensors(path, ("embedding",))["embedding"]
    )


def _of_layers(checkpoint: Checkpoint, recipe: Recipe, source: Source) -> CheckpointMoments:
    """Second moments of many layers stand in the Recorder's file alone: the optimizer's own state has no names."""
    path = checkpoint.moments
    if source == "optimizer" or path is None or len(TensorSlices(path).names) < 2:
        raise InputError(
            f"{recipe.name} needs the optimizer's second moments of its layers, and {checkpoint.path} recorded none: "
            'train with proponent.Recorder(moments="all"), or choose --second-moment estimate (mean squared '
            "gradient over the training set), or leave them out with --set preconditioner=none"
        )
    return CheckpointMoments(
        "Adam's second moment, recorded at the step", None, lambda: read_tensors(path, tuple(TensorSlices(path).names))
    )


def _optimizer_file(checkpoint: Checkpoint) -> Path:
    """Opt-in: the optimizer's own state, weights only, on a torch whose loader is mended (2.10 or newer)."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 10):
        raise InputError(
            f"reading optimizer.pt needs torch 2.10 or newer (this is {torch.__version__}): "
            "older loaders can be made to run code"
        )
    path = checkpoint.path / "optimizer.pt"
    if not path.is_file():
        raise InputError(f"no optimizer.pt in {checkpoint.path}: choose --second-moment estimate")
    return path


def moments_fingerprints(checkpoints: Sequence[Checkpoint], recipe: Recipe, source: Source) -> dict[str, str]:
    """Hash the files that second moments come from, so that an index of others is not taken for this one."""
    if recipe.preconditioner == "none" or source == "estimate":
        return {}
    files = {one.step: one.path / "optimizer.pt" if source == "optimizer" else one.moments for one in checkpoints}
    found: dict[str, str] = {}
    for step, path in files.items():
        assert path is not None  # `read_moments` found it
        with path.open("rb") as file:
            found[f"moments {step_name(step)}"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _from_optimizer(path: Path) -> Float[np.ndarray, "v d"]:
    """The bias-corrected second moment of the one largest matrix."""
    try:
        state = cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True))
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
            f"cannot tell the embedding's state apart in {path}: "
            "choose --second-moment estimate, or train with proponent.Recorder()"
        )
    one = found[largest[0]]
    correction = 1.0 - float(decay[largest[0]]) ** float(one["step"])
    return (one["exp_avg_sq"].float() / correction).numpy()
