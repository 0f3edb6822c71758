"""Arrays that a shard stores of its examples besides gradients."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class ShardOutputs:
    """What a shard stores of its examples besides gradients."""

    bad: Bool[np.ndarray, " n"]  # whether loss or gradient is not finite
    losses: Float[np.ndarray, " n"]  # in nats
    probabilities: Float[np.ndarray, "n l"] | None = None  # of a classifier
    pooled: Float[np.ndarray, "n d"] | None = None  # mean last hidden states, where they are needed
    counted: Int[np.ndarray, " n"] | None = None  # tokens that count in the loss of a language model
    truncated: Bool[np.ndarray, " n"] | None = None  # whether a text of it is longer than a language model reads

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "ShardOutputs":
        """Read them from the named arrays of a shard."""
        others = (arrays.get(name) for name in OUTPUTS[len(REQUIRED) :])
        return cls(*(arrays[name] for name in REQUIRED), *others)

    def pack(self) -> dict[str, np.ndarray]:
        """Name the arrays that are there."""
        named = {name: getattr(self, name.removeprefix("meta.")) for name in OUTPUTS}
        return {name: array for name, array in named.items() if array is not None}


REQUIRED = ("meta.bad", "meta.losses")
"""Names of the arrays of `ShardOutputs` that every shard has."""

OUTPUTS = (*REQUIRED, "meta.probabilities", "meta.pooled", "meta.counted", "meta.truncated")
"""Names of all of them, in the order of the fields."""
