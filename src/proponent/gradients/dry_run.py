"""A dry run of a model on a few made-up tokens, to see how it calls its layers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from proponent.errors import RunError
from proponent.gradients.layer_rules import rule_of
from proponent.gradients.model_parts import gives_logits, vocabulary_head
from proponent.models.placement import device_of
from proponent.models.tasks.base import logits_of

Order = Mapping[str, tuple[bool | None, ...]]
"""For each layer of an encoder-decoder, what its calls concern, in order; see `DryRun`."""

N, T, U = 2, 11, 13
"""Numbers of examples, text tokens and target tokens; they identify the axes of a tensor."""


@dataclass(frozen=True)
class DryRun:
    """How a model calls its layers."""

    bypassed: frozenset[str]  # layers whose weight is used without a call: hooks miss their gradient
    # tables that an encoder-decoder looks up once for all examples, such as relative positions
    common: frozenset[str]
    # for each layer of an encoder-decoder, whether its calls concern positions of the target, in order; None for a call
    # whose positions are neither the text's nor the target's. Empty for other models
    order: Order
    closed: bool = False  # whether there is a vocabulary head that is called once and returns the model's output


def dry_run(model: nn.Module, size: int, *, decoding: bool) -> DryRun:
    """Run a model on made-up tokens."""
    modules = cast("Iterable[tuple[str, Any]]", model.named_modules())
    named = {name: one for name, one in modules if rule_of(one) is not None}
    seen: dict[str, list[Tensor]] = {}
    inputs = {name: one.to(device_of(model)) for name, one in _inputs(size, decoding, _end(model)).items()}
    handles = [one.register_forward_pre_hook(partial(_note, seen, name)) for name, one in named.items()]
    head, read = vocabulary_head(model), dict[str, list[Tensor]]()
    if head is not None and any(one is head for one in named.values()):
        handles.append(head.register_forward_pre_hook(partial(_note, read, "head")))
    try:
        with torch.no_grad():
            logits = logits_of(cast("Any", model)(**inputs))
            once = read.get("head", [])
            closed = head is not None and len(once) == 1 and gives_logits(model, head, once[0], logits)
    except Exception as error:
        if not decoding:
            raise
        raise RunError(
            f"{type(model).__name__} cannot be run on a text and a target like other encoder-decoders ({error}): "
            "proponent cannot tell which of them a layer reads; choose tracin-we, tracin-we-adam or tracin-last"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    hidden = _bypassed(model, inputs, named, seen)
    if not decoding:
        return DryRun(hidden, frozenset(), {}, closed)
    tables = {name for name, one in named.items() if isinstance(one, nn.Embedding)}
    common = frozenset(name for name in tables if any(not _by_example(x) for x in seen.get(name, ())))
    order = {name: tuple(_about(named[name], x) for x in xs) for name, xs in seen.items()}
    return DryRun(hidden, common, order, closed)


def _end(model: nn.Module) -> int | None:
    """The end token, at which an encoder-decoder with a classifier reads its output; None for other models."""
    config = cast("Any", model).config
    return cast("int | None", config.eos_token_id) if getattr(config, "is_encoder_decoder", False) else None


def _inputs(size: int, decoding: bool, end: int | None) -> dict[str, Tensor]:
    if not decoding:
        ids = torch.arange(4)[None] % size + min(4, size - 4)
        if end is not None and 0 <= end < size:
            ids = torch.cat([ids[ids != end], torch.tensor([end])])[None]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    text, target = (torch.arange(N * one).view(N, one) % max(size - 4, 1) + min(4, size - 1) for one in (T, U))
    return {"input_ids": text, "attention_mask": torch.ones_like(text), "decoder_input_ids": target}


def _note(seen: dict[str, list[Tensor]], name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    seen.setdefault(name, []).append(inputs[0])


def _by_example(ids: Tensor) -> bool:
    """Whether a lookup has one entry per example, rather than one row of positions for all examples."""
    return ids.shape[0] == N or (ids.dim() == 2 and ids.shape[0] == 1)


def _about(module: nn.Module, x: Tensor) -> bool | None:
    rule = rule_of(module)
    assert rule is not None
    wide = (x.shape[0], x.shape[2]) if rule.channels_first else x.shape if x.dtype == torch.int64 else x.shape[:-1]
    text, target = ({N * one, one} & set(wide) for one in (T, U))
    return None if bool(text) == bool(target) else bool(target)


def _bypassed(
    model: nn.Module, inputs: Mapping[str, Tensor], named: Mapping[str, Any], seen: Mapping[str, object]
) -> frozenset[str]:
    reached = {id(one.weight) for name, one in named.items() if name in seen}
    rest = {name: cast("Tensor", one.weight) for name, one in named.items() if id(one.weight) not in reached}
    if not rest:
        return frozenset()
    try:
        for weight in rest.values():
            weight.requires_grad = True
        with torch.enable_grad():
            total = logits_of(cast("Any", model)(**inputs)).sum()
        grads = torch.autograd.grad(total, list(rest.values()), allow_unused=True) if total.requires_grad else ()
    finally:
        for weight in rest.values():
            weight.requires_grad = False
    taken = cast("tuple[Tensor | None, ...]", grads)
    return frozenset(name for name, grad in zip(rest, taken, strict=False) if grad is not None)
