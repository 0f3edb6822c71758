"""Progress on stderr: a bar in a terminal, an occasional plain line in a log file."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Protocol, TypeVar, cast, runtime_checkable

from rich import progress as bars
from rich.console import Console
from rich.text import Text

from proponent.plain_text import one_line

T = TypeVar("T")
LINE_EVERY = 10.0
QUIET_BELOW = 2.0


@runtime_checkable
class Stream(Protocol):
    """Where progress is shown: stderr, a log file, or a test's buffer."""

    def write(self, text: str, /) -> object:
        """Write a text."""
        ...

    def flush(self) -> None:
        """Flush the output."""
        ...

    def isatty(self) -> bool:
        """Whether the output is a terminal."""
        ...


def track(
    items: Iterable[T],
    *,
    total: int,
    label: str,
    unit: str = "examples",
    weight: Callable[[T], int] | None = None,
    quiet: bool = False,
    stream: Stream | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[T]:
    """Yield the items and show progress; an item counts as done when the next one is requested."""
    if quiet:
        yield from items
        return
    shown = _Bar if _is_watched(stream or sys.stderr) else _Lines
    meter = shown(total, label, unit, stream or sys.stderr, clock)
    finished = False
    try:
        for item in items:
            yield item
            meter.advance(1 if weight is None else weight(item))
        finished = True
    finally:
        meter.close(finished)


def _is_watched(stream: Stream) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


class _Bar:
    """A live bar; rich redraws it in place."""

    def __init__(self, total: int, label: str, unit: str, stream: Stream, clock: Callable[[], float]) -> None:
        self._progress = bars.Progress(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            _Rate(unit),
            bars.TimeRemainingColumn(compact=True),
            # the caller's stream, not the environment, decides that this is a terminal.
            console=Console(file=cast("IO[str]", stream), force_terminal=True),
            get_time=clock,
            refresh_per_second=5,
        )
        self._task = self._progress.add_task(label, total=total)
        self._progress.start()

    def advance(self, units: int) -> None:
        self._progress.advance(self._task, units)

    def close(self, finished: bool) -> None:
        del finished  # the length of the bar shows where it stopped
        self._progress.stop()


class _Rate(bars.ProgressColumn):
    """Completed and total units, and units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: bars.Task) -> Text:
        """One cell of the bar."""
        speed = task.finished_speed or task.speed
        rate = "" if speed is None else f" {_rate(speed)}"
        return Text(f"{int(task.completed):,}/{int(task.total or 0):,} {self._unit}{rate}", style="dim")


class _Lines:
    """Plain lines, few enough for a log."""

    def __init__(self, total: int, label: str, unit: str, stream: Stream, clock: Callable[[], float]) -> None:
        self._total, self._label, self._unit = total, label, unit
        self._stream, self._clock = stream, clock
        self._done = 0
        self._started = self._spoke = clock()

    def advance(self, units: int) -> None:
        self._done += units
        now = self._clock()
        if now - self._spoke < LINE_EVERY or self._done >= self._total:
            return
        self._spoke = now
        rate = self._done / (now - self._started)
        left = "" if rate == 0 else f", {duration((self._total - self._done) / rate)} left"
        share = f"{100 * self._done / self._total:.0f}%"
        self._say(f"{self._done:,} of {self._total:,} {self._unit} ({share}), {_rate(rate)}{left}")

    def close(self, finished: bool) -> None:
        took = self._clock() - self._started
        if took <= QUIET_BELOW:
            return
        if finished:
            self._say(f"{self._done:,} {self._unit} in {duration(took)} ({_rate(self._done / took)})")
        else:
            self._say(f"stopped at {self._done:,} of {self._total:,} {self._unit} after {duration(took)}")

    def _say(self, text: str) -> None:
        print(one_line(f"{self._label}: {text}"), file=self._stream, flush=True)


def _rate(speed: float) -> str:
    return f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s"


def duration(seconds: float) -> str:
    """Spell a duration for people."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
