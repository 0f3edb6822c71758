"""Arrays over the examples of a segment, gathered from its shards."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from proponent.store.layout import array_name
from proponent.store.postings import Shard
from proponent.store.shard_outputs import ShardOutputs
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
            outputs = ShardOutputs.of(arrays)
            kept["skipped"][places] |= outputs.bad
            kept["losses"][row, places] = outputs.losses
            for name, values in (("counted", outputs.counted), ("truncated", outputs.truncated)):
                if values is not None:  # the same at every checkpoint
                    kept.setdefault(name, np.zeros(n, dtype=values.dtype))[places] = values
            if outputs.probabilities is not None:
                mean = _array(kept, n, "mean_probabilities", outputs.probabilities)
                mean[places] += outputs.probabilities / len(checkpoints)
            for name, values in (("probabilities", outputs.probabilities), ("pooled", outputs.pooled)):
                # earlier checkpoints only with hidden states, for candidates chosen by both arrays
                if values is not None and (at == last or outputs.pooled is not None):
                    _array(kept, n, name if at == last else array_name(name, at), values)[places] = values
    return kept | {"labels": np.asarray(labels, dtype=np.int64)}


def _array(kept: dict[str, np.ndarray], n: int, name: str, like: Float[np.ndarray, "m x"]) -> Float[np.ndarray, "n x"]:
    if name not in kept:
        kept[name] = np.zeros((n, like.shape[1]), dtype=np.float32)
    return kept[name]
