"""The corrected data set that follows from decisions: labels fixed, dropped rows removed, all else unchanged.

It is built from the files that the index was built from, if they still exist unchanged: every column, every
value. Otherwise it holds the columns stored in the index, and says so.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from proponent.actions.correction_diff import differences, labels_by_id
from proponent.actions.decisions import Decisions
from proponent.data import Columns, Examples, Part, native, read, read_local, write_columns, write_parts
from proponent.errors import InputError, MismatchError, ProponentError
from proponent.store import Source, Store

ROLES = ("id", "text", "text_pair", "target", "label", "source")
LONG = ("text", "text_pair", "target")


@dataclass(frozen=True)
class Applied:
    """Result of `apply`."""

    path: Path  # the new file
    rows: int  # number of its rows
    fixed: int  # number of labels that differ from the index's data
    dropped: int  # number of examples left out
    guarded: int  # number of cells prefixed with ' so that a spreadsheet does not run them
    note: str = ""  # why columns may be missing; empty when the original data was found


def apply(
    store: Store,
    decisions: Decisions,
    out: str | os.PathLike[str],
    *,
    guard: bool = False,
    data: Sequence[str] = (),
    whole: bool = False,
) -> Applied:
    """Write the examples of an index as a new data set, with the labels fixed and the dropped ones left out."""
    path = Path(out)
    _refuse_sources(store, path)
    if path.exists():
        raise InputError(f"{path} exists already: apply never overwrites a file; choose another name")
    kind = path.suffix.lower()
    found, missing = originals(store, data)
    if missing and whole:
        raise InputError(
            f"{missing}: `proponent apply {store.folder} --out FILE` writes only the columns that the index keeps"
        )
    if missing:
        columns, fixed, dropped = _kept_columns(store, decisions)
        guarded = write_columns(path, columns, kind, guard=guard)
        kept = ", ".join(columns)
        note = (
            f"{missing}: {path} has only the columns that the index keeps ({kept}); "
            "give the original data set with --data"
        )
        return Applied(path, len(next(iter(columns.values()))), fixed, dropped, guarded, note)
    parts, fixed, dropped = _parts(store, decisions, found)
    guarded = write_parts(path, parts, kind, guard=guard)
    return Applied(path, sum(len(one.rows) for one in parts), fixed, dropped, guarded)


def _refuse_sources(store: Store, path: Path) -> None:
    """Refuse to write to a file that the index was built from."""
    for source in store.manifest.sources:
        old = Path(source.data)
        if path.exists() and old.exists() and path.samefile(old):
            raise InputError(
                f"{path} is the data set that {store.folder} was built from, and apply never changes it: choose "
                "another name"
            )


def originals(store: Store, given: Sequence[str]) -> tuple[list[Examples], str]:
    """The data sets that an index was built from; otherwise, which of them are missing and why."""
    found: list[Examples] = []
    sources = store.manifest.sources
    unused = set(given)
    for source in sources:
        named = {one: _matching(source, one) for one in given}
        unused -= {one for one, examples in named.items() if examples is not None}
        examples = next((one for one in named.values() if one is not None), None)
        if examples is None:
            try:
                examples, problem = _still_there(store, source)
            except MismatchError:
                _refuse_unused(store, unused)
                raise
            if examples is None:
                _refuse_unused(store, unused)
                return [], problem
        found.append(examples)
    _refuse_unused(store, unused)
    return found, "" if found else f"{store.folder} has no record of the data that it was built from"


def _refuse_unused(store: Store, unused: set[str]) -> None:
    if unused:
        raise MismatchError(
            f"{min(unused)} is not the data that {store.folder} was built from (its ids, texts or labels differ): "
            "give the original file with --data"
        )


def _matching(source: Source, data: str) -> Examples | None:
    examples = read(data, columns=_columns(source), allow_empty=True, **_written(source))
    return examples if examples.fingerprint == source.fingerprint else None


def _columns(source: Source) -> Columns:
    return Columns(**{one.name: source.columns[one.name] for one in fields(Columns) if one.name in source.columns})


def _written(source: Source) -> dict[str, Any]:
    """How a CSV or TSV file was read."""
    said: dict[str, Any] = {name: source.columns[name] for name in ("separator", "quotes") if name in source.columns}
    return said | ({"header": source.columns["header"].split(",")} if "header" in source.columns else {})


def _still_there(store: Store, source: Source) -> tuple[Examples | None, str]:
    try:
        examples = read_local(source.data, _columns(source), store.folder.parent, **_written(source))
    except (ProponentError, OSError) as error:
        return None, f"{source.data} cannot be read again ({error})"
    if examples is None:
        return None, f"{source.data} is not a file on this machine"
    if examples.fingerprint != source.fingerprint:
        raise MismatchError(
            f"{source.data} has changed since the index was built ({differences(store, examples)}): give the data as "
            "it was with --data, or build the index again; to write only the columns that the index keeps, move the "
            "file away"
        )
    return examples, ""


def _parts(store: Store, decisions: Decisions, originals: Sequence[Examples]) -> tuple[list[Part], int, int]:
    """Which rows of each original are written, and which labels change."""
    (gone, fixes), alive = _decided(decisions), labels_by_id(store)
    owners = {name: at for at, one in enumerate(originals) for name in one.part("id")}  # the last of repeated ids
    parts: list[Part] = []
    for at, examples in enumerate(originals):
        ids = examples.ids
        rows = [row for row, name in enumerate(ids) if name in alive and owners[name] == at and name not in gone]
        parts.append(Part(examples, rows, examples.label_column, _changes(examples, ids, rows, fixes, alive)))
    return parts, sum(len(one.changes) for one in parts), sum(name in gone for name in alive)


def _decided(decisions: Decisions) -> tuple[set[str], dict[str, str | None]]:
    """Ids of the dropped examples, and the new labels by id."""
    current = decisions.current.values()
    return {one.id for one in current if one.act == "drop"}, {one.id: one.label for one in current if one.act == "fix"}


def _changes(
    examples: Examples,
    ids: Sequence[str],
    rows: Sequence[int],
    fixed: Mapping[str, str | None],
    alive: Mapping[str, str | None],
) -> dict[int, object]:
    """New labels by row, in the data's own notation of that class: a number where it uses numbers."""
    fixes = {row: fixed[ids[row]] for row in rows if ids[row] in fixed and fixed[ids[row]] != alive[ids[row]]}
    if not fixes:
        return {}
    spelled: dict[str, object] = {}
    numbers = False
    for name, value in zip(ids, examples.as_read(examples.label_column), strict=True):
        numbers = numbers or isinstance(value, int | float)
        label = alive.get(name)
        if label is not None:
            spelled.setdefault(label, value)
    names = {str(label) for label in fixes.values()}
    known = {name: spelled.get(name, _new_class(examples, name, numbers=numbers)) for name in names}
    return {row: known[str(label)] for row, label in fixes.items()}


