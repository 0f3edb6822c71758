"""Sockets by which programs of one user talk on one machine: where they lie, who is at the other end, lines of JSON.

A socket of the file system has no port that another process could take over, and the kernel says who is at its other
end: nothing secret has to be written to a file or sent.
"""

import hashlib
import json
import os
import platform
import socket
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from proponent import disk
from proponent.errors import ProponentError

SUFFIX = ".sock"
MOST_BYTES = 64 * 2**20
"""Maximum bytes of a line."""

LONGEST_NAME = 107
"""Maximum bytes of the path of a socket: the system allows 108, with a zero at the end."""

NAME_BYTES = 48
"""Of them those of its own name."""

_PEER = getattr(socket, "SO_PEERCRED", None)  # Linux; elsewhere nobody is known at the other end
_PRIVATE = 0o077


class LineError(Exception):
    """What came over a connection is no line of JSON, is too long, or did not come in time."""


def available() -> bool:
    """Whether this system has such sockets, and says who is at their other end."""
    return _PEER is not None and hasattr(socket, "AF_UNIX")


def state_folder() -> Path:
    """Where programs keep files of this user that outlive them."""
    named = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(named) if named else Path.home() / ".local" / "state"


def folders() -> list[Path]:
    """Folders that may hold sockets of this user, the first one first."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    homes = [Path(runtime)] if runtime else []
    with suppress(RuntimeError):  # a user without a home
        homes.append(state_folder())
    return [one / "proponent" / "sockets" for one in homes if one.is_absolute()]


def is_private(folder: Path) -> bool:
    """Whether a folder is one of this user that nobody else can enter; a link to one is not."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & _PRIVATE


def name_of(subject: Path) -> str:
    """How the names of all sockets about a folder begin; homes may be shared by several machines."""
    return f"{_machine()}-{hashlib.sha256(os.fsencode(os.path.realpath(subject))).hexdigest()[:16]}"


def _machine() -> str:
    return hashlib.sha256(os.fsencode(platform.node())).hexdigest()[:8]


def find(subject: Path) -> Iterator[Path]:
    """Sockets about a folder, in folders that nobody else can enter; some may be left over."""
    if not available():
        return
    name = name_of(subject)
    for folder in folders():
        if is_private(folder):
            yield from sorted(folder.glob(f"{name}-*{SUFFIX}"))


def listen(subject: Path) -> tuple[socket.socket, Path] | None:
    """Make a socket about a folder.

    Returns:
        The socket, and its path; None if this system has no such sockets.

    Raises:
        OSError: there is no private folder for it, or it cannot be made.
    """
    if not available():
        return None
    folder = _own_folder()
    _remove_left_over(folder)
    path = folder / f"{name_of(subject)}-{os.getpid()}{SUFFIX}"
    disk.remove(path)  # of an earlier process with this number
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(str(path))
        path.chmod(0o600)
        made.listen(16)
    except BaseException:
        made.close()
        raise
    return made, path


def _own_folder() -> Path:
    refused = "no place for a socket"
    for folder in folders():
        if len(os.fsencode(folder)) + NAME_BYTES > LONGEST_NAME:
            refused = f"{folder}: the name is too long for a socket"
            continue
        try:
            disk.make_private_folder(folder)
        except (OSError, ProponentError) as error:
            refused = str(error)
            continue
        if is_private(folder):
            return folder
        refused = f"{folder} is not private: chmod 700 it"
    raise OSError(refused)


def _remove_left_over(folder: Path) -> None:
    """Remove sockets of processes of this machine that ended by force: nobody listens, there is no such process."""
    for path in folder.glob(f"{_machine()}-*{SUFFIX}"):
        number = path.stem.rpartition("-")[2]
        if not number.isdecimal() or _lives(int(number)):
            continue
        try:
            connect(path, 0.2).close()
        except ConnectionRefusedError:
            disk.remove(path)
        except OSError:
            pass  # it hangs, or went away: not ours to judge


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def connect(path: Path, seconds: float) -> socket.socket:
    """Connect to a socket; an OSError if nobody listens, or not in time, or it is a process of another user."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(seconds)
        made.connect(str(path))
        if not is_own(made):
            raise PermissionError(f"{path} belongs to another user")
    except BaseException:
        made.close()
        raise
    return made


def is_own(connection: socket.socket) -> bool:
    """Whether the process at the other end is this user's; the kernel says so."""
    if _PEER is None:
        return False
    said = connection.getsockopt(socket.SOL_SOCKET, _PEER, struct.calcsize("iII"))
    _, user, _ = struct.unpack("iII", said)  # the process, its user, its group
    return user == os.getuid()


class Lines:
    """JSON over a connection, one object a line."""

    def __init__(self, connection: socket.socket, most: int = MOST_BYTES) -> None:
        self._connection, self._most, self._read = connection, most, bytearray()

    def send(self, content: Mapping[str, Any], seconds: float) -> None:
        """Send a line; an OSError if the other end is gone or does not read, a LineError if it is too long."""
        line = json.dumps(content).encode("ascii") + b"\n"
        if len(line) > self._most:
            raise LineError(f"a line of {len(line):,} bytes: {self._most:,} are allowed")
        self._connection.settimeout(seconds)
        self._connection.sendall(line)

    def receive(self, seconds: float) -> dict[str, Any]:
        """Receive a line; an OSError if the other end is gone, a LineError if none came in time, or no JSON object."""
        end = time.monotonic() + seconds
        while b"\n" not in self._read[-65_536:]:
            left = end - time.monotonic()
            if left <= 0:
                raise LineError(f"no answer within {seconds:g} seconds")
            self._connection.settimeout(left)
            try:
                part = self._connection.recv(65_536)
            except TimeoutError:
                continue
            if not part:
                raise ConnectionResetError("the connection was closed")
            self._read += part
            if len(self._read) > self._most:
                raise LineError(f"a line of more than {self._most:,} bytes")
        line, _, rest = self._read.partition(b"\n")
        self._read = rest
        return _parsed(bytes(line))


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LineError(f"a line that is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise LineError("a line that is no JSON object")
    return cast("dict[str, Any]", found)
