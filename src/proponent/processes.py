"""Child processes, which import nothing from the working folder (it may hold anything), and the memory of this one."""

import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

Child = subprocess.Popen[str]

SAFE = "PYTHONSAFEPATH"
"""Where this is set, Python does not put the working folder on `sys.path`; PYTHONPATH keeps working."""


def python(module: str) -> tuple[str, ...]:
    """Command that runs a module, its output not buffered."""
    return (sys.executable, "-P", "-u", "-m", module)


def start(command: Sequence[str]) -> Child:
    """Start a process that reads and writes lines of UTF-8."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=os.environ | {SAFE: "1"},
        start_new_session=True,  # Ctrl-C in the terminal ends this process, which ends that one
    )


@contextmanager
def pool(workers: int, begin: Callable[..., None], given: tuple[Any, ...]) -> Generator[ProcessPoolExecutor]:
    """Open a pool of spawned processes; closing it cancels what has not begun."""
    # A spawned process imports modules before it takes over this one's sys.path, and starts when work is submitted.
    before, os.environ[SAFE] = os.environ.get(SAFE), "1"
    try:
        with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (begin, given)) as made:
            try:
                yield made
            finally:
                made.shutdown(wait=True, cancel_futures=True)
    finally:
        if before is None:
            del os.environ[SAFE]
        else:
            os.environ[SAFE] = before


def _begin(begin: Callable[..., None], given: tuple[Any, ...]) -> None:
    begin(*given)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is killed: nobody would ever give it work again."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def peak_memory() -> int | None:
    """Most bytes of memory that this process has had; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory() -> int | None:
    """Bytes of memory of this process now; where the system does not say, the most that it has had."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return peak_memory()
