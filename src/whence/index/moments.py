"""Where an optimizer-aware recipe finds the second moments of a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float

from whence.errors import InputError
from whence.model import Checkpoint
from whence.recipe import Recipe
from whence.tensors import TensorSlices, read_tensors

Source = Literal["recorded", "optimizer", "estimate"]


@dataclass(frozen=True)
class Moments:
    """A checkpoint's second moments, found but not yet read.

    Attributes:
        source: where they come from, in words.
        v: reads them; None when they are estimated from the training set.
    """

    source: str
    v: Callable[[], Float[np.ndarray, "v d"]] | None


def read_moments(checkpoint: Checkpoint, recipe: Recipe, source: Source) -> Moments:
    """Find the second moments that a recipe needs.

    Args:
        checkpoint: the checkpoint.
        recipe: the method.
        source: the user's choice.

    Returns:
        The moments, unread.

    Raises:
        InputError: they are not where the user said.
    """
    if recipe.preconditioner == "none" or source == "estimate":
        return Moments("estimated: mean squared row gradient over the training set", None)
    if source == "optimizer":
        return Moments("optimizer.pt (exp_avg_sq of the embedding)", lambda: _from_optimizer(checkpoint))
    if checkpoint.moments is None or "embedding" not in TensorSlices(checkpoint.moments).names:
        raise InputError(
            f"{recipe.name} needs the optimizer's second moments, and {checkpoint.path} recorded none: train with whence.Recorder(), or choose "
            "--second-moment estimate (mean squared gradient over the training set) or --second-moment optimizer (opens optimizer.pt)"
        )
    path = checkpoint.moments
    return Moments(
        "Adam's second moment, recorded at the step", lambda: read_tensors(path, ("embedding",))["embedding"]
    )


def _from_optimizer(checkpoint: Checkpoint) -> Float[np.ndarray, "v d"]:
    """Opt-in: the optimizer's own state, weights only, on a torch whose loader is mended (2.10 or newer)."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 10):
        raise InputError(
            f"reading optimizer.pt needs torch 2.10 or newer (this is {torch.__version__}): older loaders can be made to run code"
        )
    path = checkpoint.path / "optimizer.pt"
    if not path.is_file():
        raise InputError(f"no optimizer.pt in {checkpoint.path}: choose --second-moment estimate")
    state = cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True))
    found = [
        one["exp_avg_sq"] for one in state["state"].values() if "exp_avg_sq" in one and one["exp_avg_sq"].dim() == 2
    ]
    largest = max(found, key=lambda v: v.shape[0], default=None)
    if largest is None or sum(v.shape == largest.shape for v in found) != 1:
        raise InputError(
            f"cannot tell the embedding's state apart in {path}: choose --second-moment estimate, or train with whence.Recorder()"
        )
    return largest.float().numpy()
