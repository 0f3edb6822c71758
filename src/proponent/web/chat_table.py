"""Conversations in the table of training examples: facets, and a search in what one role says."""

import time

import numpy as np
from jaxtyping import Bool, Int

from proponent.data import ExampleColumns, How, SearchResult, from_json, spans_in_time
from proponent.data.conversation_columns import format_of, said_by, system_prompt
from proponent.types import Content

Coded = tuple[Int[np.ndarray, " n"], list[str]]
"""The number of each example's value, and the values."""

STRETCH = 512
"""Rows read at a time, and searched between two looks at the clock."""


class ChatTable:
    """The conversations of an index; `whole` has their stored contents."""

    def __init__(self, whole: ExampleColumns) -> None:
        self._whole = whole

    @property
    def facets(self) -> dict[str, Coded]:
        """System prompts and formats; none without conversations."""
        if not self._whole.has("content"):
            return {}
        systems, formats = list[str](), list[str]()
        for block in self._blocks():
            targets = self._whole.values("target", np.arange(block.start, block.stop))
            for content, target in zip(self._contents(block), targets, strict=True):
                systems.append(system_prompt(content))
                formats.append(format_of(content, target))
        return {"system": _coded(systems), "format": _coded(formats)}

    def find(self, role: str, how: How, pattern: str, among: Bool[np.ndarray, " n"], seconds: float) -> SearchResult:
        """Search what one role says in some examples; what was not searched in time is not found."""
        until, found = time.monotonic() + seconds, np.zeros(len(self._whole), dtype=np.bool_)
        searched = 0
        for block in self._blocks():
            if among[block.start : block.stop].any():
                said = [(place, text) for place, one in zip(block, self._contents(block), strict=True)
                        for text in said_by(one, role)]  # fmt: skip
                matches = spans_in_time([text for _, text in said], how, pattern, until - time.monotonic())
                found[[place for (place, _), some in zip(said, matches, strict=False) if some]] = True
                if len(matches) < len(said):
                    searched = said[len(matches)][0]  # this example may have turns that were not searched
                    return SearchResult(found & among, searched)
            searched = block.stop
            if time.monotonic() > until:
                break
        return SearchResult(found & among, searched)

    def _blocks(self) -> list[range]:
        count = len(self._whole)
        return [range(start, min(start + STRETCH, count)) for start in range(0, count, STRETCH)]

    def _contents(self, block: range) -> list[Content | None]:
        held = self._whole.values("content", np.arange(block.start, block.stop))
        return [None if one is None else from_json(one) for one in held]


def _coded(values: list[str]) -> Coded:
    names, codes = np.unique(np.asarray(values, dtype=object), return_inverse=True)
    return codes.astype(np.int32), [str(name) for name in names]
