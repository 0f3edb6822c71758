"""The parts of a Hugging Face model that have a name of their own: word embedding, vocabulary head, classifier head."""

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from whence.errors import RunError


def input_embedding(model: nn.Module) -> nn.Embedding:
    """Find the word embedding.

    Args:
        model: a Hugging Face model.

    Returns:
        The module.

    Raises:
        RunError: the model has none, or one that is not a lookup table.
    """
    try:
        found = cast("Any", model).get_input_embeddings()
    except NotImplementedError:
        found = None
    if not isinstance(found, nn.Embedding):
        raise RunError(
            f"the input embedding of {type(model).__name__} is a {type(found).__name__}, not a lookup table: "
            "whence needs token embeddings"
        )
    return found


def vocabulary_head(model: nn.Module) -> nn.Linear | None:
    """Find the vocabulary head of a language model.

    Args:
        model: a Hugging Face model.

    Returns:
        The linear layer, or None for a classifier.
    """
    found = cast("Any", model).get_output_embeddings()
    return found if isinstance(found, nn.Linear) else None


def is_tied(model: nn.Module) -> bool:
    """Say whether the vocabulary head and the word embedding share one table.

    Args:
        model: a Hugging Face model.

    Returns:
        True when they are the same memory.

    Raises:
        RunError: some other layer shares the embedding's table: its part of the gradient would be missed.
    """
    embedding, head = input_embedding(model), vocabulary_head(model)
    table = embedding.weight.data_ptr()
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    for name, module in modules:
        held = any(parameter.data_ptr() == table for parameter in module.parameters(recurse=False))
        if held and module is not embedding and module is not head:
            raise RunError(
                f"{type(model).__name__} shares its embedding's table with {name} ({type(module).__name__}), which is "
                "not its vocabulary head: whence would miss that layer's part of the gradient"
            )
    return head is not None and head.weight.data_ptr() == table


def classifier_head(model: nn.Module) -> nn.Linear:
    """Find the last linear layer of a classifier: the one whose outputs are the logits.

    Args:
        model: a Hugging Face classifier.

    Returns:
        The layer.

    Raises:
        RunError: no linear layer has as many outputs as there are labels.
    """
    labels = int(cast("Any", model).config.num_labels)
    found = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == labels]
    if not found:
        raise RunError(
            f"{type(model).__name__} has no linear layer with {labels} outputs: its last layer cannot be captured"
        )
    return found[-1]


def embedding_scale(module: nn.Embedding) -> float:
    """Measure what the embedding module multiplies its rows with.

    Args:
        module: the word embedding.

    Returns:
        The factor; 1.0 for a plain lookup.

    Raises:
        RunError: the module does anything but look up and scale.
    """
    weight = module.weight
    ids = np.unique(np.linspace(0, len(weight) - 1, 64).astype(np.int64))
    probe = torch.as_tensor(ids[ids != module.padding_idx])
    with torch.no_grad():
        probe = probe[torch.isfinite(weight[probe]).all(1)]  # a broken row is the business of the texts that hold it
        if not len(probe):
            return 1.0
        table = weight[probe].float()
        # A table with max_norm changes its own rows when it is read.
        output = cast("Tensor", module(probe)).float() if module.max_norm is None else torch.zeros_like(table)
        scale = float((output * table).sum()) / max(float((table * table).sum()), 1e-30)
        close = 1e-5 * float(output.abs().max())
        if scale == 0.0 or not torch.allclose(output, scale * table, rtol=1e-3, atol=close):
            raise RunError(
                f"the input embedding {type(module).__name__} does more than look up and scale: "
                "whence cannot take its gradient exactly"
            )
    return 1.0 if abs(scale - 1.0) < 1e-6 else scale
