"""The folder that a demo owns, and the seconds of its stages."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from proponent.disk import make_folder, remove_tree, write_bytes
from proponent.errors import MismatchError

MARK = "proponent-demo.json"
"""Marks a folder as created by a demo, so that a later demo may replace it."""

Result = TypeVar("Result")
Facts = tuple[tuple[str, str], ...]


@dataclass
class Clock:
    """Measures and reports the seconds of each stage."""

    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def time(self, stage: str, work: Callable[[], Result]) -> Result:
        """Run one stage."""
        began = time.perf_counter()
        result = work()
        self.seconds[stage] = time.perf_counter() - began
        self.say(f"{stage}: {self.seconds[stage]:.1f} s")
        return result

    @property
    def facts(self) -> Facts:
        """The seconds as facts of a page."""
        return tuple((f"seconds: {stage}", f"{spent:.1f}") for stage, spent in self.seconds.items())


def claim(folder: Path) -> Path:
    """Make the folder of a demo, or empty that of an earlier one; refuse other folders."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARK).is_file())):
        raise MismatchError(f"{folder} contains files that the demo did not create: choose another --out")
    for name in ("run", "demo.index"):
        remove_tree(folder / name)
    make_folder(folder)
    write_bytes(folder / MARK, (json.dumps({"made by": "proponent demo"}) + "\n").encode())
    return folder
