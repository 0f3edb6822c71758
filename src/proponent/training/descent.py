"""Steps of an optimizer on losses that a caller makes one after another."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from proponent.errors import InputError


def descend(
    optimizer: torch.optim.Optimizer, losses: Iterable[Float[Tensor, ""]], what: str, *, cosine: int = 0
) -> None:
    """Take one step on each loss, each of which is made after the step before.

    Args:
        optimizer: of the weights that are trained.
        losses: one for each step.
        what: what is trained, for a message.
        cosine: number of steps over which the rates fall to 0; 0 keeps them.

    Raises:
        InputError: weights are not finite at the end.
    """
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, cosine) if cosine else None
    for loss in losses:
        optimizer.zero_grad()
        cast("Any", loss).backward()
        cast("Any", optimizer).step()
        if schedule is not None:
            schedule.step()
    weights = [one for group in optimizer.param_groups for one in cast("list[Tensor]", group["params"])]
    if not all(bool(torch.isfinite(one).all()) for one in weights):
        raise InputError(f"{what} diverged: the weights are not finite; lower the learning rate")
