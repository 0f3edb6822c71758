"""How many examples one pass takes: the tensors that a backward pass needs must fit into a fixed amount of memory.

Gradients of examples do not depend on each other, so a batch may be processed in parts. What a position costs is
measured on two short passes, whose tensors have the shapes of any other pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from proponent.errors import InputError
from proponent.models import Encoded
from proponent.models.placement import devices_of, free_bytes

PASS_BYTES = 256 * 2**20
"""Maximum bytes of the tensors that one pass keeps for its backward pass, on the CPU."""

DEVICE_SHARE = 0.25
"""The same on another device, as a share of its free memory: a pass also needs room for what it does not keep."""

SMALL = 512
"""Maximum positions of a batch that is never split."""

LENGTHS = (8, 16)
"""Tokens of the two passes that are measured."""


@dataclass(frozen=True)
class PassSize:
    """Bytes of a pass by the length of its texts: linear, and quadratic where attention keeps its weights."""

    linear: float
    quadratic: float
    most: int = PASS_BYTES

    @classmethod
    def measure(
        cls, model: nn.Module, example: Encoded, run: Callable[[Encoded], int], *, by_token: bool = False
    ) -> "PassSize":
        """Measure passes over an example of two lengths; `run` makes one and returns the bytes that it keeps itself."""
        short, long = (_kept(model, of_length(example, t, by_token=by_token), run) for t in LENGTHS)
        quadratic = max(0.0, long[1] / long[0] - short[1] / short[0]) / (long[0] - short[0])
        return cls(short[1] / short[0] - quadratic * short[0], quadratic, _room(model))

    def bytes(self, n: int, t: int) -> float:
        """Bytes of a pass of n texts of t tokens."""
        return n * t * (self.linear + self.quadratic * t)

    def parts(self, lengths: Sequence[int]) -> list[slice]:
        """Split a batch into parts that fit, or of one example."""
        cuts: list[slice] = []
        start = longest = 0
        for at, length in enumerate(lengths):
            longest = max(longest, length)
            if at > start and self.bytes(at + 1 - start, longest) > self.most:
                cuts.append(slice(start, at))
                start, longest = at, length
        return [*cuts, slice(start, len(lengths))]


def _room(model: nn.Module) -> int:
    known = [size for one in devices_of(model) if (size := free_bytes(one)) is not None]
    if not known:
        return PASS_BYTES
    return max(PASS_BYTES, int(DEVICE_SHARE * min(known)))  # of a split model, as if one GPU kept the whole pass


def _kept(model: nn.Module, example: Encoded, run: Callable[[Encoded], int]) -> tuple[int, int]:
    """Tokens of a pass, and the bytes that it keeps beside the model; the blocks of its loss are gone by then."""
    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    seen: dict[int, int] = {}
    ended: list[bool] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not ended and storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    def end(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        ended.append(True)

    handle = model.register_forward_hook(end)
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            beside = run(example)
    finally:
        handle.remove()
    return example.length, sum(seen.values()) + beside


def fewer(most: int, encoded: Sequence[Encoded], error: Exception) -> int:
    """Half the examples of a pass for which memory ran out."""
    if most == 1 or len(encoded) == 1:
        raise InputError(
            f"the device has no memory for one text of {max(one.length for one in encoded):,} tokens: lower "
            "--max-length, take --dtype bfloat16, free the device's memory, or run with --device cpu"
        ) from error
    return max(1, min(most, len(encoded)) // 2)


def of_length(example: Encoded, t: int, *, by_token: bool = False) -> Encoded:
    """An example as if it had t tokens, and t that a decoder reads; its last token stays the last."""
    answer = example.answer if example.rejected is None else None  # of a pair, each row counts as a text
    if answer is not None:  # the model's own: places of the longer text are none of this one
        answer = np.full(t if by_token else len(answer), np.nan)

    def fit(array: Shaped[np.ndarray, " _"]) -> Shaped[np.ndarray, " _"]:
        return np.concatenate([np.resize(array[:-1] if len(array) > 1 else array, t - 1), array[-1:]])

    return replace(
        example,
        ids=fit(example.ids),
        type_ids=None if example.type_ids is None else fit(example.type_ids),
        words=fit(example.words),
        counted=np.ones(t, dtype=np.bool_),
        targets=None if example.targets is None else fit(example.targets),
        target_words=None if example.target_words is None else fit(example.target_words),
        answer=answer,
        rejected=None,
    )
