"""Write and read named numpy arrays as safetensors; the only module that imports safetensors."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from proponent.disk import write_bytes
from proponent.errors import DamagedError, InputError
from proponent.foreign_files import Door

MOST_BYTES = 2**50
_DOOR = Door(DamagedError, "restore it from where it was made")

_BLOCK = 1 << 18


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write named arrays as one safetensors file."""
    write_bytes(path, packed(tensors, metadata))


def packed(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a safetensors file."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    return save(contiguous, dict(metadata) if metadata else None)


def read_tensors(path: Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Read arrays of a safetensors file."""
    with _reading(path), _opened(path) as file:
        keys = cast("tuple[str, ...]", tuple(file.keys())) if names is None else names
        return {name: file.get_tensor(name) for name in keys}


def read_metadata(path: Path) -> dict[str, str]:
    """Read what a safetensors file says about itself; empty if it says nothing."""
    with _reading(path), _opened(path) as file:
        return dict(cast("Mapping[str, str] | None", file.metadata()) or {})


def halve(path: Path) -> None:
    """Convert the 32-bit floats of a file to 16-bit ones, in place."""
    tensors = read_tensors(path)
    with _reading(path), _opened(path) as file:
        metadata = cast("Mapping[str, str] | None", file.metadata())
    write_tensors(path, {name: _halved(path, name, one) for name, one in tensors.items()}, metadata)


def _halved(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if np.isfinite(half).all() or not np.isfinite(array).all():
        return half
    raise InputError(
        f"{path}: {name} contains numbers too large for 16-bit floats: keep checkpoints in full (half=False)"
    )


class TensorSlices:
    """Row ranges of the arrays of one safetensors file, read without loading the whole file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path):
            self._file = _opened(path).__enter__()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays in the file."""
        return cast("tuple[str, ...]", tuple(self._file.keys()))

    @property
    def metadata(self) -> dict[str, str]:
        """Texts that were written beside the arrays."""
        return cast("dict[str, str]", self._file.metadata() or {})

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one array, of any element type."""
        return tuple(self._file.get_slice(name).get_shape())

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Read rows [start, stop) of one array."""
        with _reading(self.path):
            # safetensors refuses an empty range past the last row
            return self._file.get_slice(name)[start:stop] if stop > start else self._file.get_tensor(name)[:0]


class StoredArray(NamedTuple):
    """Where a safetensors file holds an array of any element type."""

    path: Path
    kind: str  # element type and shape
    start: int  # first byte in the file
    size: int  # bytes


def stored_arrays(path: Path) -> dict[str, StoredArray]:
    """Find the arrays of a file without reading them."""
    with _reading(path):
        _opened(path)  # checks the header
        with _DOOR.open(path, most=MOST_BYTES) as file:
            length = int.from_bytes(file.read(8), "little")
            header = cast("dict[str, dict[str, Any]]", json.loads(file.read(length)))
        header.pop("__metadata__", None)
        return {
            name: StoredArray(path, f"{one['dtype']} {one['shape']}", 8 + length + start, stop - start)
            for name, one in header.items()
            for start, stop in [cast("tuple[int, int]", tuple(one["data_offsets"]))]
        }


def same_bytes(mine: StoredArray, theirs: StoredArray) -> bool:
    """Whether two arrays are equal byte for byte; stops at the first difference."""
    if (mine.kind, mine.size) != (theirs.kind, theirs.size):
        return False
    with _DOOR.open(mine.path, most=MOST_BYTES) as one, _DOOR.open(theirs.path, most=MOST_BYTES) as other:
        one.seek(mine.start)
        other.seek(theirs.start)
        left = mine.size
        while left > 0:
            count = min(left, _BLOCK)
            if one.read(count) != other.read(count):
                return False
            left -= count
    return True


@contextmanager
def _reading(path: Path) -> Generator[None]:
    try:
        yield
    except (SafetensorError, OSError, ValueError, TypeError) as error:  # TypeError: an element type that numpy lacks
        raise DamagedError(f"cannot read {path}: {error}") from error


def _opened(path: Path) -> Any:
    _DOOR.check(path, most=MOST_BYTES)
    return cast("Any", safe_open)(path, framework="numpy")
