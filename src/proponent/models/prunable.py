"""Which channels and heads of a model can be removed, and a really smaller model without them.

A channel is a hidden unit of a feed-forward layer; its weights are a row of the layers before it and a column of the
one after. A group of heads is what shares one key and value head. What a configuration can say decides what can be
saved for plain `from_pretrained`: one size for all layers.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from proponent.errors import InputError
from proponent.models.placement import host

FEED_FORWARD, HEADS = "feed-forward", "heads"


@dataclass(frozen=True)
class Layout:
    """Where an architecture keeps a kind of channels."""

    block: str  # regular expression of the names of the modules that hold them
    before: tuple[str, ...]  # layers whose outputs are the channels; of alternatives, those that exist
    after: str  # the layer that reads them
    setting: str = ""  # of the configuration; empty if it has none


_BERT = (
    Layout(r"encoder\.layer\.\d+", ("intermediate.dense",), "output.dense", "intermediate_size"),
    Layout(
        r"encoder\.layer\.\d+",
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.output.dense",
    ),
)
_LLAMA = (
    Layout(r"layers\.\d+", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "intermediate_size"),
    Layout(
        r"layers\.\d+",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.o_proj",
        "num_attention_heads",
    ),
)
LAYOUTS: Mapping[str, tuple[Layout, Layout | None]] = {
    **dict.fromkeys(("bert", "roberta", "electra", "xlm-roberta", "camembert"), _BERT),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _LLAMA),
    "distilbert": (
        Layout(r"transformer\.layer\.\d+", ("ffn.lin1",), "ffn.lin2", "hidden_dim"),
        Layout(
            r"transformer\.layer\.\d+", ("attention.q_lin", "attention.k_lin", "attention.v_lin"), "attention.out_lin"
        ),
    ),
    "gpt2": (
        Layout(r"h\.\d+", ("mlp.c_fc",), "mlp.c_proj", "n_inner"),
        Layout(r"h\.\d+", ("attn.c_attn",), "attn.c_proj"),
    ),
    "t5": (Layout(r"block\.\d+\.layer\.\d+\.DenseReluDense", ("wi", "wi_0", "wi_1"), "wo", "d_ff"), None),
}
"""Feed-forward layers and attention of architectures, by the type in their configuration."""


@dataclass(frozen=True)
class Site:
    """The channels of one layer."""

    name: str  # of the layer that reads them
    kind: str
    before: tuple[str, ...]  # layers that write them
    count: int
    width: int  # columns of each


def sites_of(model: nn.Module, kind: str = FEED_FORWARD) -> list[Site]:
    """The layers of a model whose channels, or groups of heads, can be removed."""
    config = cast("Any", model).config
    known = LAYOUTS.get(str(config.model_type))
    layout = None if known is None else known[0 if kind == FEED_FORWARD else 1]
    if layout is None:
        raise InputError(
            f"the {kind} layers of a {config.model_type} model are not known: known are "
            f"{', '.join(name for name, one in LAYOUTS.items() if one[kind == HEADS])}"
        )
    modules = dict(cast("Any", model).named_modules())
    found: list[Site] = []
    for name in modules:
        if not re.search(rf"(?:^|\.){layout.block}$", name) or f"{name}.{layout.after}" not in modules:
            continue
        before = tuple(f"{name}.{one}" for one in layout.before if f"{name}.{one}" in modules)
        columns = _columns(modules[f"{name}.{layout.after}"])
        count = columns if kind == FEED_FORWARD else _groups(config)
        found.append(Site(f"{name}.{layout.after}", kind, before, count, columns // count))
    return found


def _groups(config: Any) -> int:
    """Groups of heads that share a key and value head."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _columns(layer: nn.Module) -> int:
    """Inputs of a linear layer; GPT-2's is transposed."""
    weight = cast("Tensor", layer.weight)
    return int(weight.shape[0] if _transposed(layer) else weight.shape[1])


