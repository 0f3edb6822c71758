"""Files of an index: every one appears whole or not at all (temporary name, fsync, rename, fsync of the folder)."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from whence.examples import write_parquet
from whence.examples.disk import full_disk_named
from whence.tensors import write_bytes, write_tensors

TEMPORARY = ".tmp"

Columns = Mapping[str, Sequence[object] | np.ndarray]
"""Equally long lists or arrays by name."""


def publish_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Args:
        path: the final name.
        text: its content.
    """
    _publish(path, lambda temporary: write_bytes(temporary, text.encode("utf-8")))


def publish_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file atomically.

    Args:
        path: the final name.
        tensors: arrays by name.
    """
    _publish(path, lambda temporary: write_tensors(temporary, tensors))


def publish_table(path: Path, columns: Columns) -> None:
    """Write a Parquet file atomically.

    Args:
        path: the final name.
        columns: equally long lists or arrays by name.
    """
    _publish(path, lambda temporary: write_parquet(temporary, columns))


def sha256(path: Path) -> str:
    """Hash a file.

    Args:
        path: the file.

    Returns:
        SHA-256, hexadecimal.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(path: Path, write: Callable[[Path], None]) -> None:
    temporary = path.with_name(path.name + TEMPORARY)
    with full_disk_named(str(path)):
        _make_folder(path.parent)
        try:
            write(temporary)
        except BaseException:
            temporary.unlink(missing_ok=True)  # on a full disk the space is needed, after Ctrl-C nothing may lie about
            raise
        temporary.replace(path)
        _sync(path.parent)


def _make_folder(folder: Path) -> None:
    """Make a folder and fsync what holds it, so that files published in it cannot get lost with it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
