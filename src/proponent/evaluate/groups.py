"""Groups of training rows for LDS within groups: classes, or without classes source, format or length."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from proponent.data import Examples
from proponent.errors import InputError
from proponent.types import Example

GROUPINGS = ("auto", "class", "source", "format", "length")


def row_groups(
    grouping: str, train: Sequence[Example], labels: Int[np.ndarray, " n"] | None, data: Sequence[Example]
) -> tuple[str, Int[np.ndarray, " n"]]:
    """Name and groups of the training rows; `data` is the data set they come from, with its sources."""
    sources = data.sources if isinstance(data, Examples) else []
    sourced = any(one is not None for one in sources)
    if grouping == "auto":
        formats = {_format(one) for one in train}
        other = "source" if len(set(sources)) > 1 else "format" if len(formats) > 1 else "length"
        grouping = "class" if labels is not None else other
    if grouping == "class":
        if labels is None:
            raise InputError("--groups class: this run predicts no classes; choose source, format or length")
        return grouping, labels
    if grouping == "length":
        lengths = np.asarray([sum(map(len, one.parts)) for one in train])
        return "length quartile", np.searchsorted(np.quantile(lengths, [0.25, 0.5, 0.75]), lengths)
    if grouping == "source":
        if not sourced:
            raise InputError("--groups source: the data has no source column; choose format or length")
        origin = {one.id: str(value) for one, value in zip(data, sources, strict=True)}
        return grouping, _numbered([origin[one.id] for one in train])
    return grouping, _numbered([_format(one) for one in train])


def _format(one: Example) -> str:
    return f"{one.text_pair is not None} {one.target is not None}"


def _numbered(names: Sequence[str]) -> Int[np.ndarray, " n"]:
    return np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64)
