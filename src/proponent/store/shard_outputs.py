"""Arrays that a shard stores of its examples besides gradients."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class ShardOutputs:
    """What a shard stores of its examples besides gradients."""

    bad: Bool[np.ndarray, " n"]  # whether loss or gradient is not finite
    losses: Float[np.ndarray, " n"]  # in nats
    probabilities: Float[np.ndarray, "n l"] | None = None  # of a classifier
    pooled: Float[np.ndarray, "n d"] | None = None  # mean last hidden states, where they are needed

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "ShardOutputs":
        """Read them from the named arrays of a shard."""
        pair = (arrays.get(f"meta.{name}") for name in ("probabilities", "pooled"))
        return cls(arrays["meta.bad"], arrays["meta.losses"], *pair)

    def pack(self) -> dict[str, np.ndarray]:
        """Name the arrays that are there."""
        named = {f"meta.{name}": getattr(self, name) for name in ("bad", "losses", "probabilities", "pooled")}
        return {name: array for name, array in named.items() if array is not None}


REQUIRED = ("meta.bad", "meta.losses")
"""Names of the arrays of `ShardOutputs` that every shard has."""

OUTPUTS = (*REQUIRED, "meta.probabilities", "meta.pooled")
"""Names of all of them."""
