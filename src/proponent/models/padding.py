"""What padding does to a model: whether its outputs change, and whether it pads its input itself.

Some models ignore the attention mask (FNet mixes all positions), and their outputs depend on the longest text of a
batch: their batches hold texts of equal length. Others pad their input to a multiple of a window before they look
words up (Longformer): they are given such lengths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from proponent.models.placement import device_of, is_half
from proponent.models.tasks.base import logits_of
from proponent.models.trained_parts import word_table

NOTE = "the output of this model depends on padding: texts are computed in batches of equal length"

_WINDOWS = {
    "longformer": "attention_window",
    "led": "attention_window",
    "big_bird": "block_size",
}
"""The setting to whose multiple a kind of model pads its input."""

_MORE = 3
"""Padding tokens of a trial."""


@dataclass
class Padding:
    """What a trial on a loaded model found; `tried` says whether there was one."""

    tried: bool = False
    changes: bool = False  # whether outputs change with padding
    moves: bool = False  # whether the word embedding sees other tokens than the model is given

    def try_out(self, model: nn.Module, ids: Sequence[int], pad: int, multiple: int) -> None:
        """Run a model on a few tokens, with and without padding; a model that cannot be run is left to its caller."""
        self.tried = True
        count = -(-len(ids) // multiple) * multiple
        short = [*ids, *[pad] * (count - len(ids))]
        long = [*short, *[pad] * (-(-_MORE // multiple) * multiple)]
        seen: list[int] = []
        handle = _watched(model, seen)
        try:
            with torch.no_grad():
                alone, padded = (_outputs(model, one, len(ids)) for one in (short, long))
        except Exception:  # models may raise anything; a build says what
            return
        finally:
            if handle is not None:
                handle.remove()
        self.moves = bool(seen) and not {len(short), len(long)}.issuperset(seen)
        self.changes = not _alike(alone, padded, len(ids))


def multiple_of(config: Any) -> int:
    """The number of tokens to whose multiple a kind of model pads its input; 1 for most."""
    value = getattr(config, _WINDOWS.get(str(getattr(config, "model_type", "")), ""), 1)
    sizes = [int(one) for one in cast("list[Any]", value)] if isinstance(value, list) else [int(value)]
    return max(1, *sizes)


def _watched(model: nn.Module, seen: list[int]) -> Any:
    """Note how many tokens each lookup of the word embedding reads."""
    table = word_table(model)
    modules = [one for one in model.modules() if isinstance(one, nn.Embedding) and one.weight is table]

    def note(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(int(inputs[0].numel()) if inputs and isinstance(inputs[0], Tensor) else -1)

    return modules[0].register_forward_pre_hook(note) if len(modules) == 1 else None


def _outputs(model: nn.Module, ids: Sequence[int], real: int) -> Tensor:
    device = device_of(model)
    tokens = torch.tensor([list(ids)], device=device)
    mask = (torch.arange(len(ids), device=device) < real).long()[None]
    inputs: Mapping[str, Tensor] = {"input_ids": tokens, "attention_mask": mask}
    return logits_of(cast("Any", model)(**inputs))


def _alike(alone: Tensor, padded: Tensor, real: int) -> bool:
    """Whether two outputs agree; of outputs by token, those of the real tokens."""
    if alone.dim() > 2:
        alone, padded = alone[:, :real], padded[:, :real]
    if alone.shape != padded.shape or not bool(torch.isfinite(alone).all()):
        return True  # nothing to compare
    close = (3e-2 if is_half(alone.dtype) else 1e-4) * float(alone.abs().max())
    return bool((alone - padded).abs().max() <= close)
