"""Work for engines, in a module that imports little: every actor of Ray imports it."""

import os
from pathlib import Path

from proponent.errors import InputError


class Doubles:
    """Twice a number; for 3, an error of the user; for a marked number, the process is killed once."""

    def __init__(self, mark: Path | None = None, *, always: bool = False) -> None:
        self._mark, self._always = mark, always

    def __call__(self, item: int) -> int:
        if item == 3:
            raise InputError("three is no number here")
        if self._mark is not None and item == 5 and (self._always or not self._mark.exists()):
            self._mark.touch()
            os._exit(1)
        return 2 * item
