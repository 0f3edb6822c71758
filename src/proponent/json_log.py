"""An append-only log of JSON records, one per line, for any number of threads and processes.

A record is appended under a lock, either completely or not at all. Only a process that was killed while it held the
lock can leave a partial line; the next writer cuts it off.
"""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proponent import disk
from proponent.errors import InputError
from proponent.foreign_files import MEGABYTE, Door
from proponent.locks import alone
from proponent.plain_text import visible

Record = Mapping[str, Any]

MOST_BYTES = 256 * MEGABYTE
"""Maximum bytes of a log that is read."""

_DOOR = Door(InputError, "move it away")


def append(path: Path, record: Record | Callable[[], Record | None], most: int = MOST_BYTES) -> bool:
    """Append a record; on any failure the file is unchanged.

    Args:
        path: the log; it is created if it is missing.
        record: the record, or a function that makes it while no other writer can append; None appends nothing.
        most: the maximum bytes of the log that are read: it does not grow beyond them.

    Returns:
        Whether a record was appended.

    Raises:
        DiskFullError: there is no space left.
        InputError: the log is not a regular file, cannot be written, or is full.
    """
    with disk.unwritable_named(path), disk.full_disk_named(path), alone(path) as opened:
        made = record() if callable(record) else record
        if made is None:
            return False
        line = (json.dumps(made, ensure_ascii=True) + "\n").encode()  # ASCII: a lone surrogate of an id survives
        end = os.fstat(opened).st_size
        whole, ending = _settled(opened, end)
        if whole + len(ending) + len(line) > most:
            raise InputError(
                f"{visible(str(path))} is full: of a log at most {most:,} bytes are read: move it away, and a new one "
                "is begun"
            )
        try:
            if whole < end:
                disk.truncate(opened, whole)
            disk.write_all(opened, ending + line, whole)
            disk.sync_file(opened, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to report
                disk.truncate(opened, whole)
            raise
        if end == 0:
            disk.sync_folder(path.parent)
    return True


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read the whole log; the last line may be incomplete."""
    return _DOOR.read_bytes(path, most=most)


def read_lines(path: Path, most: int = MOST_BYTES) -> list[bytes]:
    """Read all lines; the last line may be incomplete."""
    return read_bytes(path, most).split(b"\n")


def _settled(opened: int, end: int) -> tuple[int, bytes]:
    """Offset of the next record, and the bytes that must end the line before; a partial line is ignored."""
    at = _line_start(opened, end)
    if at == end:
        return end, b""
    try:
        json.loads(_read(opened, end - at, at))
    except ValueError:
        return at, b""
    return end, b"\n"


def _line_start(opened: int, end: int) -> int:
    """Where the unfinished last line begins."""
    at = end
    while at > 0:
        step = min(4096, at)
        place = _read(opened, step, at - step).rfind(b"\n")
        if place >= 0:
            return at - step + place + 1
        at -= step
    return 0


def _read(opened: int, size: int, at: int) -> bytes:
    parts: list[bytes] = []
    os.lseek(opened, at, os.SEEK_SET)
    while size > 0:
        part = os.read(opened, size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
