"""One optimizer step as a differentiable function of parameters, moments and gradient: AdamW, Adam, SGD.

All parameters form one flat vector [p], so a step is a handful of elementwise operations. The order of operations
is that of torch's own optimizers without foreach or fused kernels; those differ in the last bit.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from proponent.errors import RunError
from proponent.models import TrainingTrace
from proponent.training.schedule import Step


@dataclass(frozen=True)
class OptimizerState:
    """The state of a training between two steps."""

    parameters: Float[Tensor, " p"]
    first: Float[Tensor, " p"]  # moment, or SGD's momentum
    second: Float[Tensor, " p"]  # moment; zeros for SGD

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three vectors."""
        return self.parameters, self.first, self.second


@dataclass(frozen=True)
class FlatOptimizer:
    """The recorded optimizer."""

    name: str  # AdamW, Adam or SGD
    decay: Float[Tensor, " p"]  # weight decay
    group: Tensor  # parameter group of each parameter
    betas: tuple[float, float]  # (momentum, 0) for SGD
    epsilon: float
    clip: float  # 0: none

    def apply(self, state: OptimizerState, gradient: Float[Tensor, " p"], step: Step) -> OptimizerState:
        """Apply one step."""
        theta, first, second = state.parts
        rate = torch.as_tensor(step.rates, dtype=theta.dtype, device=theta.device)[self.group]
        number = step.number + 1
        gradient = self._clipped(gradient)
        if self.name == "AdamW":
            theta = theta * (1 - rate * self.decay)
        else:
            gradient = gradient + self.decay * theta
        if self.name == "SGD":
            first = self.betas[0] * first + gradient
            return OptimizerState(theta - rate * first, first, second)
        beta, other = self.betas
        first = first + (1 - beta) * (gradient - first)
        second = other * second + (1 - other) * gradient * gradient
        moved = second > 0
        # The square root has no derivative at 0: no gradient has arrived there yet, and its product is 0.
        root = torch.where(moved, torch.where(moved, second, 1.0).sqrt(), 0.0)
        divisor = root / (1 - other**number) ** 0.5 + self.epsilon
        return OptimizerState(theta - rate / (1 - beta**number) * (first / divisor), first, second)

    def _clipped(self, gradient: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        if not self.clip:
            return gradient
        norm = gradient.square().sum().sqrt()
        return gradient * torch.clamp(self.clip / (norm + 1e-6), max=1.0)


def optimizer_of(
    steps: TrainingTrace, sizes: dict[str, int], dtype: torch.dtype, device: torch.device
) -> FlatOptimizer:
    """Create the optimizer of a recorded training."""
    place = {name: number for number, group in enumerate(steps.groups) for name in group.names}
    lost = next((name for name in sizes if name not in place), None)
    if lost is not None:
        raise RunError(
            f"{steps.folder} cannot be replayed: its record does not contain the training settings of {lost}"
        )
    if len({(one.betas, one.epsilon) for one in steps.groups if one.names}) > 1:
        raise RunError(f"{steps.folder} cannot be replayed: its parameter groups have different betas or epsilons")
    one = next(group for group in steps.groups if group.names)
    group = torch.cat([torch.full((size,), place[name]) for name, size in sizes.items()]).to(device)
    decay = torch.tensor([group.weight_decay for group in steps.groups], dtype=dtype, device=device)[group]
    return FlatOptimizer(steps.optimizer, decay, group, one.betas, one.epsilon, steps.clip)
