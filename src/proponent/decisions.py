"""What people decided about training examples - keep, fix the label, drop - and the new data set that follows from it.

The decisions lie in a file beside the index, one JSON object per line, which is only ever added to: undo is a line too.
Neither the index nor the data set that it was built from is touched.
"""

import json
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from proponent.errors import DataError, InputError, LabelError
from proponent.examples import write_csv, write_parquet
from proponent.examples.disk import full_disk_named
from proponent.near import nearest
from proponent.store import Store

Act = Literal["keep", "fix", "drop", "clear"]
ACTS: tuple[Act, ...] = ("keep", "fix", "drop", "clear")
SUFFIX = ".decisions.jsonl"
ROLES = ("id", "text", "text_pair", "target", "label", "source")
LONG = ("text", "text_pair", "target")


@dataclass(frozen=True)
class Decision:
    """What somebody decided about one training example.

    Attributes:
        id: of the example.
        act: keep it as it is, fix its label, drop it, or (clear) take back what was decided.
        label: the new label of a fix; None otherwise.
        when: UTC, to the second.
    """

    id: str
    act: Act
    label: str | None
    when: str


@dataclass(frozen=True)
class Applied:
    """What `apply` wrote.

    Attributes:
        path: the new file.
        rows: how many it holds.
        fixed: labels that differ from the index's data.
        dropped: examples left out.
        guarded: cells that got a ' so that a spreadsheet does not run them.
    """

    path: Path
    rows: int
    fixed: int
    dropped: int
    guarded: int


class Decisions:
    """The decisions about one index.

    Args:
        index: folder of the index; the file lies beside it.
        names: classes of the index; None for a language model.
        data: fingerprint of the data set that is decided about.
    """

    def __init__(self, index: Path, names: Sequence[str] | None, data: str = "") -> None:
        self.path = index.with_name(index.name + SUFFIX)
        self._names, self._data = names, data
        self.foreign = 0
        """Steps that were made about another data set; they count all the same, and views say so."""
        self._seen: tuple[int, int] = (-1, -1)
        self._log: list[list[Decision]] = []
        self._current: dict[str, Decision] = {}

    @classmethod
    def of(cls, store: Store) -> "Decisions":
        """The decisions about an open index."""
        return cls(store.folder, store.plan.label_names, store.plan.source.fingerprint)

    @property
    def current(self) -> dict[str, Decision]:
        """The decision that stands, by id; examples without one are not in it."""
        self._refresh()
        return self._current

    @property
    def steps(self) -> int:
        """How many times undo finds something to take back."""
        self._refresh()
        return len(self._log)

    @property
    def last(self) -> tuple[Decision, ...]:
        """What undo would take back."""
        self._refresh()
        return tuple(self._log[-1]) if self._log else ()

    def decide(self, ids: Sequence[str], act: str, labels: Sequence[str | None] | None = None) -> None:
        """Decide about some examples, as one step."""
        acts: dict[str, Act] = {one: one for one in ACTS}
        known = acts.get(act)
        if known is None:
            raise InputError(f"nothing is called {act[:40]!r}: keep, fix, drop or clear")
        given = [None] * len(ids) if labels is None or act != "fix" else list(labels)
        for label in given if act == "fix" else ():
            self._check(label)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        made = [Decision(one, known, label, when) for one, label in zip(ids, given, strict=True)]
        self._append({"step": [_plain(one) for one in made], "when": when, "data": self._data})

    def undo(self) -> tuple[Decision, ...]:
        """Take the last step back."""
        taken = self.last
        if taken:
            self._append({"undo": True, "when": datetime.now(UTC).isoformat(timespec="seconds")})
        return taken

    def _check(self, label: str | None) -> None:
        if label is None:
            raise InputError("a fix needs the label that is right")
        if self._names is None:
            raise LabelError("this index is of a language model: it has no labels to fix")
        if label not in self._names:
            raise LabelError(f"no class {label!r}{nearest(label, self._names)}: there are {', '.join(self._names)}")

    def _append(self, line: dict[str, Any]) -> None:
        with full_disk_named(str(self.path)), _locked(self.path) as opened:
            _cut_torn(opened)
            text = json.dumps(line, ensure_ascii=True) + "\n"  # ASCII: a lone surrogate of an id survives
            os.write(opened, text.encode())
            os.fsync(opened)
        self._seen = (-1, -1)

    def _refresh(self) -> None:
        try:
            found = self.path.stat()
        except OSError:
            self._seen, self._log, self._current = (-1, -1), [], {}
            return
        if (found.st_size, found.st_mtime_ns) == self._seen:
            return
        self._log = self._read()
        self._current = {one.id: one for step in self._log for one in step}
        self._current = {name: one for name, one in self._current.items() if one.act != "clear"}
        self._seen = (found.st_size, found.st_mtime_ns)

    def _read(self) -> list[list[Decision]]:
        log: list[list[Decision]] = []
        foreign = 0
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                found = _step(json.loads(line), self._names)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if number == len(lines):  # a line that a killed process did not finish
                    break
                raise DataError(
                    f"{self.path}, line {number}: no decision ({error}): restore the file or move it away"
                ) from error
            if found is not None:
                log.append(found)
                foreign += json.loads(line).get("data") != self._data
            elif log:
                log.pop()
        self.foreign = foreign
        return log


