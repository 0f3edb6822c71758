"""Files of an index: every file is written atomically (temporary name, fsync, rename, fsync of the folder).

During a build each finished file has a note next to it, `NAME.done`, with its checksums: the note marks the file as
finished. Sealing collects the notes into the manifest.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from proponent import disk
from proponent.data import parquet_bytes
from proponent.disk import temporary
from proponent.errors import DamagedError
from proponent.store.checksums import Checksums, sums_of, sums_of_file
from proponent.store.door import DOOR, MOST_NOTE
from proponent.store.mapped import Place, lay_out

NOTE = ".done"

Columns = Mapping[str, Sequence[object] | np.ndarray]
"""Equally long lists or arrays by name."""


def publish_bytes(path: Path, chunks: Sequence[bytes | memoryview], *, noted: bool = True) -> Checksums:
    """Write a file atomically."""

    def fill(opened: int) -> Checksums:
        at = 0
        for chunk in chunks:
            at = disk.write_all(opened, chunk, at)
        return sums_of(chunks)

    return _publish(path, sum(memoryview(chunk).nbytes for chunk in chunks), fill, noted=noted)


def publish_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> Checksums:
    """Write a safetensors file atomically, with its note."""
    whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    head, places = lay_out({name: (array.dtype.newbyteorder("<"), array.shape) for name, array in whole.items()})
    ordered = sorted(places, key=lambda name: (places[name].start, places[name].stop))
    return publish_bytes(path, [head, *(whole[name].reshape(-1).view(np.uint8).data for name in ordered)])


def publish_scattered(
    path: Path,
    shapes: Mapping[str, tuple[np.dtype[np.generic], tuple[int, ...]]],
    fill: Callable[[Callable[[str, int, np.ndarray], None]], None],
) -> Checksums:
    """Write a safetensors file whose rows arrive in any order, atomically, with its note."""
    head, places = lay_out(shapes)
    size = max((place.stop for place in places.values()), default=len(head))

    def fill_file(opened: int) -> Checksums:
        disk.write_all(opened, head, 0)

        def put(name: str, row: int, values: np.ndarray) -> None:
            place: Place = places[name]
            each = place.kind.itemsize * int(np.prod(place.shape[1:], dtype=np.int64))
            whole = np.ascontiguousarray(values, dtype=place.kind)
            disk.write_all(opened, whole.reshape(-1).view(np.uint8).data, place.start + row * each)

        fill(put)
        return sums_of_file(temporary(path))

    return _publish(path, size, fill_file, noted=True)


def publish_table(path: Path, columns: Columns) -> Checksums:
    """Write a Parquet file atomically, with its note."""
    return publish_bytes(path, [parquet_bytes(columns)])


def finished(path: Path) -> Checksums | None:
    """Read the note of a file."""
    try:
        sums = Checksums.model_validate_json(DOOR.read_bytes(note_of(path), most=MOST_NOTE))
        return sums if path.stat().st_size == sums.size and sums.fits else None
    except (OSError, ValueError, DamagedError):
        return None


def write_note(path: Path, sums: Checksums) -> None:
    """Mark a file as finished."""
    disk.publish(note_of(path), lambda opened: disk.write_all(opened, sums.model_dump_json().encode(), 0))


def note_of(path: Path) -> Path:
    """Path of the note of a file."""
    return path.with_name(path.name + NOTE)


def is_temporary(name: str) -> bool:
    """Whether a file is the leftover of a killed writer, not the user's own."""
    return re.search(r"\.[0-9]+\.tmp$", name) is not None


def walk(folder: Path) -> Iterator[Path]:
    """List the files of an index, including temporary ones."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path


def _publish(path: Path, size: int, fill: Callable[[int], Checksums], *, noted: bool) -> Checksums:
    disk.make_folder(path.parent)
    sums = disk.publish(path, fill, size)
    if noted:
        write_note(path, sums)
    return sums
