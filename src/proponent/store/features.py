"""Arrays over the examples of a segment, gathered from its shards."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from proponent.store.layout import array_name
from proponent.store.postings import Shard
from proponent.types import CheckpointId


def gather_features(
    n: int, labels: Sequence[int], checkpoints: Mapping[CheckpointId, Iterable[Shard]]
) -> dict[str, np.ndarray]:
    """Gather per-example arrays from the shards, in data order."""
    kept: dict[str, np.ndarray] = {"skipped": np.zeros(n, dtype=np.bool_)}
    kept["losses"] = np.zeros((len(checkpoints), n))
    *_, last = checkpoints
    for row, (at, shards) in enumerate(checkpoints.items()):
        for places, arrays in shards:
            kept["skipped"][places] |= arrays["meta.bad"]
            kept["losses"][row, places] = arrays["meta.losses"]
            if "meta.probabilities" in arrays:
                mean = _array(kept, n, "mean_probabilities", arrays["meta.probabilities"])
                mean[places] += arrays["meta.probabilities"] / len(checkpoints)
            for name in ("probabilities", "pooled"):
                # earlier checkpoints only with hidden states, for candidates chosen by both arrays
                if f"meta.{name}" in arrays and (at == last or "meta.pooled" in arrays):
                    _array(kept, n, name if at == last else array_name(name, at), arrays[f"meta.{name}"])[places] = (
                        arrays[f"meta.{name}"]
                    )
    return kept | {"labels": np.asarray(labels, dtype=np.int64)}


def _array(kept: dict[str, np.ndarray], n: int, name: str, like: Float[np.ndarray, "m x"]) -> Float[np.ndarray, "n x"]:
    if name not in kept:
        kept[name] = np.zeros((n, like.shape[1]), dtype=np.float32)
    return kept[name]
