"""A graphics card that is not there: within `pretend_device`, "cuda:0" is a device of torch that computes on the CPU.

A tensor on it is a `Pretend`: it holds a tensor of the CPU with the same numbers and says that it is on cuda:0. Every
operation runs on what is held, so results are those of the CPU bit by bit; an operation that mixes the devices fails
as it does on a real card. To the C++ side of torch a `Pretend` is on the CPU (a build for the CPU has no autograd for
other devices), so whatever names a device in Python is patched: functions that make tensors, `to`, `torch.cuda`.

Not as on a real card: a gradient that reaches a CPU tensor from the card through `copy_` or through a CPU scalar in an
operation of both devices stays on the card; sparse tensors and pickles know nothing of the card; operations that
change the shape of a tensor in place are refused.
"""

import functools
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import _dynamo  # noqa: F401  (it maps functions of torch when it is first imported)
from torch.utils._device import DeviceContext, _device_constructors
from torch.utils._pytree import tree_map_only

__all__ = ["NAME", "Pretend", "pretend_device"]

NAME = "cuda:0"
DEVICE = torch.device(NAME)
ALIGNED = 64
"""Bytes: the memory of every new tensor of torch starts at a multiple of them; weights in a mapped file may not."""

_torch = cast("Any", torch)
_Tensor = cast("Any", torch.Tensor)
_aten = cast("Any", torch.ops).aten

_MIXED = f"Expected all tensors to be on the same device, but found at least two devices, {NAME} and cpu!"
_NO_ARRAY = (
    f"can't convert {NAME} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
)
_ACROSS = {_aten.copy_, _aten._to_copy, _aten._pack_padded_sequence}
_INDEXING = {
    _aten.index,
    _aten._unsafe_index,
    _aten.index_put,
    _aten.index_put_,
    _aten._index_put_impl_,
    _aten._unsafe_index_put,
}
_WIDER = {  # what a card does with types for which the CPU has no code
    _aten.histc.default: lambda one, *rest, **named: _aten.histc(one.double(), *rest, **named).to(one.dtype),
}
_NO_SCALARS = {  # operations that refuse even a CPU tensor without dimensions
    _aten.cat,
    _aten.stack,
    _aten.embedding,
    _aten.gather,
    _aten.index_select,
    _aten.index_add,
    _aten.index_copy,
    _aten.scatter,
    _aten.scatter_,
    _aten.scatter_add,
    _aten.masked_select,
    _aten.equal,
}
_MAKERS = (
    "arange",
    "as_tensor",
    "asarray",
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "eye",
    "full",
    "full_like",
    "hann_window",
    "linspace",
    "logspace",
    "normal",
    "ones",
    "ones_like",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
    "range",
    "scalar_tensor",
    "tensor",
    "tril_indices",
    "triu_indices",
    "zeros",
    "zeros_like",
)
_METHODS = ("new_empty", "new_empty_strided", "new_full", "new_ones", "new_tensor", "new_zeros")
_SHARING = {"as_tensor", "asarray"}  # may hand back the memory that they were given


class _Held:
    """The memory of one storage on the card; counted from the first tensor that holds it to the end of the last."""

    def __init__(self, card: "_Card", size: int) -> None:
        self.card, self.size = card, size
        card.used += size
        card.peak = max(card.peak, card.used)

    def __del__(self) -> None:
        self.card.used -= self.size


class _Card:
    """What the card has beside its tensors: the memory in use and its own random numbers."""

    def __init__(self, room: int | None = None) -> None:
        self.room, self.used, self.peak = room, 0, 0
        self.random = torch.Generator()
        self.random.manual_seed(torch.initial_seed())
        self.held: WeakValueDictionary[int, _Held] = WeakValueDictionary()

    def hold(self, tensor: Any) -> _Held:
        """The memory of a tensor's storage.

        Raises:
            OutOfMemoryError: the card has no room for it.
        """
        storage = tensor.untyped_storage()
        at, size = storage._cdata, storage.nbytes()
        found = self.held.get(at)
        if found is not None:
            return found
        if self.room is not None and self.used + size > self.room:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size} bytes. GPU 0 has a total capacity of {self.room} bytes "
                f"of which {self.room - self.used} bytes is free."
            )
        self.held[at] = made = _Held(self, size)
        return made

    @contextmanager
    def draws(self) -> Generator[None]:
        """Random numbers come from the card within."""
        before = torch.get_rng_state()
        torch.set_rng_state(self.random.get_state())
        try:
            yield
        finally:
            self.random.set_state(torch.get_rng_state())
            torch.set_rng_state(before)


