"""Graphics cards that are not there: within `pretend_device`, "cuda:0" is a device of torch that computes on the CPU.

With `cards=2` there is "cuda:1" as well, and so on. A tensor on one is a `Pretend`: it holds a tensor of the CPU with
the same numbers and says on which card it is. Every operation runs on what is held, so results are those of the CPU bit
by bit; an operation that mixes devices fails as it does on a real card, two cards included. To the C++ side of torch a
`Pretend` is on the CPU (a build for the CPU has no autograd for other devices), so whatever names a device in Python is
patched: functions that make tensors, `to`, `torch.cuda`.

Not as on a real card: a gradient that reaches a CPU tensor from the card through `copy_` or through a CPU scalar in an
operation of both devices stays on the card; sparse tensors and pickles know nothing of the card; operations that
change the shape of a tensor in place are refused.
"""

import functools
from collections.abc import Callable, Generator, Iterable, Sequence
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

__all__ = ["NAME", "Pretend", "largest_tensors", "pretend_device"]

NAME = "cuda:0"
ALIGNED = 64
"""Bytes: the memory of every new tensor of torch starts at a multiple of them; weights in a mapped file may not."""

_torch = cast("Any", torch)
_Tensor = cast("Any", torch.Tensor)
_aten = cast("Any", torch.ops).aten

_NO_ARRAY = "can't convert {} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
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

    def __init__(self, number: int = 0, room: int | None = None) -> None:
        self.number, self.device = number, torch.device("cuda", number)
        self.room, self.used, self.peak, self.largest = room, 0, 0, 0  # of one tensor's memory
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
        self.largest = max(self.largest, size)
        if self.room is not None and self.used + size > self.room:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size} bytes. GPU {self.number} has a total capacity of "
                f"{self.room} bytes of which {self.room - self.used} bytes is free."
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


_racks = [[_Card()]]
_device_constructors()  # torch remembers the functions that this finds at its first call: not the patched ones


def _card(device: Any = None) -> _Card:
    """The card of a device; the first one where none is named.

    Raises:
        RuntimeError: there is no such card.
    """
    number = _number(device)
    if number is None or not 0 <= number < len(_racks[-1]):
        raise RuntimeError("CUDA error: invalid device ordinal")
    return _racks[-1][number]


def _number(device: Any) -> int | None:
    """The number of a card; None for another device."""
    if device is None:
        return 0
    if isinstance(device, int):
        return device
    chosen = torch.device(device)
    return (chosen.index or 0) if chosen.type == "cuda" else None


class Pretend(_Tensor):
    """A tensor that says it is on a card."""

    held: Any
    card: _Card
    __torch_function__ = _torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: Any, held: Any, card: _Card | None = None, *, requires_grad: bool | None = None) -> Any:
        if requires_grad is not None:  # `type(parameter)(tensor, requires_grad=...)` makes a parameter
            return torch.nn.Parameter(held, requires_grad=requires_grad)
        assert card is not None
        made = _Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, layout=held.layout, device="cpu"
        )
        made._memory = card.hold(held)
        made.held, made.card = held, card
        return made

    def __init__(self, held: Any, card: _Card | None = None, *, requires_grad: bool | None = None) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        given: list[Any] = list(_tensors((*args, *named.values())))
        if len({_place(one) for one in given}) > 1:
            _check_devices(func, args, given)
        card = _card_of(args, given)
        if named.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        draws = card.draws() if torch.Tag.nondeterministic_seeded in func.tags else nullcontext()
        with draws:
            found = cast("Any", _WIDER.get(func, func))(*_inner(args), **_inner(named))
        if func is _aten.copy_.default:
            return args[0]
        same = {id(one.held): one for one in given if type(one) is cls}
        return _outer(found, same, card)

    @property
    def device(self) -> torch.device:
        return self.card.device

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
        if not isinstance(value, Pretend) or value.card is not self.card:
            raise RuntimeError(_mixed([self, value]))
        if value.shape != self.shape or value.dtype != self.dtype or value.stride() != self.stride():
            raise NotImplementedError("data of another shape, precision or layout")
        self.held, self._memory = value.held, cast("Any", value)._memory

    def get_device(self) -> int:
        return self.card.number

    def to(self, *args: Any, **kwargs: Any) -> Any:
        return _to(self, *args, **kwargs)

    def cpu(self, *_args: Any, **_named: Any) -> Any:
        return _to(self, "cpu")

    def cuda(self, device: Any = None, *_args: Any, **_named: Any) -> Any:
        return _to(self, self.device if device is None else device)

    def pin_memory(self, *_args: Any, **_named: Any) -> Any:
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def numpy(self, *_args: Any, **_named: Any) -> Any:
        raise TypeError(_NO_ARRAY.format(self.device))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(_NO_ARRAY.format(self.device))

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
        made = Pretend(self.held.detach().clone(), self.card).requires_grad_(self.requires_grad)
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


