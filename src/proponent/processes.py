"""Child processes, which import nothing from the working folder (its contents are untrusted), and memory figures."""

import mmap
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

Child = subprocess.Popen[str]
TimeoutExpired = subprocess.TimeoutExpired

SAFE = "PYTHONSAFEPATH"
"""If set, Python does not add the working folder to `sys.path`; PYTHONPATH still works."""


def python(module: str) -> tuple[str, ...]:
    """Command that runs a module with unbuffered output."""
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
        start_new_session=True,  # Ctrl-C in the terminal ends this process, which then ends the child
    )


def peak_memory() -> int | None:
    """Peak memory of this process in bytes; None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory() -> int | None:
    """Current memory of this process in bytes; if the system does not report it, its peak memory."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return peak_memory()
