"""What an index keeps of the training set beside its gradients: columns to show, arrays over the examples."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

from whence.examples import Examples

Shards = Iterable[tuple[Int[np.ndarray, " m"], dict[str, np.ndarray]]]
"""Examples (in data order) of each shard of a checkpoint, and its arrays."""


def gather(
    order: Int[np.ndarray, " n"], labels: Sequence[int], skipped: Sequence[int], checkpoints: Sequence[Shards]
) -> dict[str, np.ndarray]:
    """Gather per-example arrays from the shards, in data order.

    Args:
        order: example of each place in the shards.
        labels: class numbers, in data order.
        skipped: examples without a gradient.
        checkpoints: the shards of each.

    Returns:
        "order" [n], "skipped" [n], "labels" [n], "losses" [c n]; of a classifier also "probabilities" [n l] at the last
        checkpoint and "mean_probabilities" [n l] over all; where it was kept, "pooled" [n d] at the last checkpoint.
    """
    n = len(order)
    kept: dict[str, np.ndarray] = {"order": order, "skipped": np.zeros(n, dtype=np.bool_)}
    kept["skipped"][list(skipped)] = True
    kept["losses"] = np.zeros((len(checkpoints), n))
    for row, shards in enumerate(checkpoints):
        for places, arrays in shards:
            kept["losses"][row, places] = arrays["meta.losses"]
            if "meta.probabilities" in arrays:
                mean = _array(kept, "mean_probabilities", arrays["meta.probabilities"])
                mean[places] += arrays["meta.probabilities"] / len(checkpoints)
            for name in ("probabilities", "pooled"):
                if row == len(checkpoints) - 1 and f"meta.{name}" in arrays:
                    _array(kept, name, arrays[f"meta.{name}"])[places] = arrays[f"meta.{name}"]
    return kept | {"labels": np.asarray(labels, dtype=np.int64)}


def columns(
    examples: Examples, names: tuple[str, ...] | None, features: dict[str, np.ndarray]
) -> dict[str, Sequence[object] | np.ndarray]:
    """Lay out what is shown of the training set.

    Args:
        examples: the training set.
        names: classes; None for a language model.
        features: as `gather` gave them.

    Returns:
        Equally long columns by name, in data order.
    """
    kept = list(examples)
    none = [None] * len(kept)
    return {
        "id": [one.id for one in kept],
        "row": np.asarray([one.row for one in kept], dtype=np.int64),
        "text": [one.text for one in kept],
        "text_pair": [one.text_pair for one in kept],
        "target": [one.target for one in kept],
        "label": none if names is None else [names[number] for number in features["labels"]],
        "predicted": none if names is None else _predicted(features["probabilities"], names),
        "loss": features["losses"][-1],
    }


def _array(kept: dict[str, np.ndarray], name: str, like: Float[np.ndarray, "m x"]) -> Float[np.ndarray, "n x"]:
    if name not in kept:
        kept[name] = np.zeros((len(kept["order"]), like.shape[1]), dtype=np.float32)
    return kept[name]


def _predicted(probabilities: Float[np.ndarray, "n l"], names: tuple[str, ...]) -> list[str | None]:
    """The likeliest class of each row; None where the model says nothing finite."""
    return [names[int(row.argmax())] if np.isfinite(row).all() else None for row in probabilities]
