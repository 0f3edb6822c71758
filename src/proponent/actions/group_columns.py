"""Columns of the data set that an index was built from, to group its examples by."""

from collections.abc import Sequence

from proponent.actions.corrections import originals
from proponent.data import Examples
from proponent.errors import InputError
from proponent.index.group_columns import FORMAT, SYSTEM, group_columns
from proponent.store import Store
from proponent.suggest import nearest

MOST_VALUES = 50
"""A column with more values is not offered; one that is named is grouped by all the same."""

MOST_ROWS = 200_000
"""Of a larger data set no columns are offered, since reading it takes memory; a named one is read all the same."""


def data_columns(store: Store) -> dict[str, list[str]]:
    """The columns that sort the examples into a few groups; none if the data has gone, changed or is large."""
    found, _ = originals(store, ()) if store.n <= MOST_ROWS else ([], "")
    known = {*_with_a_role(store)}
    names = dict.fromkeys(name for one in found for name in one.column_names if name not in known)
    columns = {_named(name): values for name in names if (values := _values(store, found, name)) is not None}
    return {name: values for name, values in columns.items() if 1 < len(set(values)) <= MOST_VALUES}


def _named(column: str) -> str:
    return f"column {column}" if column in {SYSTEM, FORMAT} else column


def data_column(store: Store, name: str, data: Sequence[str] = ()) -> list[str]:
    """One value of each example; refuses a column that the data does not have."""
    found, missing = originals(store, data)
    if missing:
        raise InputError(f"{missing}, and column {name!r} is not in the index: give the original data set with --data")
    names = list(dict.fromkeys(column for one in found for column in one.column_names))
    if name not in names:
        known = [*group_columns(store), *names]
        raise InputError(f"the data has no column {name!r}{nearest(name, known)}; columns: {', '.join(known)}")
    values = _values(store, found, name)
    if values is None:
        raise InputError(f"column {name!r} holds lists or objects: group by a column of texts or numbers")
    return values


def _with_a_role(store: Store) -> list[str]:
    """Names of the columns that the index keeps, and of those that hold the examples themselves."""
    held = [one.columns for one in store.manifest.sources]
    return [name for one in held for name in one.values()] + ["id", "label", "source", "text", "target", "messages"]


def _values(store: Store, found: Sequence[Examples], name: str) -> list[str] | None:
    """A column in the order of the index, as text; None if it holds anything but texts and numbers."""
    by_id: dict[str, str] = {}
    for one in found:
        cells = one.column(name) if name in one.column_names else [None] * len(one)
        if not all(isinstance(cell, str | int | float | None) for cell in cells):
            return None
        by_id |= {identity: "" if cell is None else str(cell) for identity, cell in zip(one.ids, cells, strict=True)}
    return [by_id.get(str(identity), "") for identity in store.examples["id"]]
