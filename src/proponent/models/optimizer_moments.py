"""Read what an optimizer knows of a model's parameters: second moments, and the group of the word embedding."""

from typing import Any

import numpy as np
import torch

from proponent.models.trained_parts import word_table

EMBEDDING = "embedding"
"""Name of the word embedding's second moments."""


def embedding_group(model: Any, optimizer: Any) -> int:
    """Index of the parameter group with the word embedding; the first group if the embedding is not trained."""
    table = word_table(getattr(model, "module", model))
    members = [any(one is table for one in group["params"]) for group in optimizer.param_groups]
    return members.index(True) if True in members else 0


def second_moments(model: Any, optimizer: Any, *, every: bool) -> dict[str, np.ndarray]:
    """Read the bias-corrected second moments of an Adam-like optimizer."""
    inner = getattr(model, "module", model)
    named: dict[str, torch.nn.Parameter] = dict(inner.named_parameters()) if every else {}
    betas = {
        id(parameter): group.get("betas", (0.9, 0.999))[1]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }

    def moment(parameter: torch.nn.Parameter) -> np.ndarray | None:
        state = optimizer.state.get(parameter, {})
        if "exp_avg_sq" not in state or "step" not in state:
            return None
        correction = 1.0 - betas[id(parameter)] ** float(state["step"])
        return (state["exp_avg_sq"].detach().float() / correction).cpu().numpy()

    found = {name: moment(parameter) for name, parameter in named.items()}
    tables = [moment(table) for table in _tables(inner)]
    if tables and all(one is not None for one in tables):
        found[EMBEDDING] = np.concatenate([one for one in tables if one is not None])
    return {name: one for name, one in found.items() if one is not None}


def _tables(model: Any) -> list[torch.nn.Parameter]:
    """The word embedding's table; for an encoder-decoder with two tables, the decoder's and the encoder's."""
    sides = [model]
    if (
        getattr(getattr(model, "config", None), "is_encoder_decoder", False)
        and model.get_output_embeddings() is not None
    ):
        sides = [model.get_decoder(), model.get_encoder()]
    tables = [table for one in sides if (table := word_table(one)) is not None]
    return tables[:1] if len(tables) > 1 and tables[0] is tables[1] else tables
