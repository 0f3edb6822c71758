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
Modules = tuple[tuple[str, str], ...]
"""Modules of a model with the device of each; a module inside of another goes with the closest that is named."""

KINDS = ("auto", "cpu", "cuda", "mps")
_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Placement:
    """The device and the precision of a model, or the devices that it is split over."""

    device: str = "cpu"  # as torch names it: cpu, cuda:0, mps; of a split model, that of its word embedding
    dtype: Dtype = "float32"
    # a rule that splits the model, or the device of every module; None on one device. A run's own has no rule
    device_map: str | Modules | None = None
    max_memory: tuple[tuple[str, int], ...] = ()  # of a rule, the most bytes of weights per GPU

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
    def devices(self) -> tuple[str, ...]:
        """The devices that hold weights, that of batches first."""
        named = () if self.device_map is None or isinstance(self.device_map, str) else self.device_map
        return tuple(dict.fromkeys([self.device, *sorted({at for _, at in named})]))

    @property
    def split(self) -> bool:
        """Whether weights are on several devices."""
        return len(self.devices) > 1

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `Run.from_pretrained` that give this placement."""
        if self.device_map is None:
            return {"device": self.device, "dtype": self.dtype}
        limits = {"max_memory": self.max_memory} if self.max_memory else {}
        return {"device_map": self.device_map, "dtype": self.dtype, **limits}

    @property
    def plain(self) -> bool:
        """Whether results are those of the CPU in 32 bits."""
        return self.devices == ("cpu",) and self.dtype == "float32"

    @property
    def batch_size(self) -> int:
        """Examples per pass by default: a GPU is fast only with many."""
        return 32 if self.device == "cpu" else 256

    @property
    def name(self) -> str:
        """The placement in words."""
        return f"{', '.join(map(device_name, self.devices))}, {self.dtype}"

    def put(self, model: nn.Module) -> nn.Module:
        """Move a model there, in its precision.

        Args:
            model: on the host.

        Returns:
            The same model.

        Raises:
            InputError: the device has no room for it, or the model of the run is split over several.
        """
        refuse_split(self, "what trains or changes a model")
        try:
            return self.cast(model).to(self.device)
        except torch.OutOfMemoryError as error:
            raise InputError(no_room(device_name(self.device), model)) from error

    def cast(self, model: nn.Module) -> nn.Module:
        """Change a model's precision where it is."""
        return _cast(model, self)


HERE = Placement()
"""The CPU in 32 bits."""


def refuse_split(placement: Placement, what: str) -> None:
    """Refuse a model that is split over devices for what needs it on one; `what` begins the message."""
    if placement.split:
        raise InputError(
            f"{what} needs the model on one device, and --device-map (device_map=) splits it over "
            f"{', '.join(placement.devices)}: give --device in its place, or a smaller --dtype"
        )


def no_room(where: str, model: nn.Module) -> str:
    """The message for devices that have no memory for a model."""
    size = sum(one.nbytes for one in model.parameters())
    return (
        f"{where} has no room for the model of {shown_bytes(size)}: free its memory, take --dtype bfloat16 (dtype=), "
        "split it over several GPUs with --device-map auto (device_map=), or run on the CPU with --device cpu (device=)"
    )


def shown_bytes(size: int) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


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


def devices_of(model: nn.Module) -> list[torch.device]:
    """The devices of a model's weights, that of its word embedding first."""
    return list(dict.fromkeys([device_of(model), *(one.device for one in model.parameters())]))


def beside(tensor: Tensor, other: Tensor) -> Tensor:
    """A tensor where another one is: the layers of a split model are on several devices."""
    return tensor.to(other.device)


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