def _place(tensor: Any) -> Any:
    """The card of a tensor; None for the CPU."""
    return tensor.card if isinstance(tensor, Pretend) else None


def _card_of(args: Any, given: list[Any]) -> _Card:
    """The card of an operation: that of what is written or read first, or that of the tensors with dimensions."""
    if args and isinstance(args[0], Pretend):
        return args[0].card
    cards = [one for one in given if isinstance(one, Pretend)]
    return next((one for one in cards if one.dim()), cards[0]).card


def _mixed(given: Iterable[Any]) -> str:
    named = sorted({str(one.device) for one in given}, reverse=True)
    return f"Expected all tensors to be on the same device, but found at least two devices, {' and '.join(named)}!"


def _outer(found: Any, same: dict[int, Any], card: _Card) -> Any:
    """Results on the card; what was changed in place is the tensor that was given."""

    def wrapped(one: Any) -> Any:
        given = same.get(id(one))
        if given is None:
            return _like(one, card) if one.device.type == "cpu" else one
        if given.shape != one.shape or given.stride() != one.stride():
            raise NotImplementedError("the pretended device cannot change the shape of a tensor in place")
        return given

    return tree_map_only(torch.Tensor, wrapped, found)


def _like(held: Any, card: _Card) -> Any:
    """A tensor on the card; in inference mode, a view of an ordinary tensor is an ordinary one."""
    if torch.is_inference_mode_enabled() and not held.is_inference():
        with torch.inference_mode(mode=False):
            return Pretend(held, card)
    return Pretend(held, card)


def _check_devices(func: Any, args: Any, given: list[Any]) -> None:
    """Refuse an operation of both devices, if a real card does.

    Raises:
        RuntimeError: it does.
    """
    packet = func.overloadpacket
    if packet in _ACROSS:
        return
    if packet in _INDEXING:
        own = _place(args[0])
        if any(isinstance(one, Pretend) and one.card is not own for one in _tensors(args[1])):
            there = "cpu" if own is None else str(own.device)
            raise RuntimeError(f"indices should be either on cpu or on the same device as the indexed tensor ({there})")
        given = list(_tensors((args[0], *args[2:])))
    card = _card_of(args, given) if any(isinstance(one, Pretend) for one in given) else None
    apart = [one for one in given if _place(one) is not card]
    if any(isinstance(one, Pretend) or one.dim() > 0 or packet in _NO_SCALARS for one in apart):
        raise RuntimeError(f"{_mixed(given)} (when checking {packet})")
    changed = [one for one, name in zip(args, func._schema.arguments, strict=False) if _is_written(name)]
    if any(isinstance(one, torch.Tensor) and _place(one) is not card for one in changed):
        raise RuntimeError(f"{_mixed(given)} (when checking {packet})")


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
    """A copy on a card."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:  # noqa: ARG004
        return Pretend(_copied(args[0].detach()), args[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # noqa: ARG004
        return _to(grad_outputs[0], "cpu"), None


class _Down(torch.autograd.Function):
    """A copy on the CPU."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        ctx.card = args[0].card
        return args[0].held.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _up(grad_outputs[0], ctx.card)