_cards = [_Card()]
_device_constructors()  # torch remembers the functions that this finds at its first call: not the patched ones


class Pretend(_Tensor):
    """A tensor that says it is on the card."""

    held: Any
    __torch_function__ = _torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: Any, held: Any) -> Any:
        made = _Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, layout=held.layout, device="cpu"
        )
        made._memory = _cards[-1].hold(held)
        made.held = held
        return made

    def __init__(self, held: Any) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        given: list[Any] = list(_tensors((*args, *named.values())))
        if any(type(one) is not cls for one in given):
            _check_devices(func, args, given)
        if named.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        draws = _cards[-1].draws() if torch.Tag.nondeterministic_seeded in func.tags else nullcontext()
        with draws:
            found = cast("Any", _WIDER.get(func, func))(*_inner(args), **_inner(named))
        if func is _aten.copy_.default and type(args[0]) is not cls:
            return args[0]
        same = {id(one.held): one for one in given if type(one) is cls}
        return _outer(found, same)

    @property
    def device(self) -> torch.device:
        return DEVICE

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    @property
    def data(self) -> Any:
        return self.detach()

    @data.setter
    def data(self, value: Any) -> None:
        if not isinstance(value, Pretend):
            raise RuntimeError(_MIXED)
        if value.shape != self.shape or value.dtype != self.dtype or value.stride() != self.stride():
            raise NotImplementedError("data of another shape, precision or layout")
        self.held, self._memory = value.held, cast("Any", value)._memory

    def get_device(self) -> int:
        return 0

    def to(self, *args: Any, **kwargs: Any) -> Any:
        return _to(self, *args, **kwargs)

    def cpu(self, *_args: Any, **_named: Any) -> Any:
        return _to(self, "cpu")

    def cuda(self, *_args: Any, **_named: Any) -> Any:
        return self

    def pin_memory(self, *_args: Any, **_named: Any) -> Any:
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def numpy(self, *_args: Any, **_named: Any) -> Any:
        raise TypeError(_NO_ARRAY)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(_NO_ARRAY)

    def tolist(self) -> Any:
        return self.held.tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def __repr__(self, *args: Any, **kwargs: Any) -> str:
        return f"Pretend({self.held!r})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) in memo:
            return memo[id(self)]
        if not self.is_leaf:
            raise RuntimeError("Only Tensors created explicitly by the user support the deepcopy protocol")
        made = Pretend(self.held.detach().clone()).requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            made._is_param = True
        if self.grad is not None:
            made.grad = self.grad.detach().clone()
        memo[id(self)] = made
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)


def _tensors(values: Iterable[Any]) -> Iterable[Any]:
    for one in values:
        if isinstance(one, torch.Tensor):
            yield one
        elif isinstance(one, list | tuple):
            yield from _tensors(one)


def _inner(values: Any) -> Any:
    return tree_map_only(Pretend, lambda one: one.held, values)


def _outer(found: Any, same: dict[int, Any]) -> Any:
    """Results on the card; what was changed in place is the tensor that was given."""

    def wrapped(one: Any) -> Any:
        given = same.get(id(one))
        if given is None:
            return _like(one) if one.device.type == "cpu" else one
        if given.shape != one.shape or given.stride() != one.stride():
            raise NotImplementedError("the pretended device cannot change the shape of a tensor in place")
        return given

    return tree_map_only(torch.Tensor, wrapped, found)


def _like(held: Any) -> Any:
    """A tensor on the card; in inference mode, a view of an ordinary tensor is an ordinary one."""
    if torch.is_inference_mode_enabled() and not held.is_inference():
        with torch.inference_mode(mode=False):
            return Pretend(held)
    return Pretend(held)