def _transposed(layer: nn.Module) -> bool:
    return type(layer).__name__ == "Conv1D"


def norms(model: nn.Module, sites: Sequence[Site]) -> list[Float[np.ndarray, " c"]]:
    """Norm of all weights of each channel, those that write and those that read it."""
    found: list[np.ndarray] = []
    for site in sites:
        total = np.zeros(site.count)
        for name in (*site.before, site.name):
            layer = model.get_submodule(name)
            weight = cast("Tensor", layer.weight).detach().double()
            inputs = (name == site.name) != _transposed(layer)
            squares = host((weight**2).sum(0 if inputs else 1))
            width = min(len(squares) // site.count, site.width)  # keys and values are narrower, GPT-2's three are one
            total += squares.reshape(-1, site.count, width).sum((0, 2))
        found.append(np.sqrt(total))
    return found


def can_shrink(model: nn.Module, kind: str) -> bool:
    """Whether the configuration can say that a model has fewer of these channels."""
    config = cast("Any", model).config
    layout = LAYOUTS[str(config.model_type)][0 if kind == FEED_FORWARD else 1]
    return (
        layout is not None
        and bool(layout.setting)
        and (kind == FEED_FORWARD or getattr(config, "head_dim", None) is not None)
    )


def smaller_configuration(model: nn.Module, site: Site, count: int) -> Any:
    """The configuration of a model with so many channels in every layer; refused if it does not allow the number."""
    config = copy.deepcopy(cast("Any", model).config)
    if site.kind == FEED_FORWARD:
        setattr(config, LAYOUTS[str(config.model_type)][0].setting, count)
        return config
    config.num_attention_heads = count * (int(config.num_attention_heads) // site.count)
    config.num_key_value_heads = count
    if config.model_type == "llama" and config.hidden_size % config.num_attention_heads:
        raise InputError(
            f"a llama model of width {config.hidden_size} cannot have {config.num_attention_heads} heads, for its "
            "configuration wants a divisor of the width: prune another share, or in fewer rounds"
        )
    return config


def shrunk(model: nn.Module, sites: Sequence[Site], kept: Sequence[Int[np.ndarray, " k"]]) -> nn.Module:
    """A smaller copy that has only the kept channels, as many in every layer."""
    if len({len(one) for one in kept}) > 1:
        raise InputError("a configuration has one size for all layers: keep as many channels in each")
    kind, config = sites[0].kind, cast("Any", model).config
    if not can_shrink(model, kind):
        raise InputError(f"the configuration of a {config.model_type} model cannot say that it has fewer {kind}")
    count = len(kept[0])
    if count < 1:
        raise InputError("a layer would keep no channel: remove fewer")
    made, first = type(model)(smaller_configuration(model, sites[0], count)), next(iter(model.parameters()))
    state = {name: one.detach().clone() for name, one in model.state_dict().items()}
    for site, rows in zip(sites, kept, strict=True):
        for name in (*site.before, site.name):
            layer = model.get_submodule(name)
            for part in ("weight", "bias"):
                key = f"{name}.{part}"
                if key in state and not (part == "bias" and name == site.name):
                    state[key] = _sliced(state[key], site, rows, reads=name == site.name, transposed=_transposed(layer))
    made.load_state_dict(state)
    made.to(first.device, first.dtype)
    made.train(model.training)
    return made.requires_grad_(requires_grad=first.requires_grad)


def _sliced(tensor: Tensor, site: Site, rows: Int[np.ndarray, " k"], *, reads: bool, transposed: bool) -> Tensor:
    """The part of a weight or bias that belongs to the kept channels."""
    axis = 0 if tensor.dim() == 1 else int(reads != transposed)
    width = tensor.shape[axis] // site.count  # query layers have several heads for each key and value head
    places = (rows[:, None] * width + np.arange(width)).ravel()
    return tensor.index_select(axis, torch.as_tensor(places, device=tensor.device)).contiguous()
