"""Build time by stage, in seconds."""

import time
from collections.abc import Generator
from contextlib import contextmanager


class Clock:
    """Adds up seconds by stage. A nested stage counts for itself only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    @contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        """Time a stage."""
        began = time.perf_counter()
        self.seconds.setdefault(stage, 0.0)
        self._inner.append(0.0)
        try:
            yield
        finally:
            whole = time.perf_counter() - began
            self.seconds[stage] += whole - self._inner.pop()
            self._inner[-1] += whole
