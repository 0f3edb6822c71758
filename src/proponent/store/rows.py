"""Storage of gradient rows: 32-bit floats, or 16-bit floats or 8-bit integers with one scale per row."""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Num

RowKind = Literal["fp32", "fp16", "int8"]
KINDS: tuple[RowKind, ...] = get_args(RowKind)

_STEPS = {"fp16": 1.0, "int8": 127.0}


def encode(
    rows: Float[np.ndarray, "k d"], kind: RowKind
) -> tuple[Num[np.ndarray, "k d"], Float[np.ndarray, " k"] | None]:
    """Shorten rows. The scale of a row is its largest magnitude, so that gradients of any size retain their digits."""
    if kind == "fp32":
        return rows.astype(np.float32, copy=False), None
    largest = np.abs(rows).max(axis=1, initial=0.0)
    scale = (np.where(largest > 0, largest, 1.0) / _STEPS[kind]).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    shrunk = rows / scale[:, None]
    if kind == "int8":
        return np.clip(np.rint(shrunk), -127, 127).astype(np.int8), scale
    return shrunk.astype(np.float16), scale


def decode(kept: Num[np.ndarray, "k d"], scale: Float[np.ndarray, " k"] | None) -> Float[np.ndarray, "k d"]:
    """Undo `encode`."""
    if scale is None:
        return kept
    return kept.astype(np.float32) * scale[:, None]


def encode_arrays(arrays: dict[str, np.ndarray], kind: RowKind) -> dict[str, np.ndarray]:
    """Shorten the embedding rows among the arrays of a shard."""
    if "rows.rows" not in arrays or kind == "fp32":
        return arrays
    kept, scale = encode(arrays["rows.rows"], kind)
    assert scale is not None
    return arrays | {"rows.rows": kept, "rows.scale": scale}


def decode_arrays(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Undo `encode_arrays`."""
    if "rows.scale" not in arrays:
        return arrays
    plain = {name: value for name, value in arrays.items() if name != "rows.scale"}
    return plain | {"rows.rows": decode(arrays["rows.rows"], arrays["rows.scale"])}