def apply(
    store: Store, decisions: Decisions, out: str | os.PathLike[str], *, guard: bool = True, kind: str | None = None
) -> Applied:
    """Write the examples of an index as a new data set, with the labels fixed and the dropped ones left out."""
    path = Path(out)
    if path.exists():
        raise InputError(f"{path} exists: apply writes a new data set and replaces nothing; choose another name")
    columns, fixed, dropped = mended(store, decisions)
    rows = len(columns["id"]) if "id" in columns else len(next(iter(columns.values())))
    guarded = write_columns(path, columns, guard=guard, kind=kind)
    return Applied(path, rows, fixed, dropped, guarded)


def mended(store: Store, decisions: Decisions) -> tuple[dict[str, Sequence[Any]], int, int]:
    """Carry decisions out on the columns that an index keeps."""
    current, table = decisions.current, store.examples
    names = store.manifest.sources[0].columns if store.manifest.sources else {}
    deleted = {segment.offset + int(place) for segment in store.segments for place in segment.deleted}
    ids: list[str] = [str(one) for one in table["id"]]
    kept = [
        place
        for place, one in enumerate(ids)
        if place not in deleted and not (one in current and current[one].act == "drop")
    ]
    columns: dict[str, Sequence[Any]] = {}
    fixed = 0
    for role in ROLES:
        if not any(segment.examples.has(role) for segment in store.segments):
            continue
        if role in LONG:
            columns[names.get(role) or role] = _Texts(store, role, kept)
            continue
        values = table[role]
        if role == "label":
            new = [
                current[one].label if one in current and current[one].act == "fix" else value
                for one, value in zip(ids, values, strict=True)
            ]
            fixed = sum(new[place] != values[place] for place in kept)
            values = new
        columns[names.get(role) or role] = [values[place] for place in kept]
    return columns, fixed, len(ids) - len(deleted) - len(kept)


def write_columns(path: Path, columns: Mapping[str, Sequence[Any]], *, guard: bool, kind: str | None = None) -> int:
    """Write columns as CSV, JSON Lines or Parquet, by the suffix."""
    suffix = path.suffix.lower() if kind is None else kind
    try:
        if suffix == ".csv":
            return write_csv(path, columns, guard=guard)
        if suffix == ".parquet":
            write_parquet(path, columns)
        elif suffix in {".jsonl", ".ndjson"}:
            with full_disk_named(str(path)), path.open("w", encoding="utf-8", errors="backslashreplace") as file:
                for cells in zip(*columns.values(), strict=True):
                    file.write(json.dumps(dict(zip(columns, cells, strict=True)), ensure_ascii=False) + "\n")
        else:
            raise InputError(f"{path} ends in {suffix or 'nothing'}: choose .csv, .jsonl or .parquet")
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): choose a folder that is there") from error
    return 0


class _Texts(Sequence[Any]):
    """A column of some examples, a block at a time: whole, its texts would be held a second time."""

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


def _plain(one: Decision) -> dict[str, Any]:
    return {"id": one.id, "act": one.act} | ({} if one.label is None else {"label": one.label})


def _step(line: Any, names: Sequence[str] | None) -> list[Decision] | None:
    """One line as a step; None for an undo."""
    if line.get("undo") is True:
        return None
    when, found = str(line["when"]), list[Decision]()
    for one in cast("list[dict[str, Any]]", line["step"]):
        act, label = one["act"], one.get("label")
        if act not in ACTS or not isinstance(one["id"], str):
            raise ValueError(f"{act!r} is none of {', '.join(ACTS)}")
        if act == "fix" and (names is None or label not in names):
            raise ValueError(f"the index has no class {label!r}")
        found.append(Decision(one["id"], act, label if act == "fix" else None, when))
    return found


def _cut_torn(opened: int) -> None:
    """Cut off a last line that a killed process did not finish: it was never a decision."""
    end = os.lseek(opened, 0, os.SEEK_END)
    at = end
    while at > 0 and _byte(opened, at - 1) != b"\n":
        at -= 1
    if at < end:
        os.ftruncate(opened, at)


def _byte(opened: int, at: int) -> bytes:
    os.lseek(opened, at, os.SEEK_SET)
    return os.read(opened, 1)


@contextmanager
def _locked(path: Path) -> Generator[int]:
    """Open a file to add to it, alone."""
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        if fcntl is not None:
            fcntl.lockf(opened, fcntl.LOCK_EX)
        yield opened
    finally:
        os.close(opened)
