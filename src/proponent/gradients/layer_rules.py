"""One rule per kind of layer: from the tensors of a call to the factors of the weight's gradient.

The gradient of a weight W [o i] is a sum over positions of left right^T. For a linear layer left is the gradient at the
output and right the input; a convolution is a linear layer over windows; an embedding's left is one-hot; a bias or the
gain of a normalisation is a weight with one column.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from proponent.errors import RunError
from proponent.gradients.model_parts import embedding_scale
from proponent.models.adapter_modules import Scale
from proponent.models.placement import is_half

Part = Literal["weight", "bias"]


@dataclass(frozen=True)
class OneHot:
    """Left factor of an embedding: one-hot rows, not formed."""

    ids: Int[Tensor, " *n"]  # column of the one at each position
    size: int  # width of the rows

    def times(self, matrix: Float[Tensor, "p o"]) -> Float[Tensor, "*n p"]:
        """Project the rows."""
        return matrix.T[self.ids]

    def full(self) -> Float[Tensor, "*n o"]:
        """Form the rows."""
        rows = torch.zeros(*self.ids.shape, self.size, device=self.ids.device)
        return rows.scatter_(-1, self.ids[..., None], 1.0)


Left = Float[Tensor, "*n o"] | OneHot


@dataclass(frozen=True)
class Block:
    """A scored parameter."""

    name: str  # of its module in the model; ".bias" or ".gain" is added for vectors
    modules: tuple[str, ...]  # names of all modules that use it
    part: Part  # which of their parameters
    o: int  # rows of the weight (out-features), length of a vector
    i: int  # columns of the weight (in-features), 1 for a vector
    apart: bool = False  # whether it stands outside the blocks: of few such layers small ones are stored in full

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.o * self.i


@dataclass(frozen=True)
class Rule:
    """How a kind of layer is scored."""

    shape: tuple[int, int]  # (o, i) of its weight
    # factors of the weight's gradient, from the module, its input and the gradient at its output; None for a layer
    # whose gradient is not computed from factors
    weight: Callable[[nn.Module, Tensor, Tensor], tuple[Left, Tensor]]
    channels_first: bool = False  # whether input and output are [n d t]


def rule_of(module: nn.Module) -> Rule | None:
    """Return the rule of a layer."""
    kind = type(module)
    if isinstance(module, nn.Linear):
        return Rule((module.out_features, module.in_features), _linear) if _is_linear(module) else None
    if isinstance(module, nn.Embedding):
        scale = _scale(module)
        shape = (module.num_embeddings, module.embedding_dim)
        return None if scale is None else Rule(shape, partial(_embedding, scale))
    if isinstance(module, nn.Conv1d):
        plain = kind.forward is nn.Conv1d.forward and module.groups == 1 and not isinstance(module.padding, str)
        i = module.in_channels * module.kernel_size[0]
        return Rule((module.out_channels, i), _conv, channels_first=True) if plain else None
    if isinstance(module, nn.LayerNorm):
        whole = kind.forward is nn.LayerNorm.forward and len(module.normalized_shape) == 1
        return Rule((module.normalized_shape[0], 1), _layer_norm) if whole and module.elementwise_affine else None
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter):
        return None
    if isinstance(module, Scale):
        return Rule((weight.shape[0], 1), _scaled)
    if kind.__name__ == "Conv1D" and weight.dim() == 2:  # GPT-2's linear layer with a transposed weight
        return Rule((weight.shape[1], weight.shape[0]), _linear)
    if kind.__name__.endswith(("RMSNorm", "T5LayerNorm")) and weight.dim() == 1:  # checked again when it is called
        return Rule((weight.shape[0], 1), _rms_norm)
    return None


def is_vector(rule: Rule) -> bool:
    """Whether a layer's weight is a vector, such as the gain of a normalisation."""
    return rule.weight in {_layer_norm, _rms_norm}


def ones_like(left: Float[Tensor, "*n o"]) -> Float[Tensor, "*n 1"]:
    """Right factor of a vector."""
    return left.new_ones(*left.shape[:-1], 1)


def _is_linear(module: nn.Linear) -> bool:
    """Whether a layer, if it has a forward of its own, is still linear."""
    if type(module).forward is nn.Linear.forward:
        return True
    with torch.no_grad():
        weight = module.weight
        x = torch.linspace(-1.0, 1.0, 2 * module.in_features, dtype=weight.dtype, device=weight.device)
        x = x.view(1, 2, module.in_features)
        made, wanted = cast("object", module(x)), functional.linear(x, weight, module.bias)
        rounded = (3e-2, 3e-3) if is_half(weight.dtype) else (1e-4, 1e-6)
        return isinstance(made, Tensor) and torch.allclose(made, wanted, rtol=rounded[0], atol=rounded[1])


def _linear(_module: nn.Module, x: Tensor, g: Tensor) -> tuple[Left, Tensor]:
    return g, x


def _scale(module: nn.Embedding) -> float | None:
    """The factor by which an embedding multiplies its rows; None if it does something else."""
    if module.max_norm is not None:
        return None
    if type(module).forward is nn.Embedding.forward:
        return 1.0
    if len(signature(module.forward).parameters) != 1:
        return None
    try:
        return embedding_scale(module)
    except RunError:
        return None


def _embedding(scale: float, module: nn.Module, x: Tensor, g: Tensor) -> tuple[Left, Tensor]:
    table = cast("nn.Embedding", module)
    made = g * scale
    if table.padding_idx is not None:  # this row is never trained; a decoder may start with it
        made = made.masked_fill((x == table.padding_idx)[..., None], 0.0)
    return OneHot(x, table.num_embeddings), made


def _conv(module: nn.Module, x: Tensor, g: Tensor) -> tuple[Left, Tensor]:
    conv = cast("Any", module)
    windows = functional.unfold(
        x.unsqueeze(2),
        (1, conv.kernel_size[0]),
        dilation=(1, conv.dilation[0]),
        padding=(0, conv.padding[0]),
        stride=(1, conv.stride[0]),
    )
    return g.transpose(1, 2), windows.transpose(1, 2)


def _layer_norm(module: nn.Module, x: Tensor, g: Tensor) -> tuple[Left, Tensor]:
    norm = cast("nn.LayerNorm", module)
    left = g * functional.layer_norm(x, norm.normalized_shape, None, None, norm.eps)
    return left, ones_like(left)


def _rms_norm(module: nn.Module, x: Tensor, g: Tensor) -> tuple[Left, Tensor]:
    left = g * rms(module, x)
    return left, ones_like(left)


def _scaled(_module: nn.Module, x: Tensor, g: Tensor) -> tuple[Left, Tensor]:
    left = g * x
    return left, ones_like(left)


def rms(module: nn.Module, x: Tensor) -> Tensor:
    """Normalise by the root mean square, as the module does before it applies its gain."""
    named = cast("Any", module)
    epsilon = float(getattr(named, "variance_epsilon", getattr(named, "eps", None) or 0.0))
    return x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + epsilon)