def _check_devices(func: Any, args: Any, given: list[Any]) -> None:
    """Refuse an operation of both devices, if a real card does.

    Raises:
        RuntimeError: it does.
    """
    packet = func.overloadpacket
    if packet in _ACROSS:
        return
    if packet in _INDEXING:
        here = isinstance(args[0], Pretend)
        if not here and any(isinstance(one, Pretend) for one in _tensors(args[1])):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        given = list(_tensors((args[0], *args[2:])))
    plain = [one for one in given if not isinstance(one, Pretend)]
    if any(one.dim() > 0 or packet in _NO_SCALARS for one in plain):
        raise RuntimeError(f"{_MIXED} (when checking {packet})")
    changed = [one for one, name in zip(args, func._schema.arguments, strict=False) if _is_written(name)]
    if any(isinstance(one, torch.Tensor) and not isinstance(one, Pretend) for one in changed):
        raise RuntimeError(f"{_MIXED} (when checking {packet})")


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _copied(tensor: Any) -> Any:
    """A copy that starts as far from a multiple of 64 bytes: sums of the CPU may depend on it in the last bit."""
    made = tensor.clone()
    if made.device.type != "cpu" or not made.numel() or (tensor.data_ptr() - made.data_ptr()) % ALIGNED == 0:
        return made
    memory = np.empty(made.nbytes + ALIGNED, np.uint8)
    start = (tensor.data_ptr() - memory.ctypes.data) % ALIGNED
    flat = torch.from_numpy(memory[start : start + made.nbytes]).view(made.dtype)
    return flat.as_strided(made.shape, made.stride()).copy_(made)


class _Up(torch.autograd.Function):
    """A copy on the card."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:  # noqa: ARG004
        return Pretend(_copied(args[0].detach()))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # noqa: ARG004
        return _to(grad_outputs[0], "cpu")


class _Down(torch.autograd.Function):
    """A copy on the CPU."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:  # noqa: ARG004
        return args[0].held.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # noqa: ARG004
        return _up(grad_outputs[0])


def _up(tensor: Any) -> Any:
    return cast("Any", _Up).apply(tensor)


def _down(tensor: Any) -> Any:
    return cast("Any", _Down).apply(tensor)


def _is_card(device: Any) -> bool:
    """Whether a device is the card.

    Raises:
        RuntimeError: it is a second card.
    """
    if device is None:
        return False
    chosen = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if chosen.type == "cuda" and chosen.index not in {None, 0}:
        raise RuntimeError("CUDA error: invalid device ordinal")
    return chosen.type == "cuda"


def _asked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `Tensor.to` by name."""
    asked = dict(kwargs)
    names = ["device", "dtype", "non_blocking", "copy"]
    if args and isinstance(args[0], torch.dtype):
        names = names[1:]
    elif args and isinstance(args[0], torch.Tensor):
        names = ["other", *names[2:]]
    asked |= dict(zip(names, args, strict=False))
    other = asked.pop("other", None)
    return asked if other is None else {"device": other.device, "dtype": other.dtype, **asked}


_plain_to = _Tensor.to


def _to(self: Any, *args: Any, **kwargs: Any) -> Any:
    asked = _asked(args, kwargs)
    device, dtype = asked.pop("device", None), asked.pop("dtype", None) or self.dtype
    if isinstance(self, Pretend):
        if device is None or _is_card(device):
            return _plain_to(self, dtype, **asked)
        if torch.device(device).type != "cpu":
            return _plain_to(self, device, dtype, **asked)
        return _down(self if dtype == self.dtype else _plain_to(self, dtype))
    if _is_card(device):
        asked.pop("copy", None)
        here = _plain_to(self, "cpu", dtype, **asked)
        return _up(here)
    return _plain_to(self, *args, **kwargs)


def _to_card(self: Any, device: Any = None, *_rest: Any, **_named: Any) -> Any:
    return _to(self, NAME if device is None else device)


def _context_device() -> Any:
    """The device of the innermost `with torch.device(...)` or of torch.set_default_device; None where there is none."""
    for at in reversed(range(_torch._C._len_torch_function_stack())):
        mode = _torch._C._get_function_stack_at(at)
        if isinstance(mode, DeviceContext):
            return cast("Any", mode).device
    return None


def _maker(name: str, make: Any, *, method: bool = False) -> Any:
    """A function of torch that makes tensors, for this device too."""

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        own = bool(args) and isinstance(args[0], Pretend)
        device = kwargs.get("device")
        asked = device is not None
        if not asked and not own:
            device = None if method or name.endswith("_like") else _context_device()
            if name in _SHARING and isinstance(args[0], torch.Tensor):
                device = None
        to_card = _is_card(device) if device is not None else own and method
        if not to_card:
            found = make(*args, **kwargs)
            away = device is not None and asked and isinstance(found, Pretend) and torch.device(device).type == "cpu"
            return _down(found) if away else found
        if kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        needs = kwargs.pop("requires_grad", False)
        if own:
            kwargs.pop("device", None)
            found = make(*args, **kwargs)
        else:
            kwargs["device"] = "cpu"
            with _cards[-1].draws():
                found = make(*args, **kwargs)
        if not isinstance(found, Pretend):
            found = _up(found) if name in _SHARING else Pretend(found.detach())
        return found.requires_grad_() if needs else found

    return made


def _apply(apply: Any) -> Any:
    """`Module._apply` that keeps the parameters' identities, as `.data =` does on a real card."""

    def applied(self: Any, fn: Callable[[Any], Any], recurse: bool = True) -> Any:
        before = _torch.__future__.get_swap_module_params_on_conversion()
        there = isinstance(fn(torch.empty(0)), Pretend)
        if not there and not any(isinstance(one, Pretend) for one in self.parameters()):
            return apply(self, fn, recurse)
        _torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return apply(self, fn, recurse)
        finally:
            _torch.__future__.set_swap_module_params_on_conversion(before)

    return applied


