"""Work that only a few requests may do at a time: searches by expression, files of a whole view."""

import os
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import cache, partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from proponent.errors import InputError

P = ParamSpec("P")
Result = TypeVar("Result")


class BusyError(InputError):
    """A request that others are in front of; it may be sent again."""


class Slots:
    """Lets `running` requests work at a time and `waiting` ones wait; further ones are refused at once."""

    def __init__(self, what: str, *, running: int = 1, waiting: int = 2, seconds: float = 10.0) -> None:
        self._what, self._running, self._waiting, self._seconds = what, running, waiting, seconds
        self._free = threading.Condition()
        self._now = self._queue = 0

    @contextmanager
    def __call__(self) -> Generator[None]:
        """Work as soon as there is a slot.

        Raises:
            BusyError: too many others wait already, or no slot became free in time.
        """
        self.take()
        try:
            yield
        finally:
            self.give_back()

    def take(self) -> None:
        """Take a slot, which must be given back.

        Raises:
            BusyError: too many others wait already, or no slot became free in time.
        """
        with self._free:
            if self._now >= self._running:
                if self._queue >= self._waiting:
                    raise self._refused()
                self._queue += 1
                try:
                    if not self._free.wait_for(lambda: self._now < self._running, self._seconds):
                        raise self._refused()
                finally:
                    self._queue -= 1
            self._now += 1

    def give_back(self) -> None:
        """Free a slot."""
        with self._free:
            self._now -= 1
            self._free.notify()

    def _refused(self) -> BusyError:
        return BusyError(f"{self._what}: try again in a few seconds")


def in_background(work: Callable[P, Result], *args: P.args, **options: P.kwargs) -> Result:
    """Work in one thread that leaves the processors to others; for work in Arrow, which leaves them the interpreter."""
    return _background("background").submit(partial(work, *args, **options)).result()


def later(work: Callable[P, Result], *args: P.args, **options: P.kwargs) -> Future[Result]:
    """Begin work of many seconds in a thread of its own kind, for which nobody waits; one at a time."""
    return _background("later").submit(partial(work, *args, **options))


class _Background:
    """One thread, which the end of the process does not wait for (that of an executor it would)."""

    def __init__(self, name: str) -> None:
        self._asked = SimpleQueue[tuple[Future[Any], Callable[[], Any]]]()
        threading.Thread(target=self._run, daemon=True, name=name).start()

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Work as soon as what was asked before is done."""
        made = Future[Result]()
        self._asked.put((made, work))
        return made

    def _run(self) -> None:
        _step_back()
        while True:
            made, work = self._asked.get()
            try:
                made.set_result(work())
            except BaseException as error:  # belongs to whoever asks for the result
                made.set_exception(error)
            del made, work  # what was computed is not kept while nothing is asked


@cache
def _background(name: str) -> _Background:
    return _Background(name)


def _step_back() -> None:
    if sys.platform.startswith("linux"):  # elsewhere a number of a thread would be taken for that of a process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


class Working:
    """How many pages are being built; a file or a slow search lets them go first."""

    def __init__(self) -> None:
        self._none, self._count = threading.Condition(), 0

    def change(self, by: int) -> None:
        """Count a page that is begun or done."""
        with self._none:
            self._count += by
            self._none.notify_all()

    def let_go_first(self) -> None:
        """Wait until no page is being built, for a short time."""
        with self._none:
            self._none.wait_for(lambda: self._count == 0, POLITE_SECONDS)


POLITE_SECONDS = 0.1
"""How long a block of a file waits for pages: a file of 100,000 examples may take 20 seconds more."""

PAGES_AT_WORK = Working()
