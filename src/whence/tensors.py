"""The one door of safetensors: named numpy arrays to a file and back.

Writing never maps a file (a full disk would kill the process with SIGBUS); the bytes go through plain writes and fsync.
Publishing (temporary name, rename) is the store's business.
"""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from whence.errors import DamagedError, DiskFullError


def write_bytes(path: Path, payload: bytes) -> None:
    """Write bytes to a path and fsync them.

    Args:
        path: the file to write; replaced if it exists.
        payload: what to write.

    Raises:
        DiskFullError: no space left on the device.
        OSError: any other failure of the file system.
    """
    try:
        with path.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError(
                f"no space left while writing {path}: free some and run the same command again"
            ) from error
        raise


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write named arrays as one safetensors file and fsync it.

    Args:
        path: the file to write; replaced if it exists.
        tensors: arrays by name; made contiguous when they are not.
        metadata: text by name, kept in the header.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_bytes(path, save(contiguous, dict(metadata) if metadata else None))


def read_tensors(path: Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Read arrays of a safetensors file.

    Args:
        path: the file.
        names: the arrays wanted; None reads all.

    Returns:
        Arrays by name.

    Raises:
        DamagedError: the file is missing, truncated or not safetensors, or lacks an array.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            keys = tuple(file.keys()) if names is None else names
            return {name: file.get_tensor(name) for name in keys}
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedError(f"cannot read {path}: {error}") from error


class TensorSlices:
    """Row ranges of the arrays of one safetensors file, read without loading the whole file.

    Args:
        path: the file; it stays open for as long as this object lives.

    Raises:
        DamagedError: the file is missing, truncated or not safetensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="numpy").__enter__()
        except (SafetensorError, OSError) as error:
            raise DamagedError(f"cannot read {path}: {error}") from error

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays in the file."""
        return tuple(self._file.keys())

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Read rows [start, stop) of one array.

        Args:
            name: the array.
            start: first row.
            stop: one past the last row.

        Returns:
            A copy of those rows.
        """
        return self._file.get_slice(name)[start:stop]