def _new_class(examples: Examples, label: str, *, numbers: bool) -> object:
    """The value of a class that no row of the data has."""
    if numbers and label in (examples.label_names or ()):
        return (examples.label_names or ()).index(label)
    return int(label) if numbers and label.removeprefix("-").isdecimal() else label


def _kept_columns(store: Store, decisions: Decisions) -> tuple[dict[str, Sequence[Any]], int, int]:
    """Apply decisions to the columns stored in an index."""
    (gone, fixes), table = _decided(decisions), store.examples
    names = store.manifest.sources[0].columns if store.manifest.sources else {}
    deleted = {segment.offset + int(place) for segment in store.segments for place in segment.deleted}
    ids: list[str] = [str(one) for one in table["id"]]
    kept = [place for place, one in enumerate(ids) if place not in deleted and one not in gone]
    columns: dict[str, Sequence[Any]] = {}
    fixed = 0
    chat = _chat_columns(store, kept)
    for role in ROLES:
        if not any(segment.examples.has(role) for segment in store.segments) or (chat and role in LONG):
            continue
        if role in LONG:
            columns[names.get(role) or role] = _Texts(store, role, kept)
            continue
        values = table[role]
        if role == "label":
            new = [fixes.get(one, value) for one, value in zip(ids, values, strict=True)]
            fixed = sum(new[place] != values[place] for place in kept)
            values = new
        columns[names.get(role) or role] = [values[place] for place in kept]
    columns |= {name: values for name, values in chat.items() if name not in columns}
    return columns, fixed, len(ids) - len(deleted) - len(kept)


def _chat_columns(store: Store, kept: Sequence[int]) -> dict[str, Sequence[Any]]:
    """Conversations, preferences and tokens as the columns that people write; empty for an index of texts."""
    if not any("content" in segment.examples.names for segment in store.segments):
        return {}
    rows = [native(store.example(place).content) for place in kept]
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


class _Texts(Sequence[Any]):
    """A column of selected examples, one block at a time, so that its texts are not in memory twice."""

    def __init__(self, store: Store, role: str, kept: Sequence[int]) -> None:
        self._store, self._role, self._kept = store, role, np.asarray(kept, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, at: Any) -> Any:
        return list(self)[at]

    def __iter__(self) -> Iterator[Any]:
        for segment in self._store.segments:
            first, last = np.searchsorted(self._kept, [segment.offset, segment.offset + segment.n])
            places = self._kept[first:last] - segment.offset
            if self._role not in segment.examples.names:
                yield from [None] * len(places)
                continue
            begin = 0
            for block in segment.examples.blocks(self._role):
                start, stop = np.searchsorted(places, [begin, begin + len(block)])
                yield from (block[place] for place in (places[start:stop] - begin).tolist())
                begin += len(block)
