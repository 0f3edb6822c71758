"""Start the explorer: bind, print the address, serve until Ctrl-C; slow or endless senders are cut off."""

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from proponent.errors import InputError
from proponent.store.layout import no_index
from proponent.web.app import Explorer
from proponent.web.open_indexes import OpenIndexes
from proponent.web.safety import READ_SECONDS, Guard

HEAD_BYTES = 64 * 1024
"""Bytes of a request's head at most."""

THREADS = 8
"""Pages that are made at a time; more wait for their turn."""

WARM_AFTER = 2.0
"""Seconds after which what later pages need is made ready; the first page comes first."""


class TimeoutProtocol(H11Protocol):
    """HTTP/1.1 that waits so long for the head of a request, and no longer."""

    seconds = READ_SECONDS
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._wait()

    def handle_events(self) -> None:
        """Stop the clock when a head is complete."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._stop()

    def on_response_complete(self) -> None:
        """Start the clock for the next request."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop()
        self._deadline = self.loop.call_later(self.seconds, self.transport.close)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class LimitedProtocol(uvicorn.Server):
    """A server with few threads: pages share one interpreter, and every thread keeps memory of its own."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        await super().startup(sockets)


def serve(
    folders: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    options: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve some indexes until interrupted."""
    for folder in folders:
        if not (folder / "plan.json").is_file() and not (folder / "manifest.json").is_file():
            raise InputError(no_index(folder))
    open_indexes = OpenIndexes(folders, options or {})
    bound = _bind(host, port)
    port = bound.getsockname()[1]
    explorer, guard = made(open_indexes, host, port)
    shown = f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{port}/" + (f"?token={guard.token}" if guard.open else ""))
    warming = threading.Timer(WARM_AFTER, lambda: [one.warm() for one in open_indexes.shown.values()])
    warming.daemon = True
    warming.start()
    config = uvicorn.Config(
        guard,
        http=TimeoutProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(READ_SECONDS),
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    try:
        LimitedProtocol(config).run(sockets=[bound])
    finally:
        explorer.asker.close()
        bound.close()


def made(open_indexes: OpenIndexes, host: str = "127.0.0.1", port: int = 0) -> tuple[Explorer, Guard]:
    """Make the application behind its guard."""
    guard = Guard(_nothing, host, port)
    explorer = Explorer(open_indexes, guard.token)
    guard.application = explorer.application
    return explorer, guard


async def _nothing(*_: Any) -> None:
    """Stands in until the application is made, which needs the guard's token."""


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
