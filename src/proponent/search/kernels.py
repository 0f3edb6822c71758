"""The inner loop of the join: gradient rows of one token times the queries' rows, added to their owners' scores.

Two kernels give the same sums up to rounding: numpy, and numba if it is installed, which reads shortened rows in their
stored form instead of widening them first.
"""

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from inspect import unwrap
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from proponent.errors import InputError, MissingExtraError

KernelName = Literal["numpy", "numba"]

Kernel = Callable[
    [
        Float[np.ndarray, "q n"],
        Int[np.ndarray, " m"],
        np.ndarray,
        Float[np.ndarray, " m"] | None,
        Float[np.ndarray, "j d"],
        Int[np.ndarray, " j"],
    ],
    None,
]
"""Add to total [q n]: for every stored row, its product with each query row, at (query, owner)."""

CHUNK_BYTES = 2**20
"""Size of a chunk of rows: its products stay in the cache until they are summed."""


def numpy_kernel(
    total: Float[np.ndarray, "q n"],
    owners: Int[np.ndarray, " m"],
    kept: np.ndarray,
    scale: Float[np.ndarray, " m"] | None,
    queries: Float[np.ndarray, "j d"],
    columns: Int[np.ndarray, " j"],
) -> None:
    """Matrix products of chunks of rows, then one addition per row and query; see `Kernel`."""
    step = max(64, CHUNK_BYTES // max(1, 4 * kept.shape[1]))
    turned = np.ascontiguousarray(queries.T)
    for start in range(0, len(kept), step):
        cut = slice(start, start + step)
        wide = kept[cut].astype(np.float32, copy=False)
        # for a single row, einsum streams about twice as fast as the library's matrix-vector product
        found = np.einsum("md,d->m", wide, queries[0])[:, None] if len(queries) == 1 else wide @ turned
        products = found.astype(np.float64)
        if scale is not None:
            products *= scale[cut, None]
        at = owners[cut].astype(np.intp)
        for place, column in enumerate(columns.tolist()):
            np.add.at(total[column], at, products[:, place])


def kernel_of(name: KernelName | None) -> Kernel:
    """Return a kernel by name."""
    if name is None or name == "numpy":
        return numpy_kernel
    if name != "numba":
        raise InputError(f"kernel {name!r}: choose numpy or numba")
    if find_spec("numba") is None:
        raise MissingExtraError("the numba kernel needs numba: pip install 'proponent[speed]'")
    return _numba_kernel()


@lru_cache(maxsize=1)
def _numba_kernel() -> Kernel:
    numba: Any = import_module("numba")

    def loop(total: Any, owners: Any, kept: Any, scale: Any, queries: Any, columns: Any) -> None:
        width, count = kept.shape[1], queries.shape[0]
        for row in range(kept.shape[0]):
            for place in range(count):
                product = np.float32(0.0)
                for at in range(width):
                    product += np.float32(kept[row, at]) * queries[place, at]
                total[columns[place], owners[row]] += np.float64(product) * np.float64(scale[row])

    # unwrapped: under a type checker for arrays every function of this package is decorated, which numba cannot read
    compiled: Any = numba.njit(unwrap(loop), fastmath={"reassoc", "contract", "nsz"}, nogil=True)

    def kernel(
        total: Float[np.ndarray, "q n"],
        owners: Int[np.ndarray, " m"],
        kept: np.ndarray,
        scale: Float[np.ndarray, " m"] | None,
        queries: Float[np.ndarray, "j d"],
        columns: Int[np.ndarray, " j"],
    ) -> None:
        wide = kept.astype(np.float32) if kept.dtype == np.float16 else kept  # numba has no 16-bit floats on a CPU
        ones = np.ones(len(kept), dtype=np.float32) if scale is None else scale
        compiled(total, owners, wide, ones, np.ascontiguousarray(queries, dtype=np.float32), columns)

    return kernel
