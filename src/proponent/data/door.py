"""How data files are opened, and how far their contents may unfold: a few kilobytes can stand for gigabytes."""

from pathlib import Path

from proponent.errors import DataError
from proponent.foreign_files import MEGABYTE, Door

DOOR = Door(DataError, "give a regular file, in one piece")

ANY = 2**50
"""Maximum bytes of a data file."""

UNFOLDED = 256 * MEGABYTE
"""Bytes that a compressed file may always unfold to."""

FACTOR = 100
"""How many times its own size a compressed file may unfold to, if that is more."""

ROW_BYTES = 4096
"""Bytes of a column that each row may unfold to where rows repeat texts, if that is more: long texts, few of them."""

REPEATED, REPEATED_FACTOR = 2048 * MEGABYTE, 1000
"""The most that rows may so allow, in bytes and as a multiple of the file's size: many rows may take few bytes."""

ROWS = 10_000_000
"""Rows that a file may always have."""


class UnfoldsError(ValueError):
    """A file, or a column of it, unfolds too far."""


def size_of(path: Path) -> int:
    """The bytes of a data file, which must be a regular one."""
    try:
        return DOOR.check(path, most=ANY)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def most_unfolded(size: int) -> int:
    """The bytes that a compressed file of a size may unfold to."""
    return max(UNFOLDED, FACTOR * size)


def most_repeated(size: int, rows: int) -> int:
    """The bytes that a column of so many rows may unfold to, in a file of a size whose rows may repeat texts."""
    return max(most_unfolded(size), min(ROW_BYTES * rows, REPEATED, REPEATED_FACTOR * size))


def too_far(name: str, most: int, size: int) -> UnfoldsError:
    """The error for a column, or a whole file, that unfolds too far."""
    return UnfoldsError(f"{name} unfolds to more than {most:,} bytes, from {size:,}")


def most_rows(size: int) -> int:
    """The rows that a file of a size may have."""
    return max(ROWS, 16 * size)


def refusal(path: Path | str, size: int) -> str:
    """The message for a file that unfolds too far."""
    return (
        f"{path}: it unfolds to more than {most_unfolded(size) / MEGABYTE:,.0f} MB, {FACTOR} times its size or more: "
        "such a file fills the memory of a computer on purpose; write it again without compression if it is yours"
    )
