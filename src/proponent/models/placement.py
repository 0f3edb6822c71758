"""Where a model runs and how precise its numbers are, and the way of tensors to and from there."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from proponent.errors import InputError
from proponent.suggest import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

Dtype = Literal["float32", "bfloat16", "float16"]
"""Precision of a model's weights and passes."""

DTYPES: tuple[Dtype, ...] = get_args(Dtype)
KINDS = ("auto", "cpu", "cuda", "mps")
_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Placement:
    """The device and the precision of a model."""

    device: str = "cpu"  # as torch names it: cpu, cuda:0, mps
    dtype: Dtype = "float32"

    @classmethod
    def of(cls, device: str = "auto", dtype: str = "float32") -> "Placement":
        """Choose a device that exists; auto takes the first CUDA device, else the CPU.

        Args:
            device: auto, cpu, cuda, cuda:N or mps.
            dtype: float32, bfloat16 or float16.

        Returns:
            The placement, with the device as torch names it.

        Raises:
            InputError: there is no such device or precision; the message lists those that exist.
        """
        if dtype not in DTYPES:
            raise InputError(f"dtype {dtype!r}{nearest(dtype, DTYPES)}: choose one of {', '.join(DTYPES)}")
        return cls(_existing(device), dtype)

    @property
    def precision(self) -> torch.dtype:
        """The dtype as torch has it."""
        return getattr(torch, self.dtype)

    @property
    def plain(self) -> bool:
        """Whether results are those of the CPU in 32 bits."""
        return self.device == "cpu" and self.dtype == "float32"

    @property
    def batch_size(self) -> int:
        """Examples per pass by default: a GPU is fast only with many."""
        return 32 if self.device == "cpu" else 256

    @property
    def name(self) -> str:
        """The placement in words."""
        return f"{device_name(self.device)}, {self.dtype}"

    def put(self, model: nn.Module) -> nn.Module:
        """Move a model there, in its precision.

        Args:
            model: on the host.

        Returns:
            The same model.

        Raises:
            InputError: the device has no room for it.
        """
        try:
            return _cast(model, self).to(self.device)
        except torch.OutOfMemoryError as error:
            size = sum(one.nbytes for one in model.parameters())
            shown = f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
            raise InputError(
                f"{device_name(self.device)} has no room for the model of {shown}: free its memory, take "
                "--dtype bfloat16 (dtype=), or run on the CPU with --device cpu (device=)"
            ) from error


HERE = Placement()
"""The CPU in 32 bits."""


def _cast(model: nn.Module, placement: Placement) -> nn.Module:
    """Change the precision of weights, but for those that a model keeps in 32 bits; tables it computes stay exact."""
    if placement.dtype == "float32":
        return model.float()
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    kept = set(getattr(inner, "_keep_in_fp32_modules_strict", None) or ())
    kept |= set(getattr(inner, "_keep_in_fp32_modules", None) or ()) if placement.dtype == "float16" else set[str]()
    for name, one in model.named_parameters():
        if one.is_floating_point() and kept.isdisjoint(name.split(".")):
            one.data = one.data.to(placement.precision)
    return model


def is_half(dtype: torch.dtype) -> bool:
    """Whether numbers have 16 bits."""
    return dtype in _HALF


def devices() -> list[str]:
    """The devices that exist, as they are named in options."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0  # a driver may be there and not work
    found = ["cpu", *(f"cuda:{number}" for number in range(count))]
    return [*found, *(["mps"] if torch.backends.mps.is_available() else [])]


def _existing(device: str) -> str:
    known = devices()
    first = next((one for one in known if one.startswith("cuda")), None)
    if device == "auto":
        return first or "cpu"
    if device == "cuda" and first is not None:
        return first
    if device not in known:
        near = "" if device.partition(":")[0] in KINDS else nearest(device, (*KINDS, *known))
        raise InputError(f"device {device!r}{near}: this machine has {', '.join(known)}; give one of them, or auto")
    return device


def device_name(device: str) -> str:
    """A device in words, with the name of its maker where one is known."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device


def free_bytes(device: torch.device) -> int | None:
    """Memory of a GPU that is free, with what torch holds of it for later; None for other devices."""
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's word embedding, where its inputs belong."""
    tables: Any = getattr(model, "get_input_embeddings", None)
    weight = None if tables is None else getattr(tables(), "weight", None)
    own: Iterable[Any] = (weight,) if isinstance(weight, Tensor) else (*model.parameters(), *model.buffers())
    return next((one.device for one in own), torch.device("cpu"))


def full_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of losses: at least 32 bits."""
    return torch.float32 if dtype in _HALF else dtype


def in_full(tensor: Tensor) -> Tensor:
    """A tensor in the precision of losses, with its graph."""
    return tensor.to(full_dtype(tensor.dtype))


def host(tensor: Tensor) -> Shaped[np.ndarray, "*shape"]:
    """A tensor's numbers on the host, without its graph; half precision becomes float32."""
    return in_full(tensor.detach()).cpu().numpy()


def hosts(tensors: "Sequence[Tensor]") -> list[Shaped[np.ndarray, "..."]]:
    """Several tensors on the host: their copies run at once, and the host waits once for all of them."""
    wide = [in_full(one.detach()) for one in tensors]
    copies = [one.to("cpu", non_blocking=True) for one in wide]
    for device in {one.device for one in wide if one.is_cuda}:
        torch.cuda.synchronize(device)
    return [one.numpy() for one in copies]
