"""Lines on stderr that are said once in a process: what the system lacks, and what follows from it."""

import sys
import threading

_LOCK = threading.Lock()
_SAID: set[str] = set()


def say_once(line: str) -> None:
    """Write a line to stderr, unless it was said before."""
    with _LOCK:
        if line in _SAID:
            return
        _SAID.add(line)
    # names of folders are data: no character of them may control a terminal
    sys.stderr.write("proponent: " + "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line) + "\n")
