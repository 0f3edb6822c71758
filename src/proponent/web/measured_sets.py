"""A test set and an index of a language model: the loss of each row."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from jaxtyping import Int

from proponent.data import to_json
from proponent.row_losses import RowLosses
from proponent.types import Example, Prompted, Text
from proponent.web.jobs import RowsTask
from proponent.web.open_indexes import OpenIndex
from proponent.web.test_sets import BLOCK_CHARACTERS, OpenTestSet, TestSetResults

MOST_LOSS = 1e6
"""Largest loss of a stored file: that of a model is far below."""

BLOCK_ROWS = 32
"""Maximum rows that the model's process measures at a time; a question waits for them."""


class MeasuredTestSet(TestSetResults):
    """Losses of the rows of a test set."""

    def __init__(self, shown: OpenIndex, test_set: OpenTestSet) -> None:
        super().__init__(shown, test_set)
        self.stored = self.result("losses", test_set.id, self._read)

    @property
    def second(self) -> str:
        """The column of targets."""
        return "target"

    @property
    def losses(self) -> RowLosses | None:
        """The losses; None if they were not measured yet."""
        return self.stored.get()

    def _read(self, content: Mapping[str, Any]) -> RowLosses:
        losses = np.asarray([np.nan if one is None else float(one) for one in _list(content["losses"])])
        tokens, cut = (_numbers(content[name]) for name in ("tokens", "truncated"))
        if (
            {len(losses), len(tokens)} != {len(self.test_set)}
            or (cut >= len(losses)).any()
            or (losses > MOST_LOSS).any()
        ):
            raise ValueError("losses of other rows")
        truncated = np.zeros(len(tokens), dtype=np.bool_)
        truncated[cut] = True
        return RowLosses(losses, tokens, truncated)


def _numbers(values: Any) -> Int[np.ndarray, " m"]:
    """Whole numbers from 0 on, as a stored file must have them."""
    for one in _list(values):
        if type(one) is not int or one < 0:
            raise ValueError(f"{one!r} is no whole number from 0 on")
    return np.asarray(values, dtype=np.int64)


def _list(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError("no list")
    return cast("list[Any]", values)


class LossTask(RowsTask):
    """Measures the rows of a test set in the process with the model."""

    def __init__(self, measured: MeasuredTestSet) -> None:
        self.measured, self.name = measured, f"losses {measured.test_set.id}"
        self.total = len(measured.test_set)
        self._losses: list[float | None] = []
        self._tokens: list[int] = []
        self._truncated: list[int] = []

    def request(self, start: int) -> tuple[dict[str, Any], int]:
        """The rows of a block."""
        rows: list[dict[str, Any]] = []
        size = 0
        for one in self.measured.test_set.rows[start : start + BLOCK_ROWS]:
            size += sum(map(len, one.parts))
            if rows and size > BLOCK_CHARACTERS:
                break
            rows.append(_spelled(one))
        return {"measure": rows}, len(rows)

    def take(self, start: int, reply: Mapping[str, Any]) -> None:
        """Keep the losses of a block."""
        self._losses[start:] = reply["losses"]
        self._tokens[start:] = reply["tokens"]
        self._truncated = [one for one in self._truncated if one < start]
        self._truncated += [start + one for one in reply["truncated"]]

    def finish(self, seconds: float) -> None:
        """Store all losses."""
        content = {"losses": self._losses, "tokens": self._tokens, "truncated": self._truncated}
        self.measured.stored.put(content | {"seconds": seconds})


def _spelled(one: Example) -> dict[str, Any]:
    """A row in JSON."""
    if isinstance(one.content, Text | Prompted):
        found = {"id": one.id, "text": one.text, "target": one.target}
        return {name: value for name, value in found.items() if value is not None}
    return {"id": one.id, "content": to_json(one.content)}
