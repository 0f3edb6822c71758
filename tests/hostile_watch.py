"""Watches what code does while it reads a stranger's files: files outside, the network, code that runs, processes.

Python's own operations raise audit events. Libraries in C and Rust open files without one, so that the folder with the
bait is watched by the system too (inotify).
"""

import ctypes
import os
import select
import struct
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

NETWORK = {
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
    "urllib.Request",
    "http.client.connect",
    "ftplib.connect",
    "smtplib.connect",
}
PROCESSES = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn"}
WRITES = {
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.rmtree",
    "shutil.move",
    "shutil.copyfile",
}
_FLAGS = 0x00000020 | 0x00000001 | 0x00000002 | 0x00000100 | 0x00000200  # opened, read, written, made, removed

_seen: list[str] = []
_state: dict[str, Any] = {"on": False, "roots": ()}


def _own_roots() -> tuple[str, ...]:
    """Folders that the interpreter and its libraries read in any program."""
    paths = {sys.prefix, sys.base_prefix, sys.exec_prefix, sysconfig.get_path("stdlib"), *sys.path}
    source = Path(__file__).resolve().parents[1]
    found = {os.path.realpath(one) for one in paths if one} | {str(source)}
    return tuple(found | {"/proc", "/sys", "/dev", "/usr/lib", "/usr/share", "/etc/mime.types", "/etc/localtime"})


_LIBRARIES = _own_roots()


def _inside(path: Any, roots: tuple[str, ...]) -> bool:
    if isinstance(path, int) or path is None:
        return True
    text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 # links are not followed, and no path is looked up
    return any(text == root or text.startswith(root.rstrip("/") + "/") for root in roots)


def _event(event: str, arguments: tuple[Any, ...]) -> None:
    if not _state["on"]:
        return
    roots: tuple[str, ...] = (*_LIBRARIES, *_state["roots"])
    if event == "open":
        path = arguments[0]
        if not _inside(path, roots):
            _seen.append(f"opened {path!r}")
    elif event in NETWORK:
        _seen.append(f"{event} {arguments[1:]!r:.200}")
    elif event in PROCESSES:
        _seen.append(f"{event} {arguments!r:.200}")
    elif event in WRITES:
        if not all(
            _inside(one, _state["roots"]) for one in arguments[:2] if isinstance(one, str | bytes | os.PathLike)
        ):
            _seen.append(f"{event} {arguments!r:.200}")
    elif event == "pickle.find_class":
        _seen.append(f"{event} {arguments!r:.200}")
    elif event == "exec" and isinstance(arguments[0], CodeType):
        name = arguments[0].co_filename
        if not name.startswith("<") and not _inside(name, _LIBRARIES):
            _seen.append(f"ran {name!r}")
    elif event == "import" and len(arguments) > 1 and arguments[1] and not _inside(arguments[1], _LIBRARIES):
        _seen.append(f"imported {arguments[0]!r} from {arguments[1]!r}")


def sort_of(noticed: str) -> str:
    """Whether what was noticed is a file, the network, or code."""
    first = noticed.split()[0]
    if first in NETWORK:
        return "network"
    return "code" if first in PROCESSES or first in {"ran", "imported", "pickle.find_class"} else "file"


_installed: list[bool] = []


class Bait:
    """A folder that nothing may open: each access to it is noticed, of libraries in other languages too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._libc: Any = ctypes.CDLL(None, use_errno=True)
        self._notes = (
            self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(self._libc, "inotify_init1") else -1
        )
        if self._notes >= 0:
            for one in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
                self._libc.inotify_add_watch(self._notes, os.fsencode(one), _FLAGS)

    def touched(self) -> list[str]:
        """Names of the files that were opened since the last call; names that are only looked at do not count."""
        found: list[str] = []
        while self._notes >= 0 and select.select([self._notes], [], [], 0)[0]:
            data, at = os.read(self._notes, 65536), 0
            while at < len(data):
                _, mask, _, size = struct.unpack_from("iIII", data, at)
                name = data[at + 16 : at + 16 + size].rstrip(b"\0")
                if not mask & 0x40000000:  # folders may be listed by those who look for names
                    found.append(os.fsdecode(name))
                at += 16 + size
        return found

    @property
    def watches(self) -> bool:
        """Whether the system tells of every access."""
        return self._notes >= 0

    def close(self) -> None:
        if self._notes >= 0:
            os.close(self._notes)


@contextmanager
def watched(*roots: Path, bait: Bait | None = None) -> Generator[Callable[[], list[str]]]:
    """Notice what is done besides reading in some folders; yields what was noticed so far."""
    if not _installed:
        sys.addaudithook(_event)
        _installed.append(True)
    _seen.clear()
    if bait is not None:
        bait.touched()
    # libraries may make a file of their own to map memory
    _state.update(on=True, roots=tuple(os.path.realpath(one) for one in roots))
    try:
        yield lambda: [*_seen, *(f"touched the bait {one!r}" for one in (bait.touched() if bait else ()))]
    finally:
        _state.update(on=False)


def temporary_root() -> Path:
    """Where temporary files are made."""
    return Path(tempfile.gettempdir())
