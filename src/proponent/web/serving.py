"""Start the explorer: bind, print the address, serve until Ctrl-C."""

import asyncio
import ctypes
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio.to_thread
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from proponent.data import Examples
from proponent.errors import InputError
from proponent.store.layout import no_index
from proponent.web.app import Explorer
from proponent.web.open_indexes import OpenIndexes
from proponent.web.safety import READ_SECONDS, Guard, Secrets, is_loopback
from proponent.web.terminal_questions import TerminalQuestions
from proponent.web.test_sets import OpenTestSet, refuse_unread
from proponent.web.turns import LONG, PAGES, WRITES, Application

HEAD_BYTES = 64 * 1024
"""Maximum bytes of a request's head."""

UNREAD_SECONDS = 30.0
"""Time in which a client must read the 64 KiB that wait for it, or be given up with all that is held for it."""

THREADS = PAGES + LONG + WRITES
"""Requests that compute at a time; more wait for their turn."""

WARM_AFTER = 2.0
"""Seconds after which data of later pages is prepared; the first page comes first."""

SWITCH_SECONDS = 0.0005
"""How long a page that is built keeps the interpreter from the thread of all connections (Python's default is 5 ms)."""

MALLOC = {"M_ARENA_MAX": (-8, 2), "M_MMAP_THRESHOLD": (-3, 1 << 20)}
"""The number of each setting in glibc's malloc.h, and its value: an array of over 1 MiB is given back when freed."""


class TimedHead(H11Protocol):
    """A connection that is closed if the head of its request takes too long, or its client does not read."""

    # uvicorn limits idle connections but not slow heads and slow readers. Only asyncio's callbacks are overridden; one
    # request per connection (`connection: close` below) means that one timer of each kind is enough.
    seconds = READ_SECONDS
    unread_seconds = UNREAD_SECONDS
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the timer."""
        super().connection_made(transport)
        self._start, self._timer = b"", asyncio.get_running_loop().call_later(self.seconds, transport.close)

    def data_received(self, data: bytes) -> None:
        """Stop the timer at the empty line that ends a head."""
        self._start = (self._start + data.replace(b"\r", b""))[-HEAD_BYTES:]
        if b"\n\n" in self._start:
            self._timer.cancel()
        super().data_received(data)

    def pause_writing(self) -> None:
        """Start the timer of a client that does not read."""
        self._unread = asyncio.get_running_loop().call_later(self.unread_seconds, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        """Stop it: the client reads again."""
        self._reads()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._timer.cancel()
        self._reads()
        super().connection_lost(exc)

    def _reads(self) -> None:
        if self._unread is not None:
            self._unread.cancel()


def serve(
    folders: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    options: Mapping[str, Any] | None = None,
    login: bool = True,
    tests: Sequence[Examples] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Serve some indexes until interrupted.

    Args:
        folders: the indexes.
        host: the address to bind.
        port: the port; 0 selects a free one.
        options: options of `proponent.open`.
        login: whether visitors need the printed address, which carries a token; only a loopback address may do
            without.
        tests: test sets, which are predicted at once.
        say: is told the address.

    Raises:
        InputError: a folder is no index, no index reads a test set, the address cannot be used, or would be open to
            others without a token.
    """
    if not login and not is_loopback(host):
        raise InputError(
            f"--no-token: {host} can be reached from other machines: only localhost may do without a token"
        )
    for folder in folders:
        if not (folder / "plan.json").is_file() and not (folder / "manifest.json").is_file():
            raise InputError(no_index(folder))
    share_freed_memory()
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    open_indexes, test_sets = OpenIndexes(folders, options or {}), [OpenTestSet(one) for one in tests]
    for one in test_sets:
        refuse_unread(open_indexes.shown.values(), one)
    bound = _bind(host, port)
    port = bound.getsockname()[1]
    explorer, guard = made(open_indexes, host, port, login=login, test_sets=test_sets)
    terminal = TerminalQuestions(open_indexes, explorer.asker)

    def warm() -> None:
        explorer.predict_all()
        for one in open_indexes.shown.values():
            one.warm()

    warming = threading.Timer(WARM_AFTER, warm)
    warming.daemon = True
    warming.start()
    shown = f"[{host}]" if ":" in host else host
    try:
        terminal.start()
        say(f"http://{shown}:{port}/" + (f"?token={guard.secrets.login}" if guard.login else ""))
        serving = server(guard)
        serving.ended = terminal.close
        asyncio.run(_serve(serving, bound))
    finally:
        sys.setswitchinterval(before)
        terminal.close()
        explorer.asker.close()
        bound.close()


class Server(uvicorn.Server):
    """A server that says when it ends: after SIGTERM, uvicorn ends the process before `serve` could do anything."""

    ended: Callable[[], None] = staticmethod(lambda: None)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, and say so."""
        await super().shutdown(sockets)
        self.ended()


def server(application: Application) -> Server:
    """Create the server of an application."""
    config = uvicorn.Config(
        application,
        http=TimedHead,
        ws="none",
        lifespan="off",
        log_level="error",  # requests that are no HTTP are no news, and could fill a log
        access_log=False,
        server_header=False,
        headers=[("connection", "close")],
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    return Server(config)


def share_freed_memory() -> None:
    """Let threads share what they freed: glibc keeps it apart for each, and a busy explorer grows twice as much."""
    if sys.platform.startswith("linux"):
        with suppress(AttributeError, OSError):
            for number, value in MALLOC.values():
                ctypes.CDLL(None).mallopt(number, value)


async def _serve(server: Server, bound: socket.socket) -> None:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    await server.serve(sockets=[bound])


def made(
    open_indexes: OpenIndexes,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    login: bool = True,
    test_sets: Sequence[OpenTestSet] = (),
) -> tuple[Explorer, Guard]:
    """Build the application behind its guard."""
    secret = Secrets()
    explorer = Explorer(open_indexes, secret.form, test_sets)
    return explorer, Guard(explorer.application, host, port, secret, login=login)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(128)
    except OSError as error:
        made.close()
        why = error.strerror or str(error)
        raise InputError(f"{host}:{port} cannot be used ({why}): choose another --port, or 0 for a free one") from error
    return made
