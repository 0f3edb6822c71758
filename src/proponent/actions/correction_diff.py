"""What decisions change in a data set, row by row, and where a file differs from the data of an index."""

from dataclasses import dataclass
from typing import Annotated

from proponent.actions.decisions import Decisions
from proponent.data import Examples
from proponent.store import Store

NAMED = 5
"""Rows that a message names; it counts the others."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the data set that a correction changes or leaves out."""

    id: Annotated[str, "id of the training example"]
    row: Annotated[int, "0-based row of the source"]
    text: Annotated[str, "its text"]
    before: Annotated[str | None, "its label in the data"]
    after: Annotated[str | None, "its new label; None: the row is left out"]

    @property
    def dropped(self) -> bool:
        """Whether the row is left out."""
        return self.after is None


def correction_diff(store: Store, decisions: Decisions) -> list[Change]:
    """List what the decisions change, in the order of the data; rows that stay as they are do not appear."""
    current, labels = decisions.current, labels_by_id(store)
    found: list[Change] = []
    for segment in store.segments:
        for place, name in enumerate(segment.examples.column("id")):
            one = current.get(str(name))
            if one is None or one.act == "keep" or str(name) not in labels:
                continue
            before = labels[str(name)]
            if one.act == "drop" or one.label != before:
                content = segment.examples.row(place)
                after = None if one.act == "drop" else one.label
                found.append(Change(one.id, int(content["row"]), str(content["text"]), before, after))
    return found


def labels_by_id(store: Store) -> dict[str, str | None]:
    """Label by id of every example that is not deleted."""
    found: dict[str, str | None] = {}
    for segment in store.segments:
        deleted = set(segment.deleted.tolist())
        rows = zip(segment.examples.column("id"), segment.examples.column("label"), strict=True)
        found |= {str(name): label for place, (name, label) in enumerate(rows) if place not in deleted}
    return found


def differences(store: Store, examples: Examples) -> str:
    """Say in which rows a file differs from the data of an index: changed, new and missing ones."""
    held: dict[str, str] = {}
    for segment in store.segments:
        names = zip(segment.examples.column("id"), segment.examples.column("text"), strict=True)
        held |= {str(name): str(text) for name, text in names}
    labels, ids = labels_by_id(store), [str(one) for one in examples.ids]
    changed: list[str] = []
    for row, (name, text, label) in enumerate(zip(ids, examples.part("text"), examples.part("label"), strict=True)):
        if name not in held:
            changed.append(f"row {row} (id {name[:40]}) is new")
        elif held[name] != str(text):
            changed.append(f"row {row} (id {name[:40]}) has another text")
        elif name in labels and not _same(store, label, labels[name]):
            changed.append(f"row {row} (id {name[:40]}) has another label")
    known = set(ids)
    gone = [name for name in held if name not in known] if len(store.manifest.sources) == 1 else []
    changed += [f"id {name[:40]} is missing" for name in gone]
    more = f", and {len(changed) - NAMED:,} more rows" if len(changed) > NAMED else ""
    return ", ".join(changed[:NAMED]) + more if changed else "the order or another column of its rows"


def _same(store: Store, label: object, held: str | None) -> bool:
    """Whether a label as the file writes it is that of the index; numbers name classes."""
    names = store.plan.label_names
    if isinstance(label, int) and names is not None and 0 <= label < len(names):
        return held in (names[label], str(label))
    return (None if label is None else str(label)) == held
