"""Where independent pieces of work run: in this process, or in several processes on this machine."""

import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import Any, Literal, Protocol, TypeVar, cast, get_args, runtime_checkable

from proponent.errors import InputError
from proponent.processes import SAFE
from proponent.ray_actors import RayActors

EngineName = Literal["processes", "ray"]
"""Processes of this machine, or actors of Ray."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@runtime_checkable
class Engine(Protocol):
    """Runs one function on many items."""

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield results as they finish, in any order; the work may be sent to other processes."""
        ...


class InProcess:
    """Processes the items in this process, in order."""

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield the result of each item."""
        return map(work, items)


@dataclass(frozen=True)
class LocalProcesses:
    """Spawns processes on this machine; the work is sent to each of them once."""

    workers: int

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield results as they finish; a single item is processed in this process."""
        if len(items) < 2:
            yield from map(work, items)
            return
        with _pool(self.workers, work) as pool:
            futures = [pool.submit(_do, item) for item in items]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BrokenProcessPool as error:
                raise InputError(
                    "a worker process ended unexpectedly: it ran out of memory, or it cannot import what the work "
                    "needs (a script must start it under `if __name__ == '__main__':`); finished work is kept: try "
                    "--workers 1"
                ) from error


def engine_of(workers: int, name: EngineName = "processes", *, gpu: bool = False) -> Engine:
    """Choose an engine for a number of processes; one worker means this process, or one actor of Ray."""
    if not isinstance(cast("object", workers), int) or isinstance(workers, bool) or workers < 1:
        raise InputError(f"--workers {workers!r}: it must be at least 1, and a whole number")
    if name not in get_args(EngineName):
        raise InputError(f"engine is {name!r}: choose one of {', '.join(get_args(EngineName))}")
    if name == "ray":
        return RayActors(workers, gpu)
    return InProcess() if workers == 1 else LocalProcesses(workers)


@contextmanager
def _pool(workers: int, work: Callable[[Any], Any]) -> Generator[ProcessPoolExecutor]:
    """Open a pool of spawned processes; closing it cancels work that has not started."""
    # A spawned process imports modules before it receives this one's sys.path, and starts when work is submitted.
    before, os.environ[SAFE] = os.environ.get(SAFE), "1"
    try:
        with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (work,)) as pool:
            try:
                yield pool
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    finally:
        if before is None:
            del os.environ[SAFE]
        else:
            os.environ[SAFE] = before


_work: list[Callable[[Any], Any]] = []  # the work that a worker process was started with


def _begin(work: Callable[[Any], Any]) -> None:
    _work[:] = [work]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _do(item: Any) -> Any:
    return _work[0](item)


def _end_with_parent() -> None:
    """End this process when its parent is killed, since it would never get work again."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
