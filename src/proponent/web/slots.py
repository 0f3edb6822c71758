"""Work that only a few requests may do at a time: searches by expression, files of a whole view."""

import threading
from collections.abc import Generator
from contextlib import contextmanager

from proponent.errors import InputError


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
