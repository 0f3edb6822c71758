"""Files of an index: every one appears whole or not at all (temporary name, fsync, rename, fsync of the folder)."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from whence.examples import write_parquet
from whence.tensors import write_bytes, write_tensors

TEMPORARY = ".tmp"


def publish_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Args:
        path: the final name.
        text: its content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(_temporary(path), text.encode("utf-8"))
    _rename(path)


def publish_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file atomically.

    Args:
        path: the final name.
        tensors: arrays by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(_temporary(path), tensors)
    _rename(path)


def publish_table(path: Path, columns: Mapping[str, object]) -> None:
    """Write a Parquet file atomically.

    Args:
        path: the final name.
        columns: equally long lists or arrays by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(_temporary(path), columns)  # type: ignore[arg-type]
    _rename(path)


def sha256(path: Path) -> str:
    """Hash a file.

    Args:
        path: the file.

    Returns:
        SHA-256, hexadecimal.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + TEMPORARY)


def _rename(path: Path) -> None:
    _temporary(path).replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
