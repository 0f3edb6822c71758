"""Texts that are measured and also trained on."""

from collections.abc import Iterable

from proponent.types import Example


def shared_rows(measured: Iterable[Example], trained: Iterable[Example]) -> int:
    """Number of measured rows whose texts stand among the trained ones."""
    known = {one.parts for one in trained}
    return sum(one.parts in known for one in measured)
