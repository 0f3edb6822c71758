"""Read parts of a safetensors file in place: a read-only map, every block verified by its xxh3 before its first use.

The safetensors library copies data on reading; search needs the rows in place. So the header is parsed here,
strictly: it is untrusted input.
"""

import errno
import json
import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, cast
from weakref import WeakSet

import numpy as np
import xxhash

from proponent.errors import DamagedError
from proponent.store.checksums import BLOCK, Checksums
from proponent.store.door import ANY, DOOR

MOST_HEADER = 2**20
MOST_TENSORS = 10_000
MOST_NUMBERS = 2**48
TRANSIENT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors of a process with too many open files or too little memory: the file itself may be intact."""

RELEASE = 16 * 2**20
"""Mapped bytes, over all files, that may be touched before they are released; they stay in the page cache."""

AROUND = 2**16
"""Bytes that the system maps around one that is touched."""

_KINDS = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True)
class Place:
    """Location of an array in a file."""

    kind: np.dtype[Any]  # element type
    shape: tuple[int, ...]  # its shape
    start: int  # offset of its first byte in the file
    stop: int  # offset after its last byte


def lay_out(arrays: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> tuple[bytes, dict[str, Place]]:
    """Lay out arrays as a safetensors file, widest elements first so that each array is aligned."""
    ordered = sorted(arrays, key=lambda name: (-arrays[name][0].itemsize, name))
    offset, spelled, spans = 0, dict[str, object](), dict[str, tuple[int, int]]()
    for name in ordered:
        kind, shape = arrays[name]
        size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
        spans[name] = (offset, offset + size)
        spelled[name] = {"dtype": _NAMES[kind], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(spelled, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64)
    begin = 8 + len(text)
    places = {name: Place(*arrays[name], begin + span[0], begin + span[1]) for name, span in spans.items()}
    return len(text).to_bytes(8, "little") + text, places


class Arrays(dict[str, np.ndarray]):
    """The arrays of a file by name; one that it should have and does not names the file."""

    def __init__(self, path: Path, held: Mapping[str, np.ndarray]) -> None:
        super().__init__(held)
        self._path = path

    def __missing__(self, name: str) -> np.ndarray:
        raise DamagedError(_message(self._path, f"it has no array {name!r}"))

    def __or__(self, other: Mapping[str, np.ndarray]) -> "Arrays":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Arrays(self._path, {**self, **other})


class MappedTensors:
    """The arrays of one safetensors file; `fill` writes blocks into a file that is not whole, or not right."""

    _held: ClassVar["WeakSet[MappedTensors]"] = WeakSet()
    _touched: ClassVar[int] = 0
    _lock: ClassVar[Lock] = Lock()

    def __init__(
        self, path: Path, sums: Checksums | None = None, fill: Callable[[Sequence[int]], None] | None = None
    ) -> None:
        self.path, self._fill = path, fill
        try:
            with DOOR.open(path, most=ANY) as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            if isinstance(error, OSError) and error.errno in TRANSIENT:
                raise
            raise DamagedError(_message(path, str(error))) from error
        if sums is not None and (len(self._map) != sums.size or not sums.fits):
            raise DamagedError(_message(path, f"it has {len(self._map)} bytes, not {sums.size}"))
        self._sums = sums
        self._right = bytearray(-(-len(self._map) // BLOCK))
        with MappedTensors._lock:
            MappedTensors._held.add(self)
        self._release(AROUND)
        self._places = self._header()
        self._arrays = {name: self._array(place) for name, place in self._places.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays."""
        return tuple(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one array."""
        return self._place(name).shape

    def view(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows of an array, in place and read-only, checked."""
        rows, begin, each = self._span(name, start, stop)
        self.check(begin, begin + rows * each)
        self._release(rows * each + AROUND)
        return self._arrays[name][start : start + rows]

    def take(self, name: str, wanted: np.ndarray) -> np.ndarray:
        """Copy some rows; only the blocks that contain them are read and checked."""
        rows, begin, each = self._span(name, 0, None)
        if len(wanted):
            if int(wanted[0]) < 0 or int(wanted[-1]) >= rows:
                raise DamagedError(_message(self.path, f"{name} has no row {int(wanted[-1])}"))
            if self._sums is not None:
                first, last = (begin + wanted * each) // BLOCK, (begin + (wanted + 1) * each - 1) // BLOCK
                blocks = np.unique(np.concatenate([first, last]))
                seen = np.frombuffer(self._right, dtype=np.uint8)[blocks]
                unseen: list[int] = blocks[seen == 0].tolist()
                del seen
                self._check(unseen)
        windows = (begin + wanted * each) // AROUND
        self._release(AROUND * (1 + int(np.count_nonzero(np.diff(windows)))) if len(wanted) else 0)
        return self._arrays[name][wanted]

    def all(self) -> "Arrays":
        """Copy every array."""
        return Arrays(self.path, {name: self.view(name).copy() for name in self._places})

    def check(self, start: int, stop: int) -> None:
        """Check the blocks in a range of bytes, once each."""
        if self._sums is None or stop <= start:
            return
        first, last = start // BLOCK, (stop - 1) // BLOCK
        if self._right.find(0, first, last + 1) >= 0:
            self._check([block for block in range(first, last + 1) if not self._right[block]])

    def _check(self, blocks: Sequence[int]) -> None:
        wrong = self._wrong(blocks)
        if wrong and self._fill is not None:
            self._fill(wrong)
            wrong = self._wrong(wrong)
        if wrong:
            begin, end = self._ends(wrong[0])
            raise DamagedError(_message(self.path, f"bytes {begin} to {end - 1} have another checksum"))

    def _wrong(self, blocks: Sequence[int]) -> list[int]:
        """The blocks with another checksum; the others are marked as right."""
        found: list[int] = []
        assert self._sums is not None
        with memoryview(self._map) as whole:
            for block in blocks:
                begin, end = self._ends(block)
                with whole[begin:end] as piece:
                    right = xxhash.xxh3_64_intdigest(piece) == self._sums.block(block)
                if right:
                    self._right[block] = 1
                else:
                    found.append(block)
                    if self._fill is None:
                        break
        return found

    def _ends(self, block: int) -> tuple[int, int]:
        return block * BLOCK, min((block + 1) * BLOCK, len(self._map))

    @staticmethod
    def _release(size: int) -> None:
        """Release mapped pages from time to time, so that the memory of a search does not grow with the index."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        with MappedTensors._lock:
            MappedTensors._touched += size
            if MappedTensors._touched <= RELEASE:
                return
            MappedTensors._touched, held = size, list(MappedTensors._held)
        for one in held:
            one._map.madvise(mmap.MADV_DONTNEED)

    def _place(self, name: str) -> Place:
        found = self._places.get(name)
        if found is None:
            raise DamagedError(_message(self.path, f"it has no array {name!r}"))
        return found

    def _span(self, name: str, start: int, stop: int | None) -> tuple[int, int, int]:
        """Number of rows, offset of the first and bytes of each."""
        place = self._place(name)
        held = place.shape[0] if place.shape else 1
        end = held if stop is None else stop
        if not 0 <= start <= end <= held:
            raise DamagedError(_message(self.path, f"{name} has {held} rows, and rows {start} to {end} were requested"))
        each = (place.stop - place.start) // held if held else 0
        return end - start, place.start + start * each, each

    def _array(self, place: Place) -> np.ndarray:
        count = math.prod(place.shape)
        if not count:
            return np.zeros(place.shape, dtype=place.kind)
        return np.frombuffer(self._map, dtype=place.kind, count=count, offset=place.start).reshape(place.shape)

    def _header(self) -> dict[str, Place]:
        self.check(0, min(8, len(self._map)))
        size = int.from_bytes(self._map[:8], "little")
        if len(self._map) < 8 or size > min(MOST_HEADER, len(self._map) - 8):
            raise DamagedError(_message(self.path, "its header is cut off or longer than 1 MiB"))
        self.check(0, 8 + size)
        try:
            raw = json.loads(self._map[8 : 8 + size])
            return _places(raw, 8 + size, len(self._map))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DamagedError(_message(self.path, f"its header is not a safetensors header ({error})")) from error


def _places(raw: Any, begin: int, size: int) -> dict[str, Place]:
    """The places in a header; the arrays must cover the data from begin to size, each byte once."""
    entries = {name: value for name, value in cast("dict[str, Any]", raw).items() if name != "__metadata__"}
    if len(entries) > MOST_TENSORS:
        raise ValueError(f"{len(entries)} arrays")
    places: dict[str, Place] = {}
    for name, value in entries.items():
        kind, shape, offsets = _KINDS[value["dtype"]], value["shape"], value["data_offsets"]
        numbers = [*shape, *offsets]
        if len(offsets) != 2 or not all(type(one) is int and one >= 0 for one in numbers) or len(shape) > 8:
            raise ValueError(f"the shape or place of {name}")
        count = math.prod(shape)
        if math.prod(max(one, 1) for one in shape) > MOST_NUMBERS:  # an empty array may have any length
            raise ValueError(f"the shape of {name}")
        if count * kind.itemsize != offsets[1] - offsets[0]:
            raise ValueError(f"the size of {name}")
        places[name] = Place(kind, tuple(shape), begin + offsets[0], begin + offsets[1])
    end = begin
    for place in sorted(places.values(), key=lambda one: (one.start, one.stop)):
        if place.start != end:
            raise ValueError("a hole or an overlap")
        end = place.stop
    if end != size:
        raise ValueError("bytes that belong to no array")
    return places


def _message(path: Path, what: str) -> str:
    return (
        f"{path} differs from what was written ({what}): restore it, or compute it again with the same "
        "`proponent index` command and --repair"
    )
