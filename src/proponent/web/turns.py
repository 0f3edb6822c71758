"""Who is served when there are more requests than the processor can answer.

Pages share one interpreter: each further one that is built at the same time makes all others slower. So few are built
at a time, and of those that wait the newest comes first: a flood delays itself, and not somebody who asks for one page.
Requests that take long by nature wait among themselves.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from proponent.web.slots import PAGES_AT_WORK, BusyError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

PAGES = 2
"""Pages that are built at a time."""

LONG = 6
"""Files and searches by expression that are made, or wait for a slot, at a time."""

MOST_WAITING = 256
"""Requests that wait for a turn; of more, the oldest is refused."""


class Turns:
    """Lets `running` requests compute at a time; a turn that is given back goes to the newest that waits."""

    def __init__(self, running: int, waiting: int = MOST_WAITING) -> None:
        self._running, self._most, self._now = running, waiting, 0
        self._waiting: list[asyncio.Future[bool]] = []
        self._lock = threading.Lock()

    async def take(self) -> bool:
        """Wait for a turn; False if too many came later."""
        with self._lock:
            if self._now < self._running:
                self._now += 1
                return True
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            oldest = self._waiting.pop(0) if len(self._waiting) > self._most else None
        if oldest is not None:
            _answer(oldest, taken=False)
        try:
            return await waiting
        except asyncio.CancelledError:
            with self._lock:
                handed = waiting not in self._waiting
                if not handed:
                    self._waiting.remove(waiting)
            if handed:
                self.give_back()
            raise

    def give_back(self) -> None:
        """Hand the turn to the newest that waits."""
        with self._lock:
            newest = self._waiting.pop() if self._waiting else None
            self._now -= newest is None
        if newest is not None:
            _answer(newest, taken=True)


def _answer(waiting: asyncio.Future[bool], *, taken: bool) -> None:
    waiting.get_loop().call_soon_threadsafe(lambda: None if waiting.done() else waiting.set_result(taken))


class InTurn:
    """An application whose requests take turns while they compute, and not while they are sent."""

    def __init__(self, application: Application) -> None:
        self._application, self._pages, self._long = application, Turns(PAGES), Turns(LONG)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on when it is its turn.

        Raises:
            BusyError: too many others came later.
        """
        if scope["path"].startswith("/static/"):
            await self._application(scope, receive, send)
            return
        turns = self._long if takes_long(scope) else self._pages
        if not await turns.take():
            raise BusyError("many others ask for pages: try again in a few seconds")
        computing, is_page = True, turns is self._pages
        PAGES_AT_WORK.change(is_page)

        def done() -> None:
            nonlocal computing
            if computing:
                computing = False
                PAGES_AT_WORK.change(-is_page)
                turns.give_back()

        async def sent(message: Message) -> None:
            done()
            await send(message)

        try:
            await self._application(scope, receive, sent)
        finally:
            done()


def takes_long(scope: Message) -> bool:
    """Whether a request makes a file, reads one, or searches by expression, also for the list an example is from."""
    if scope["path"].startswith("/export/") or scope["path"] in {"/upload", "/decide-all"}:
        return True
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), errors="replace")
    lists = [pair for name, value in pairs if name == "list" for pair in parse_qsl(value, errors="replace")]
    return ("how", "regex") in pairs or ("how", "regex") in lists


class Patience:
    """Delays refusals when there are many, so that asking again at once does not occupy the processor."""

    def __init__(self, at_once: int = 20, per_second: float = 10.0, delay: float = 1.0) -> None:
        self._most, self._per_second, self._delay = at_once, per_second, delay
        self._left, self._at = float(at_once), time.monotonic()

    async def __call__(self) -> None:
        """Return at once if refusals are rare, else after the delay."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return
        await asyncio.sleep(self._delay)
