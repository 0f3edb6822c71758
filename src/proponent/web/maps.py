"""Maps of the examples of an index: each is computed once, in the background, and kept while the index is open."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Lock
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float

from proponent.actions.example_map import ExampleMap, Space, example_map, influence, spaces
from proponent.errors import InputError
from proponent.store import Store
from proponent.views.scatter import COLUMNS, ROWS, cells_of
from proponent.web.slots import BusyError, later

PATIENCE = 0.4
"""Seconds that a page waits for a map before it says that the map is being computed."""


class Maps:
    """The maps of an index, and the influence that may colour them."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, Lock()
        self._begun: dict[str, Future[Any]] = {}

    @property
    def spaces(self) -> tuple[Space, ...]:
        """What maps the index allows, the best one first."""
        return spaces(self._store)

    def get(self, space: Space) -> ExampleMap | None:
        """A map; None while it is computed."""
        return cast("ExampleMap | None", self._result(space, lambda: example_map(self._store, space)))

    def influence(self) -> Float[np.ndarray, " n"] | None:
        """Sums of the scores of all other examples on each; None while they are computed."""
        return self._result("influence", lambda: influence(self._store))

    def cell(self, area: str) -> Bool[np.ndarray, " n"]:
        """The examples of a cell of a map, as `area_name` names it; refused while the map is computed."""
        space, column, row = area.split()
        if not (int(column) < COLUMNS and int(row) < ROWS):
            raise InputError(f"a map has {COLUMNS} columns and {ROWS} rows of cells: {area!r} is none of them")
        made = self.get(cast("Space", space))
        if made is None:
            raise BusyError("the map with these examples is being computed: try again in a few seconds")
        columns, rows = cells_of(made.places)
        return (columns == int(column)) & (rows == int(row))

    def _result(self, name: str, work: Callable[[], Any]) -> Any:
        with self._lock:
            if name not in self._begun:
                self._begun[name] = later(work)
            begun = self._begun[name]
        if not wait([begun], PATIENCE).done:
            return None
        if not isinstance(begun.exception(), InputError | None):  # no fault of the index: the next page tries again
            with self._lock:
                self._begun.pop(name, None)
        return begun.result()


def area_name(space: str, column: int, row: int) -> str:
    """Name of a cell of a map in a URL."""
    return f"{space} {column} {row}"
