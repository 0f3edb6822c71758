"""Memory of a model on GPUs from the shapes in its configuration alone: nothing is loaded, and no weight is allocated.

The passes of an index run on torch's meta device, whose tensors have shapes and no numbers, and the memory of all that
is alive is added up. Attention is taken to be fused, as it is on a GPU: its weights are never held.
"""

import weakref
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from proponent.gradients.layer_hooks import LayerHooks
from proponent.gradients.layer_rules import Block
from proponent.gradients.layer_vectors import PROJECTED, SMALL
from proponent.gradients.token_losses import BLOCK_BYTES
from proponent.method import Gradients, Layers, Term
from proponent.models.device_map import module_bytes, unsplit_bytes
from proponent.models.placement import Dtype, in_full

Scored = Literal["words", "layers"]
"""What a method scores: rows of the word embedding, or the linear layers."""

META = torch.device("meta")
USED = 0.95
"""Share of a GPU's memory that torch can give out: the rest is the context of CUDA and fragments."""


@dataclass(frozen=True)
class ShapeForecast:
    """Memory of a model's passes in bytes."""

    parameters: int
    weights: int  # of all parameters and buffers
    text: int  # of a pass over one text, on top of the weights
    tokens: int  # of that text
    scored: Scored
    dtype: Dtype
    layers: int  # linear layers that are captured; 0 for words

    @property
    def total(self) -> int:
        """The least memory of a single GPU."""
        return self.weights + self.text

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as plain values."""
        return asdict(self) | {"total": self.total}


def shape_forecast(
    model: nn.Module, *, scored: Scored = "words", dtype: Dtype = "float32", tokens: int
) -> ShapeForecast:
    """Forecast the memory of a pass over one text.

    Args:
        model: on the meta device.
        scored: what the method scores; of an adapter, its layers.
        dtype: precision of weights and passes.
        tokens: of the longest text.

    Returns:
        Bytes of the weights and of the pass.
    """
    precision = getattr(torch, dtype)
    for one in model.parameters():
        one.data = one.data.to(precision) if one.is_floating_point() else one.data
    (weights,) = module_bytes(model, precision).values()
    blocks = linear_blocks(model) if scored == "layers" else ()
    own = sum(one.numel() for one in model.parameters())
    return ShapeForecast(own, weights, pass_bytes(model, 1, tokens, blocks), tokens, scored, dtype, len(blocks))


def scored_by(method: Term | None, *, adapter: bool) -> Scored:
    """What a method scores; without one, what the default of a language model or of its adapter does."""
    if method is None:
        return "layers" if adapter else "words"
    return "layers" if isinstance(method, Gradients) and isinstance(method.gradient, Layers) else "words"


def cards_needed(model: nn.Module, forecast: ShapeForecast, size: int) -> int | None:
    """The least number of GPUs of one size that hold a model and its passes.

    Args:
        model: the one that was forecast.
        forecast: its forecast.
        size: bytes of one GPU.

    Returns:
        1 if it need not be split; None if no number suffices. Of a split model, every GPU is taken to hold the whole
        pass, and the first one keeps room for the largest layer, as accelerate does.
    """
    room = int(USED * size)
    if forecast.total <= room:
        return 1
    layers = unsplit_bytes(model, getattr(torch, forecast.dtype))
    most, largest = room - forecast.text, max(layers)
    left, count = most - largest, 1
    if largest > most:
        return None
    for layer in layers:
        if layer > left:
            left, count = most, count + 1
        left -= layer
    return count


def linear_blocks(model: nn.Module) -> tuple[Block, ...]:
    """The linear layers that a method of layers captures: those of an adapter, or all but the head."""
    head = cast("Any", model).get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    found: dict[str, tuple[int, int]] = {}
    for name, one in cast("Iterable[tuple[str, Any]]", model.named_modules()):
        if isinstance(one, nn.Linear) and one is not head:
            found[name] = (one.out_features, one.in_features)
        elif type(one).__name__ == "Conv1D":
            found[name] = (one.weight.shape[1], one.weight.shape[0])
    adapted = {name: shape for name, shape in found.items() if "lora_" in name}
    return tuple(Block(name, (name,), "weight", *shape) for name, shape in (adapted or found).items())


def pass_bytes(model: nn.Module, n: int, t: int, blocks: Sequence[Block] = ()) -> int:
    """Peak bytes of a pass over n texts of t tokens, on top of the weights."""
    live = LiveBytes([*model.parameters(), *model.buffers()])
    model.requires_grad_(requires_grad=False).eval()
    with _fused_attention(), live:
        _pass(model, n, t, tuple(blocks))
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Adds up the memory of all tensors that are alive within, but for those that were there before."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        cast("Any", super()).__init__()
        self.now = self.peak = 0
        self._held = {_key(one) for one in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; a number that a model reads from a mask is 0: its texts have padding."""
        if func is cast("Any", torch.ops).aten._local_scalar_dense.default:
            return torch.zeros((), dtype=args[0].dtype).item()
        made = func(*args, **(kwargs or {}))
        for one in cast("list[object]", tree_leaves(made)):
            if isinstance(one, Tensor):
                self._hold(one)
        self.peak = max(self.peak, self.now)
        return made

    def _hold(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key in self._held:
            return
        self._held.add(key)
        self.now += storage.nbytes()
        weakref.finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._held.discard(key)
        self.now -= size


def _key(tensor: Tensor) -> int:
    return cast("Any", tensor.untyped_storage())._cdata


def _pass(model: nn.Module, n: int, t: int, blocks: tuple[Block, ...]) -> None:
    """What `Capture` does with a batch, by shapes."""
    named, kept = cast("Any", model), dict[str, Tensor]()
    head = named.get_output_embeddings() if hasattr(named, "get_output_embeddings") else None

    def cut(_: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        kept["embedded"] = output.detach().requires_grad_()
        return kept["embedded"]

    def shorten(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if "hidden" in kept:
            return None
        kept["hidden"] = inputs[0]
        return (inputs[0][:, :1].contiguous(),)

    layers = LayerHooks(model, blocks, n, t)
    handles = [named.get_input_embeddings().register_forward_hook(cut), *layers.hook()]
    if isinstance(head, nn.Module):
        handles.append(head.register_forward_pre_hook(shorten))
    try:
        with torch.enable_grad():
            ids = torch.zeros(n, t, dtype=torch.int64, device=META)
            logits = named(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            hidden = kept.get("hidden")
            slopes = None if hidden is None else _in_blocks(cast("nn.Module", head), hidden)
            total = in_full(logits).logsumexp(-1).sum() if hidden is None else hidden
            leaves = [*layers.edges, kept["embedded"]]
            taken = _gradients(total, leaves, slopes)
    finally:
        for handle in handles:
            handle.remove()
    if blocks:
        _project(layers, taken[: len(leaves) - 1], blocks, n)
    rows = taken[-1]
    assert rows is not None
    in_full(rows.reshape(-1, rows.shape[-1]).clone())


def _gradients(total: Tensor, leaves: Sequence[Any], slopes: Tensor | None) -> tuple[Tensor | None, ...]:
    return cast("Any", torch.autograd).grad(total, leaves, slopes, allow_unused=True)


def _in_blocks(head: nn.Module, hidden: Tensor) -> Tensor:
    """Losses of one block of positions, and the gradients of all positions."""
    counted = hidden.reshape(-1, hidden.shape[-1]).clone()
    slopes = torch.empty_like(counted)
    vocabulary = cast("Any", head).weight.shape[0]
    own = counted[: max(1, BLOCK_BYTES // (4 * vocabulary))].detach().requires_grad_()
    torch.autograd.grad(_block_losses(head, own).sum(), own)
    return (slopes * torch.empty(len(slopes), 1, device=META, dtype=slopes.dtype)).view(hidden.shape)


def _block_losses(head: nn.Module, hidden: Tensor) -> Tensor:
    logits = in_full(cast("Tensor", head(hidden)))
    labels = torch.zeros(len(hidden), dtype=torch.int64, device=META)
    return functional.cross_entropy(logits, labels, reduction="none")


@contextmanager
def _fused_attention() -> Generator[None]:
    """Attention that holds no weights, as the kernels of a GPU do it; on the meta device torch would hold them."""

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            key, value = (one.repeat_interleave(query.shape[1] // one.shape[1], 1) for one in (key, value))
        kernel = cast("Any", torch.ops).aten._scaled_dot_product_flash_attention_for_cpu
        return kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]

    named, real = cast("Any", functional), functional.scaled_dot_product_attention
    named.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        named.scaled_dot_product_attention = real


def _project(layers: LayerHooks, taken: Sequence[Tensor | None], blocks: Sequence[Block], n: int) -> None:
    """Lay out the gradients of layers as one vector per text."""
    calls = layers.calls(taken)
    whole = sum(one.size for one in blocks) <= SMALL
    width = {one.name: (_narrow(one.o, whole=whole), _narrow(one.i, whole=whole)) for one in blocks}
    size = sum(o * i for o, i in width.values())
    kept, sides = torch.zeros(n, size, device=META), list[Tensor]()
    for block in blocks:
        o, i = width[block.name]
        for call in calls[block.name]:
            left = _narrowed(cast("Tensor", call.left), o, sides)
            right = _narrowed(call.right, i, sides)
            kept[:, : o * i] += (left.transpose(1, 2) @ right).reshape(n, -1)


def _narrowed(factor: Tensor, width: int, sides: list[Tensor]) -> Tensor:
    """A factor times its projection, whose matrix stays on the device."""
    if width >= factor.shape[-1]:
        return factor
    sides.append(torch.empty(width, factor.shape[-1], device=META))
    return factor @ sides[-1].T


def _narrow(width: int, *, whole: bool) -> int:
    return width if whole else min(width, PROJECTED)
