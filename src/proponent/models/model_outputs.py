"""What a loaded model gives beside its logits, and how it shifts its targets."""

from typing import Any, cast

import numpy as np
import torch

from proponent.errors import RunError
from proponent.models.placement import device_of, host


def pooled_states(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    """Mean of the last hidden state over real tokens."""
    return host(pooled(model, inputs))


def pooled(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The same as a tensor that keeps its gradient."""
    out = model(**inputs, output_hidden_states=True)
    decoding = "decoder_input_ids" in inputs
    found: Any = out.encoder_last_hidden_state if decoding else getattr(out, "hidden_states", None)
    hidden = cast("torch.Tensor", found if decoding else (found or out.decoder_hidden_states)[-1])
    mask = inputs["attention_mask"][:, :, None].float()
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


def check_shift(model: torch.nn.Module, start: int | None, pad: int) -> None:
    """Refuse an encoder-decoder that shifts its targets differently from this library."""
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is None:
        return
    probe = [token for token in range(2, 9) if token != pad][:3]
    own = shift(labels=torch.tensor([probe], device=device_of(model)))[0].tolist()
    wanted = [probe[-1] if start is None else start, *probe[:-1]]
    if own != wanted:
        raise RunError(
            f"{type(model).__name__} shifts its targets in an unknown way ({probe} to {own}): proponent cannot assign "
            "gradients to tokens"
        )
