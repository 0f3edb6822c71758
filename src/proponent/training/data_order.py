"""The order of the data in training, drawn from the ids of the examples: deleting some leaves the order of the rest."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt64

_GOLDEN = 0x9E3779B97F4A7C15


def id_hashes(ids: Sequence[str]) -> UInt64[np.ndarray, " n"]:
    """Hash ids."""
    digests = b"".join(hashlib.sha256(one.encode("utf-8", "surrogatepass")).digest()[:8] for one in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def order(hashes: UInt64[np.ndarray, " n"], seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """Shuffle examples for one pass over the data."""
    salt = int.from_bytes(hashlib.sha256(f"{seed} {epoch}".encode()).digest()[:8], "little")
    drawn = _mixed(hashes ^ np.uint64(salt))
    return np.lexsort((np.arange(len(hashes)), drawn))


def batches(
    hashes: UInt64[np.ndarray, " n"],
    kept: Bool[np.ndarray, " n"],
    seed: int,
    epoch: int,
    size: int,
    *,
    keep_places: bool,
) -> Iterator[Int[np.ndarray, " m"]]:
    """Cut one pass over a subset into batches."""
    whole = order(hashes, seed, epoch)
    if not keep_places:
        whole = whole[kept[whole]]
    for start in range(0, len(whole), size):
        batch = whole[start : start + size]
        batch = batch[kept[batch]]
        if len(batch):
            yield batch


def _mixed(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """The finalizer of the splitmix64 generator: neighbouring inputs give unrelated numbers."""
    mixed = values + np.uint64(_GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