class _Over(torch.autograd.Function):
    """A copy on another card."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        ctx.card = args[0].card
        return Pretend(_copied(args[0].held.detach()), args[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _over(grad_outputs[0], ctx.card), None


def _up(tensor: Any, card: _Card) -> Any:
    return cast("Any", _Up).apply(tensor, card)


def _down(tensor: Any) -> Any:
    return cast("Any", _Down).apply(tensor)


def _over(tensor: Any, card: _Card) -> Any:
    return cast("Any", _Over).apply(tensor, card)


def _is_card(device: Any) -> bool:
    """Whether a device is a card.

    Raises:
        RuntimeError: it is one that is not there.
    """
    if device is None or _number(device) is None:
        return False
    _card(device)
    return True


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
        if device is None or (_is_card(device) and _card(device) is self.card):
            return _plain_to(self, dtype, **asked)
        if _is_card(device):
            return _over(self if dtype == self.dtype else _plain_to(self, dtype), _card(device))
        if torch.device(device).type != "cpu":
            return _plain_to(self, device, dtype, **asked)
        return _down(self if dtype == self.dtype else _plain_to(self, dtype))
    if _is_card(device):
        asked.pop("copy", None)
        here = _plain_to(self, "cpu", dtype, **asked)
        return _up(here, _card(device))
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
        card = args[0].card if device is None else _card(device)
        if own:
            kwargs.pop("device", None)
            found = make(*args, **kwargs)
        else:
            kwargs["device"] = "cpu"
            with card.draws():
                found = make(*args, **kwargs)
        if not isinstance(found, Pretend):
            found = _up(found, card) if name in _SHARING else Pretend(found.detach(), card)
        elif found.card is not card:
            found = _over(found, card)
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
    return _card(device).random.get_state()


def _set_rng_state(state: torch.Tensor, device: Any = NAME) -> None:
    _card(device).random.set_state(state)


def _set_all_rng_states(states: Iterable[torch.Tensor]) -> None:
    for card, state in zip(_racks[-1], states, strict=True):
        card.random.set_state(state)


def _seed(seed: int) -> None:
    _card().random.manual_seed(int(seed))


def _seed_all(seed: int) -> None:
    for card in _racks[-1]:
        card.random.manual_seed(int(seed))


def _memory_info(device: Any = None) -> tuple[int, int]:
    card = _card(device)
    return (2**33, 2**34) if card.room is None else (card.room - card.used, card.room)


def _reset_peak(device: Any = None) -> None:
    card = _card(device)
    card.peak = card.used


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
    "device_count": lambda: len(_racks[-1]),
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
    "memory_allocated": lambda device=None: _card(device).used,
    "memory_reserved": lambda device=None: _card(device).used,
    "max_memory_allocated": lambda device=None: _card(device).peak,
    "max_memory_reserved": lambda device=None: _card(device).peak,
    "reset_peak_memory_stats": _reset_peak,
    "manual_seed": _seed,
    "manual_seed_all": _seed_all,
    "initial_seed": lambda: _card().random.initial_seed(),
    "get_rng_state": _rng_state,
    "get_rng_state_all": lambda: [one.random.get_state() for one in _racks[-1]],
    "set_rng_state": _set_rng_state,
    "set_rng_state_all": _set_all_rng_states,
}


def largest_tensors() -> list[int]:
    """Bytes of the largest tensor that each card held since the last call."""
    found = [one.largest for one in _racks[-1]]
    for one in _racks[-1]:
        one.largest = 0
    return found


@contextmanager
def pretend_device(room: int | Sequence[int] | None = None, *, cards: int = 1) -> Generator[None]:
    """Within, torch has CUDA devices; with `room` each has no more memory than so many bytes.

    Raises:
        RuntimeError: one is there already.
    """
    if len(_racks) > 1:
        raise RuntimeError("one block of pretended devices at a time")
    rooms = [*room] if isinstance(room, Sequence) else [room] * cards
    _racks.append([_Card(number, one) for number, one in enumerate(rooms)])
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
        _racks.pop()
