"""Refuse to mix indexes of different runs, data or methods, and name the smallest difference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Int

from proponent.errors import DataError, InputError, MismatchError
from proponent.store.manifest import Plan, Source
from proponent.store.reader import Store
from proponent.store.refit import Refit
from proponent.store.segment import Segment, hashed_ids, kept_ids

_SHOWN = {
    "source fingerprint": "fingerprints data",
    "source n": "number of rows",
    "source batch_size": "--batch-size",
    "fingerprints dtype": "--dtype",
    "source segments": "number of rows (--segment-rows) of segment",
}
"""Names of fields in the user's words, where the field name alone is unclear."""


def refuse_other_plan(folder: Path, found: Plan, wanted: Plan, *, finished: bool, data: bool = True) -> None:
    """Refuse to resume an index with a different plan."""
    # names may change, their contents may not; a plan of an earlier format is read as one of the current format
    ignored = {"run", "joined", "tokenizer", "format"}
    ignored |= {"proponent"} if finished else set[str]()
    ignored |= set[str]() if data else {"source"}
    mine, other = _comparable(wanted, ignored), _comparable(found, ignored)
    for plan in (mine, other) if data else ():
        plan["source"] = {name: value for name, value in plan["source"].items() if name not in {"data", "columns"}}
    way_out = "choose another --out, or delete that folder"
    if not data:
        way_out = "append with the run and the options of the first build, or choose another --out"
    own, named = found.method.name, wanted.method.name
    if own != named and mine.get("proponent") == other.get("proponent"):
        going = "append" if not data else "go on"
        way_out = f"{going} with the method of the index (--method {own}), or choose another --out"
    same = all(value == other.get(name) for name, value in mine.items() if name != "source")
    if finished and data and same and found.source.fingerprint != wanted.source.fingerprint:
        way_out = f"add new rows with --append, {way_out}"
    _refuse(folder, other, mine, way_out)


def _comparable(plan: Plan, ignored: set[str]) -> dict[str, Any]:
    """Fields of a plan, in the order in which differences are reported; the fields of a single term are merged in."""
    found = plan.model_dump(mode="json", by_alias=True, exclude=ignored)
    terms: list[dict[str, Any]] = found.pop("terms")
    source = {"source": found.pop("source")} if "source" in found else {}
    return found | (terms[0] if len(terms) == 1 else {"terms": terms}) | source


def refuse_other_source(folder: Path, path: Path, found: Source, wanted: Source) -> None:
    """Refuse to resume the append of a different data set."""
    ignored = {"data", "columns"}
    way_out = f"finish appending {found.data} first, or cancel it by removing {path}"
    _refuse(folder, found.model_dump(exclude=ignored), wanted.model_dump(exclude=ignored), way_out)


def joinable(store: Store, others: Sequence[Path]) -> list[Store]:
    """Open the indexes that are to be merged into one, except those that it contains already."""
    found: list[Store] = []
    for folder in others:
        if folder.resolve() == store.folder.resolve():
            raise InputError(f"{folder} cannot be merged into itself: name other indexes after it, or none")
        other = Store(folder)
        if {one.fingerprint for one in other.manifest.sources} <= {one.fingerprint for one in store.manifest.sources}:
            continue
        ignored = {"run", "joined", "tokenizer", "format", "proponent", "source"}
        way_out = f"only indexes of the same run and method can be merged into {store.folder}"
        _refuse(folder, _comparable(other.plan, ignored), _comparable(store.plan, ignored), way_out, "differs")
        if known := _shared_ids([store, *found], other):
            raise DataError(
                f"{len(known)} ids of {folder} are in the other indexes already ({', '.join(known[:5])}): build it "
                "with ids of its own (--id-column), or delete these rows first"
            )
        found.append(other)
    return found


def _shared_ids(stores: Sequence[Store], other: Store) -> list[str]:
    """Ids that an index shares with others; of all ids only hashes are in memory."""
    known = np.unique(np.concatenate([hashed_ids(segment) for one in stores for segment in one.segments]))
    if not len(known):
        return []
    maybe: set[str] = set()
    for segment in other.segments:
        own = hashed_ids(segment)
        places = np.flatnonzero(known[np.searchsorted(known, own).clip(max=len(known) - 1)] == own)
        maybe.update(_kept_ids(segment, places) if len(places) else ())
    if not maybe:
        return []
    return sorted(maybe & {one for store in stores for segment in store.segments for one in _kept_ids(segment)})


def _kept_ids(segment: Segment, places: Int[np.ndarray, " m"] | None = None) -> list[str]:
    """Ids of the examples that are not deleted, or of some of them."""
    ids = kept_ids(segment)
    return ids if places is None else [ids[place] for place in places.tolist()]


def refuse_other_tables(store: Store, other: Store, again: Refit | None) -> None:
    """Refuse to merge an index whose products need other tables: they were fitted to its own rows."""
    for at in (one.id for one in store.plan.checkpoints):
        if store.layout.name(store.layout.table(at)) not in store.manifest.files:
            continue
        mine, theirs = store.table(at), other.table(at)
        fitted = set[str]() if again is None else {*again.tables[at]}
        for name in sorted({*mine, *theirs} - fitted):
            if name not in mine or name not in theirs or not np.array_equal(mine[name], theirs[name], equal_nan=True):
                raise MismatchError(
                    f"{other.folder} cannot be merged into {store.folder}: its {name} at {at} was fitted to other "
                    f"rows: build one index of both data sets, or append to {store.folder}"
                )


def _refuse(
    folder: Path,
    found: dict[str, object],
    wanted: dict[str, object],
    way_out: str,
    what: str = "already contains a different index",
) -> None:
    for name, value in found.items():
        if value != wanted.get(name):
            field, there, here = _difference(name, value, wanted.get(name))
            raise MismatchError(f"{folder} {what}: its {field} is {there}, not {here}: {way_out}")


def _difference(name: str, there: object, here: object) -> tuple[str, object, object]:
    """Descend into a nested value, so that the message names the smallest difference."""
    if isinstance(there, dict) and isinstance(here, dict):
        mine, other = cast("dict[str, object]", here), cast("dict[str, object]", there)
        keys = sorted({*mine, *other}, key=lambda key: (key != "kind", key))  # other fields follow from the kind
        key = next(key for key in keys if mine.get(key) != other.get(key))
        shown = name if key == "n" and "segment-rows" in name else f"{name} {key}"
        return _difference(_SHOWN.get(shown, shown), other.get(key), mine.get(key))
    if isinstance(there, list) and isinstance(here, list):
        pairs = zip(cast("list[object]", there), cast("list[object]", here), strict=False)
        unlike = next(((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1]), None)
        if unlike is not None:
            return _difference(f"{name} {unlike[0] + 1}", *unlike[1])
    both = [cast("object", there), cast("object", here)]
    if name == "--dtype":  # noted only where it is another
        both = ["float32" if one is None else one for one in both]
    return name, _short(both[0]), _short(both[1])


def _short(value: object) -> str:
    if isinstance(value, dict):
        value = cast("dict[str, object]", value).get("kind", cast("object", value))
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