def _rng_state(device: Any = NAME) -> torch.Tensor:
    _is_card(device)
    return _cards[-1].random.get_state()


def _set_rng_state(state: torch.Tensor, device: Any = NAME) -> None:
    _is_card(device)
    _cards[-1].random.set_state(state)


def _seed(seed: int) -> None:
    _cards[-1].random.manual_seed(int(seed))


def _memory_info(device: Any = None) -> tuple[int, int]:
    card = _cards[-1]
    return (2**33, 2**34) if card.room is None else (card.room - card.used, card.room)


def _reset_peak(device: Any = None) -> None:
    _cards[-1].peak = _cards[-1].used


def _nothing(*_args: Any, **_named: Any) -> None:
    pass


def _answer(value: Any) -> Callable[..., Any]:
    return lambda *_args, **_named: value


_PROPERTIES = SimpleNamespace(
    name="a pretended device", major=8, minor=0, total_memory=2**34, multi_processor_count=1, warp_size=32
)
_CUDA: dict[str, Any] = {
    "is_available": _answer(True),
    "is_initialized": _answer(True),
    "init": _nothing,
    "_lazy_init": _nothing,
    "device_count": _answer(1),
    "current_device": _answer(0),
    "set_device": _nothing,
    "device": lambda *_args: nullcontext(),
    "get_device_name": _answer(_PROPERTIES.name),
    "get_device_capability": _answer((8, 0)),
    "get_device_properties": _answer(_PROPERTIES),
    "is_bf16_supported": _answer(True),
    "is_current_stream_capturing": _answer(False),
    "synchronize": _nothing,
    "empty_cache": _nothing,
    "ipc_collect": _nothing,
    "mem_get_info": _memory_info,
    "memory_allocated": lambda *_args: _cards[-1].used,
    "memory_reserved": lambda *_args: _cards[-1].used,
    "max_memory_allocated": lambda *_args: _cards[-1].peak,
    "max_memory_reserved": lambda *_args: _cards[-1].peak,
    "reset_peak_memory_stats": _reset_peak,
    "manual_seed": _seed,
    "manual_seed_all": _seed,
    "initial_seed": lambda: _cards[-1].random.initial_seed(),
    "get_rng_state": _rng_state,
    "get_rng_state_all": lambda: [_rng_state()],
    "set_rng_state": _set_rng_state,
    "set_rng_state_all": lambda states: _set_rng_state(states[0]),
}


@contextmanager
def pretend_device(room: int | None = None) -> Generator[None]:
    """Within, torch has one CUDA device, "cuda:0"; with `room` it has no more memory than so many bytes.

    Raises:
        RuntimeError: one is there already.
    """
    if len(_cards) > 1:
        raise RuntimeError("one pretended device at a time")
    _cards.append(_Card(room))
    try:
        with ExitStack() as stack:

            def patch(owner: Any, name: str, value: Any) -> None:
                stack.enter_context(mock.patch.object(owner, name, value))

            for name in _MAKERS:
                patch(torch, name, _maker(name, getattr(torch, name)))
            for name in _METHODS:
                patch(torch.Tensor, name, _maker(name, getattr(torch.Tensor, name), method=True))
                patch(Pretend, name, _maker(name, getattr(_Tensor, name), method=True))
            patch(torch.Tensor, "to", _to)
            patch(torch.Tensor, "cuda", _to_card)
            patch(torch.Tensor, "pin_memory", lambda self, *_args: self)
            patch(torch.nn.Module, "_apply", _apply(torch.nn.Module._apply))
            for module in (torch.cuda, torch.cuda.random, torch.cuda.memory):
                for name in _CUDA.keys() & vars(module).keys():
                    patch(module, name, _CUDA[name])
            yield
    finally:
        _cards.pop()
