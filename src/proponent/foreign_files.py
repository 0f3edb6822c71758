"""The one door through which files are read that somebody else made: of an index, a run, a data set, stored answers.

A file is opened only if it is regular (a pipe would never end), lies in its own folder (a link may not lead out of it)
and is no larger than a file of its kind may be. Its name and its contents appear in messages as plain text only.
"""

import errno
import io
import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proponent.errors import ProponentError
from proponent.plain_text import visible

MEGABYTE = 2**20
MOST_VALUES = 4_000_000
"""Maximum values in a JSON file: each takes far more memory than the bytes that it is written in."""

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_SNAPSHOTS, _BLOBS = "snapshots", "blobs"


@dataclass(frozen=True)
class Door:
    """How files of one kind are opened, and how they are refused."""

    refuses: type[ProponentError]  # the error
    way_out: str  # ends its message
    links: bool = True  # whether a file may be a link to another file of its folder

    def check(self, path: Path, *, most: int, within: Path | None = None) -> int:
        """Check a file that another library opens by its name; returns its bytes.

        Args:
            path: the file.
            most: the maximum of its bytes.
            within: the folder that it must lie in, links followed; None for a file that the user named.

        Returns:
            Its size in bytes.

        Raises:
            FileNotFoundError: there is no such file.
            ProponentError: it is no regular file, leads out of the folder, or is too large.
        """
        self._refuse_elsewhere(path, within)
        return self._fitting(path, path.stat() if self.links else path.lstat(), most)

    def open(self, path: Path, *, most: int, within: Path | None = None) -> io.BufferedReader:
        """Open a file for reading bytes; see `check`."""
        self._refuse_elsewhere(path, within)
        try:
            opened = os.open(path, _FLAGS | (0 if self.links else getattr(os, "O_NOFOLLOW", 0)))
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.EMLINK}:
                raise self._refused(path, "is a link") from error
            if error.errno in {errno.ENXIO, errno.ENODEV}:
                raise self._refused(path, "is not a regular file") from error
            raise
        except ValueError as error:  # a NUL in the name
            raise self._refused(path, f"is not the name of a file ({error})") from error
        try:
            self._fitting(path, os.fstat(opened), most)
            return io.BufferedReader(io.FileIO(opened))
        except BaseException:
            os.close(opened)
            raise

    def read_bytes(self, path: Path, *, most: int, within: Path | None = None) -> bytes:
        """Read a whole file; see `check`."""
        with self.open(path, most=most, within=within) as file:
            data = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
        if len(data) > most:
            raise self._refused(path, "grows while it is read")
        return data

    def read_text(self, path: Path, *, most: int, within: Path | None = None, errors: str = "strict") -> str:
        """Read a whole file as UTF-8; see `check`."""
        return self.read_bytes(path, most=most, within=within).decode("utf-8", errors)

    def read_json(self, path: Path, *, most: int, within: Path | None = None, plausible: bool = False) -> Any:
        """Read a JSON file; see `check`. ValueError for anything that `parse_json` refuses."""
        return parse_json(self.read_bytes(path, most=most, within=within), plausible=plausible)

    def _refuse_elsewhere(self, path: Path, within: Path | None) -> None:
        if within is not None and not lies_in(path, within):
            raise self._refused(path, "is a link out of its folder")

    def _fitting(self, path: Path, found: os.stat_result, most: int) -> int:
        if not stat.S_ISREG(found.st_mode):
            raise self._refused(path, f"is {kind_of(found.st_mode)}, not a regular file")
        if found.st_size > most:
            raise self._refused(path, f"has {found.st_size:,} bytes, and at most {most:,} are read")
        return found.st_size

    def _refused(self, path: Path, what: str) -> ProponentError:
        return self.refuses(f"{visible(str(path))} {what}: {self.way_out}")


def parse_json(data: bytes, *, plausible: bool = False) -> Any:
    """Parse JSON; ValueError for too many values and, where numbers must be plausible, for those beyond 64 bits."""
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MOST_VALUES:
        raise ValueError(f"it holds more than {MOST_VALUES:,} values")
    try:
        text = data.decode("utf-8")
        if not plausible:
            return json.loads(text)
        return json.loads(text, parse_constant=_constant, parse_float=_float, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deeply") from error


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that proponent writes")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a number that proponent writes")
    return number


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"{text[:40]} is not a number that proponent writes")
    return int(text)


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder once links are followed; the cache of a hub keeps its files in links."""
    real, home = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if real.is_relative_to(home):
        return True
    cache = next((one.parent for one in home.parents if one.name == _SNAPSHOTS), None)
    return cache is not None and real.is_relative_to(cache / _BLOBS)


def kind_of(mode: int) -> str:
    """What a file is, in words."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a link"}
    return kinds.get(stat.S_IFMT(mode), "a device")
