"""Named parts of a Hugging Face model: word embedding, vocabulary head, classifier head."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from proponent.errors import RunError
from proponent.models.adapter_modules import saved_copy
from proponent.models.placement import beside, is_half


def input_embedding(model: nn.Module) -> nn.Embedding:
    """Find the word embedding."""
    try:
        found = cast("Any", model).get_input_embeddings()
    except NotImplementedError:
        found = None
    found = None if found is None else saved_copy(found)
    if not isinstance(found, nn.Embedding):
        raise RunError(
            f"the input embedding of {type(model).__name__} is a {type(found).__name__}, not a lookup table: "
            "proponent needs token embeddings"
        )
    return found


def vocabulary_head(model: nn.Module) -> nn.Linear | None:
    """Find the vocabulary head of a language model."""
    named = cast("Any", model).get_output_embeddings()
    found = None if named is None else saved_copy(named)
    return found if isinstance(found, nn.Linear) else None


def inner_model(model: nn.Module) -> Any:
    """The Hugging Face model inside a PEFT wrapper, or the model itself."""
    wrapped = getattr(model, "get_base_model", None)
    return wrapped() if wrapped is not None else model


def head_bias(model: nn.Module, head: nn.Linear) -> Tensor | None:
    """The bias added to the head's products: its own, or one that the model stores separately (BART and similar)."""
    own = cast("Tensor | None", head.bias)
    stored = cast("Tensor | None", getattr(inner_model(model), "final_logits_bias", None))
    if stored is None or not bool(stored.any()):
        return own
    added = beside(stored[0], head.weight)
    return added if own is None else own + added


def gives_logits(model: nn.Module, head: nn.Linear, inputs: Tensor, logits: Tensor) -> bool:
    """Whether a vocabulary head's output is the model's output: its closed-form gradient assumes this."""
    made = functional.linear(beside(inputs[:1], head.weight), head.weight, head_bias(model, head))
    return logits.shape[1:] == made.shape[1:] and nearly(made, logits[:1])


def nearly(made: Tensor, known: Tensor) -> bool:
    """Whether two computations of the same numbers agree, up to the precision of the first."""
    wide = 300.0 if is_half(made.dtype) else 1.0
    close = 1e-5 * wide * float(made.nan_to_num(0.0, 0.0, 0.0).abs().max())
    return torch.allclose(known, made.to(known), rtol=1e-4 * wide, atol=close, equal_nan=True)


@dataclass(frozen=True)
class Lookup:
    """A module that looks up word embeddings."""

    module: nn.Embedding  # the embedding
    first: int = 0  # start of its table in the joint table of the model's word embeddings


def lookups(model: nn.Module, *, decoding: bool) -> tuple[Lookup, ...]:
    """Find the modules that look up word embeddings."""
    # An encoder-decoder has two. If they share one table, both begin at 0; otherwise the decoder's table comes first in
    # the joint table, followed by the encoder's.
    if not decoding:
        return (Lookup(input_embedding(model)),)
    named = cast("Any", model)
    encoder, decoder = input_embedding(named.get_encoder()), input_embedding(named.get_decoder())
    if encoder.weight.data_ptr() == decoder.weight.data_ptr():
        return Lookup(encoder), Lookup(decoder)
    if encoder.weight.shape[1] != decoder.weight.shape[1]:
        raise RunError(f"encoder and decoder of {type(model).__name__} have word embeddings of different widths")
    return Lookup(encoder, int(decoder.weight.shape[0])), Lookup(decoder)


def second_tables(model: nn.Module) -> list[str]:
    """Names of tables beside the word embedding that a model also looks every token up in (Gemma 3n)."""
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    known = inner_model(model).get_input_embeddings()
    return [
        name
        for name, one in modules
        if isinstance(one, nn.Embedding) and one is not known and name.endswith("embed_tokens_per_layer")
    ]


def word_tables(model: nn.Module, *, decoding: bool) -> list[Tensor]:
    """The word embedding tables, in the order of the joint table."""
    found = {one.first: one.module.weight for one in lookups(model, decoding=decoding)}
    return [found[first] for first in sorted(found)]


def table_shape(model: nn.Module, *, decoding: bool) -> tuple[int, int]:
    """Size of the joint table."""
    tables = word_tables(model, decoding=decoding)
    return sum(int(one.shape[0]) for one in tables), int(tables[0].shape[1])


def shares_head(model: nn.Module, *, decoding: bool = False) -> bool:
    """Whether the vocabulary head and a word embedding share one table; other modules may share it, too."""
    head = vocabulary_head(model)
    tables = {one.module.weight.data_ptr() for one in lookups(model, decoding=decoding)}
    return head is not None and head.weight.data_ptr() in tables


def is_tied(model: nn.Module, *, decoding: bool = False) -> bool:
    """The same, for methods of the word embedding; refuse a table that is used elsewhere, too."""
    found, head = lookups(model, decoding=decoding), vocabulary_head(model)
    known = [*(one.module for one in found), head]
    tables = {one.module.weight.data_ptr() for one in found}
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    for name, module in modules:
        held = any(parameter.data_ptr() in tables for parameter in module.parameters(recurse=False))
        container = decoding and isinstance(module, nn.Embedding) and name.split(".")[-1] == "shared"  # never called
        if held and not container and not any(module is one for one in known):
            raise RunError(
                f"{type(model).__name__} shares its embedding's table with {name} ({type(module).__name__}), which is "
                "not its vocabulary head: proponent would miss that layer's part of the gradient; choose a method of "
                "layers, such as --method grad-cos"
            )
    return shares_head(model, decoding=decoding)


def classifier_head(model: nn.Module) -> nn.Linear:
    """Find the last linear layer of a classifier: the one whose outputs are the logits."""
    labels = int(cast("Any", model).config.num_labels)
    found = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == labels]
    if not found:
        raise RunError(
            f"{type(model).__name__} has no linear layer with {labels} outputs: its last layer cannot be captured"
        )
    return found[-1]


def embedding_scale(module: nn.Embedding) -> float:
    """Measure the factor by which the embedding module multiplies its rows."""
    weight = module.weight
    ids = np.unique(np.linspace(0, len(weight) - 1, 64).astype(np.int64))
    probe = torch.as_tensor(ids[ids != module.padding_idx], device=weight.device)
    with torch.no_grad():
        probe = probe[torch.isfinite(weight[probe]).all(1)]  # non-finite rows are handled with their texts
        if not len(probe):
            return 1.0
        table, read = weight[probe].float(), module
        if not bool(table.any()):  # rows of zeros show nothing: those of another table do
            other = torch.linspace(1.0, 2.0, weight.numel(), device=weight.device).view_as(weight).to(weight.dtype)
            read = deepcopy(module)
            read.weight.copy_(other)
            table = other[probe].float()
        # A table with max_norm changes its own rows when it is read.
        output = cast("Tensor", read(probe)).float() if module.max_norm is None else torch.zeros_like(table)
        scale = float((output * table).sum()) / max(float((table * table).sum()), 1e-30)
        close = 1e-5 * float(output.abs().max())
        rounded = 1e-2 if is_half(weight.dtype) else 1e-3
        if scale == 0.0 or not torch.allclose(output, scale * table, rtol=rounded, atol=close):
            raise RunError(
                f"the input embedding {type(module).__name__} does more than look up and scale: proponent cannot "
                "compute its exact gradient"
            )
    return 1.0 if abs(scale - 1.0) < 1e-6 else scale
