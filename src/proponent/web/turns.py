"""Who is served when there are more requests than the processor can answer.

Pages share one interpreter: each further one that is built at the same time makes all others slower. So few are built
at a time, and of those that wait the newest comes first (every eighth turn goes to the oldest): a flood delays itself,
and not somebody who asks for one page. What changes something is done in the order in which it came. Requests that take
long by nature wait among themselves.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
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
"""Files and searches that are made, or wait for a slot, at a time."""

WRITES = 1
"""Decisions and other changes at a time; one, so that none overtakes another."""

MOST_WAITING = 256
"""Requests that wait for a turn; of more, the oldest is refused."""

WAIT_SECONDS = 30.0
"""How long a request waits for its turn."""

TO_THE_OLDEST = 8
"""Every so many turns, the oldest that waits comes first."""

LONG_PATHS = frozenset({"/upload", "/selected", "/action"})


@dataclass(eq=False, slots=True)
class _Waiter:
    """A request that waits, and whether it got a turn; None while it waits."""

    future: "asyncio.Future[bool]"
    taken: bool | None = None

    def answer(self, *, taken: bool) -> None:
        """Wake it; its loop may run in another thread."""
        self.taken = taken
        try:
            here = asyncio.get_running_loop() is self.future.get_loop()
        except RuntimeError:
            here = False
        if here:  # at once: under a flood each round of the loop takes its time
            self._wake()
        else:
            self.future.get_loop().call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(self.taken is True)


class Turns:
    """Lets `running` requests compute at a time; a turn that is given back goes to one that waits."""

    def __init__(self, running: int, waiting: int = MOST_WAITING, *, in_order: bool = False) -> None:
        self._running, self._most, self._in_order = running, waiting, in_order
        self._now = self._handed = 0
        self._waiting: list[_Waiter] = []
        self._lock = threading.Lock()

    async def take(self, seconds: float = WAIT_SECONDS, receive: Receive | None = None) -> bool:
        """Wait for a turn; False if too many came later, the time is over, or the client left."""
        with self._lock:
            if self._now < self._running:
                self._now += 1
                return True
            mine = _Waiter(asyncio.get_running_loop().create_future())
            self._waiting.append(mine)
            if len(self._waiting) > self._most:
                self._waiting.pop(0).answer(taken=False)
        leaving = None if receive is None else asyncio.ensure_future(_left(receive))
        if leaving is not None:
            leaving.add_done_callback(lambda _: self._drop(mine))
        try:
            async with asyncio.timeout(seconds):  # `wait_for` of Python 3.11 may swallow a cancellation
                return await mine.future
        except (asyncio.CancelledError, TimeoutError) as error:
            self._drop(mine)
            if mine.taken:
                self.give_back()
            if isinstance(error, TimeoutError):
                return False
            raise
        finally:
            if leaving is not None:
                leaving.cancel()

    def _drop(self, one: _Waiter) -> None:
        """Refuse one that still waits."""
        with self._lock:
            if one.taken is None:
                self._waiting.remove(one)
                one.answer(taken=False)

    def give_back(self) -> None:
        """Hand the turn to the next one."""
        with self._lock:
            if not self._waiting:
                self._now -= 1
                return
            self._handed += 1
            oldest = self._in_order or self._handed % TO_THE_OLDEST == 0
            self._waiting.pop(0 if oldest else -1).answer(taken=True)


class InTurn:
    """An application whose requests take turns while they compute, and not while they are sent."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._pages, self._long, self._writes = Turns(PAGES), Turns(LONG), Turns(WRITES, in_order=True)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on when it is its turn; not at all if its client left meanwhile.

        Raises:
            BusyError: too many others came later, or the time is over.
        """
        if scope["type"] != "http" or scope["path"].startswith("/static/"):
            await self._application(scope, receive, send)
            return
        reads = scope["method"] in {"GET", "HEAD"}
        turns = self._long if takes_long(scope) else self._pages if reads else self._writes
        if not await turns.take(receive=receive if reads else None):
            raise BusyError("many others ask for pages: try again in a few seconds")
        computing, is_page = True, turns is self._pages
        scope["proponent.long"] = turns is self._long
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


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def takes_long(scope: Message) -> bool:
    """Whether a request makes a file or a report, reads one, or searches slowly, also for the list of an example."""
    if scope["path"].startswith("/export/") or scope["path"] in LONG_PATHS:
        return True
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), errors="replace")
    lists = [parse_qsl(value, errors="replace") for name, value in pairs if name == "list"]
    return any(is_slow_search(dict(one)) for one in (pairs, *lists))


def is_slow_search(state: MutableMapping[str, str]) -> bool:
    """Whether a state of the table searches by expression, or in what one role says."""
    return bool(state.get("q")) and (state.get("how") == "regex" or bool(state.get("role")))


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
