"""Checksums of one file: SHA-256 identifies it, xxh3 of every block verifies partial reads fast."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import xxhash
from pydantic import BaseModel, ConfigDict, Field

from proponent.store.door import ANY, DOOR

BLOCK = 256 * 1024
"""Bytes per xxh3: the minimum that a search reads, and the amount that one flipped bit makes unusable."""

CHUNK = 2**20
"""Bytes read at a time when a whole file is hashed; a multiple of BLOCK."""


class Checksums(BaseModel):
    """The expected size and checksums of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size: int = Field(ge=0)  # bytes
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  # of the whole file, hexadecimal
    # of every block of 256 KiB (the last may be shorter), 16 hexadecimal digits each, joined
    xxh3: str = Field(pattern="^([0-9a-f]{16})*$")

    def block(self, number: int) -> int:
        """The xxh3 of one block."""
        return int(self.xxh3[16 * number : 16 * number + 16], 16)

    @property
    def fits(self) -> bool:
        """Whether the number of block sums fits the size."""
        return len(self.xxh3) == 16 * -(-self.size // BLOCK)


class ChecksumBuilder:
    """Computes checksums of bytes that arrive in pieces."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._block = xxhash.xxh3_64()
        self._held = 0
        self._blocks: list[str] = []
        self._size = 0

    def add(self, data: bytes | memoryview) -> None:
        """Add the next bytes."""
        view = memoryview(data).cast("B")
        self._sha256.update(view)
        self._size += len(view)
        while len(view):
            piece = view[: BLOCK - self._held]
            self._block.update(piece)
            self._held += len(piece)
            if self._held == BLOCK:
                self._close()
            view = view[len(piece) :]

    def sums(self) -> Checksums:
        """Return the checksums."""
        if self._held:
            self._close()
        return Checksums(size=self._size, sha256=self._sha256.hexdigest(), xxh3="".join(self._blocks))

    def _close(self) -> None:
        self._blocks.append(self._block.hexdigest())
        self._block.reset()
        self._held = 0


def sums_of(chunks: Iterable[bytes | memoryview]) -> Checksums:
    """Compute the checksums of bytes."""
    summer = ChecksumBuilder()
    for chunk in chunks:
        summer.add(chunk)
    return summer.sums()


def sums_of_file(path: Path) -> Checksums:
    """Compute the checksums of a file."""
    return sums_of(chunks_of(path))


def has_blocks(path: Path, sums: Checksums) -> bool:
    """Whether a file has the size and the blocks that it was written with; several times as fast as SHA-256."""
    block = 0
    for chunk in chunks_of(path):
        for start in range(0, len(chunk), BLOCK):
            if block >= len(sums.xxh3) // 16 or xxhash.xxh3_64_intdigest(chunk[start : start + BLOCK]) != sums.block(
                block
            ):
                return False
            block += 1
    return block == len(sums.xxh3) // 16


def chunks_of(path: Path) -> Iterator[memoryview]:
    """Read a file in pieces, into one buffer that is reused."""
    buffer = memoryview(bytearray(CHUNK))
    with DOOR.open(path, most=ANY) as file:
        while True:
            got = file.readinto(buffer)
            if not got:
                return
            yield buffer[:got]
