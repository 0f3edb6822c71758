"""Questions of a terminal to a running `proponent serve` of the same index: it has the model in memory already.

It is asked only where its answer is that of a process of its own: the same program, the same options, the same files
of the index, the same variables of the environment that numbers depend on. It needs neither torch nor starlette.
"""

import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from proponent import errors
from proponent.errors import ProponentError
from proponent.local_sockets import LineError, Lines, connect, find
from proponent.version import __version__

CONNECT_SECONDS = 0.5
HELLO_SECONDS = 5.0
"""Time for the first reply, which needs no model."""

SILENT_SECONDS = 15.0
"""Time without a sign of life after which a question is given up."""

OPTIONS = {
    "run": None,
    "base": None,
    "allow_missing": False,
    "trust_remote_code": False,
    "device": "auto",
    "dtype": None,
    "device_map": None,
    "max_memory": None,
}
"""Options of `proponent.open` that both commands have, with their defaults."""

NUMBERS_DEPEND_ON = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables of the environment that change the last digits of a score."""


class NotAnsweredError(Exception):
    """No running explorer answers; the message says why, for a reader who wonders; empty if there is none."""


def facts(options: Mapping[str, Any], stamp: tuple[int, int, int]) -> dict[str, Any]:
    """What both sides must agree on: as JSON, by the words that name it in a message."""
    found: dict[str, Any] = {
        "version of the program": [__version__, sys.prefix, list(sys.version_info[:3]), str(Path(__file__).parent)],
        "contents of the index": list(stamp),
    }
    for name, default in OPTIONS.items():
        value = options.get(name, default)
        option = "--" + name.replace("_", "-")
        found[option] = os.path.realpath(value) if name in {"run", "base"} and value is not None else value
    found |= {name: os.environ.get(name) for name in NUMBERS_DEPEND_ON}
    return found | {"number of processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None}


def stamp_of(folder: Path) -> tuple[int, int, int]:
    """A value that changes with a finished index; zeros for an unfinished one, or none."""
    with suppress(OSError):
        found = (folder / "manifest.json").stat()
        return found.st_mtime_ns, found.st_size, found.st_ino
    return 0, 0, 0


class RunningExplorer:
    """A running explorer of an index: each question has a connection of its own."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self._folder, self._options = folder, options

    def explain(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Ask a question: arguments of `Index.explain` as JSON; `where` has the fields of `Where`.

        Returns:
            The whole answer, and `n_examples`.

        Raises:
            NotAnsweredError: no explorer runs that would answer as this process does, or it gave up.
            ProponentError: what is wrong with the question.
        """
        return self._ask({"question": dict(question)})

    def check_label(self, label: str) -> None:
        """Refuse a class that the index does not have; see `explain`."""
        self._ask({"label": label})

    def names(self) -> list[str] | None:
        """Names of the classes; None if there are none; see `explain`."""
        return self._ask({"names": True})["names"]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        stamp = stamp_of(self._folder)
        if not any(stamp):
            raise NotAnsweredError("")
        refused = ""
        try:
            for path in find(self._folder):
                try:
                    return self._asked_at(path, facts(self._options, stamp), request)
                except NotAnsweredError as error:
                    refused = refused or str(error)
        except OSError as error:
            refused = refused or str(error)
        raise NotAnsweredError(refused)

    def _asked_at(self, path: Path, known: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        try:
            connection = connect(path, CONNECT_SECONDS)
        except ConnectionRefusedError as error:
            raise NotAnsweredError("") from error  # left over by a process that was killed
        except OSError as error:
            raise NotAnsweredError(f"the running `proponent serve` takes no questions now ({error})") from error
        with connection:
            try:
                return _spoken(connection, known, request)
            except (OSError, LineError) as error:
                raise NotAnsweredError(f"the running `proponent serve` did not answer ({error})") from error


def _spoken(connection: socket.socket, known: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    lines = Lines(connection)
    lines.send({"hello": known}, CONNECT_SECONDS)
    reply = lines.receive(HELLO_SECONDS)
    if "ready" in reply:
        lines.send(request, HELLO_SECONDS)
        reply = lines.receive(SILENT_SECONDS)
        while "alive" in reply:
            reply = lines.receive(SILENT_SECONDS)
    if "refused" in reply:
        raise NotAnsweredError(str(reply["refused"]))
    if "error" in reply:
        raise _kind(reply.get("kind"))(str(reply["error"]))
    return reply


def _kind(name: object) -> type[ProponentError]:
    """The error of a name, so that the exit code is the same."""
    found: object = getattr(errors, str(name), None)
    known = isinstance(found, type) and issubclass(found, ProponentError)
    return cast("type[ProponentError]", found) if known else errors.InputError
