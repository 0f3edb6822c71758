"""Decisions of people about training examples: keep, fix the label, drop.

Decisions are stored in an append-only file next to the index, one JSON object per line; an undo is also a line.
Neither the index nor the data set that it was built from is changed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from proponent import json_log
from proponent.errors import DataError, InputError, LabelError
from proponent.store import Store
from proponent.suggest import nearest

Act = Literal["keep", "fix", "drop", "clear"]
ACTS: tuple[Act, ...] = ("keep", "fix", "drop", "clear")
SUFFIX = ".decisions.jsonl"


@dataclass(frozen=True)
class Decision:
    """One decision about one training example."""

    id: str  # of the example
    act: Act  # keep it as it is, fix its label, drop it, or (clear) withdraw the decision
    label: str | None  # the new label of a fix; None otherwise
    when: str  # UTC, to the second


class Decisions:
    """The decisions about one index."""

    def __init__(self, index: Path, names: Sequence[str] | None, data: str = "") -> None:
        self.path = index.with_name(index.name + SUFFIX)
        self._names, self._data = names, data
        self._state = _Log()

    @classmethod
    def of(cls, store: Store) -> "Decisions":
        """The decisions about an open index."""
        return cls(store.folder, store.plan.label_names, store.plan.source.fingerprint)

    @property
    def current(self) -> dict[str, Decision]:
        """The current decision by id; undecided examples are absent."""
        return self._read().current

    @property
    def steps(self) -> int:
        """Number of steps that undo can take back."""
        return len(self._read().steps)

    @property
    def last(self) -> tuple[Decision, ...]:
        """The decisions that undo would take back."""
        return tuple(next(reversed(self._read().steps), ()))

    @property
    def foreign(self) -> int:
        """Number of steps made for another data set; they still apply, and views say so."""
        return self._read().foreign

    def decide(self, ids: Sequence[str], act: str, labels: Sequence[str | None] | None = None) -> None:
        """Decide about some examples, as one step."""
        known = next((one for one in ACTS if one == act), None)
        if known is None:
            raise InputError(f"unknown decision {act[:40]!r}: choose keep, fix, drop or clear")
        given = [None] * len(ids) if labels is None or act != "fix" else list(labels)
        for label in given if act == "fix" else ():
            self._check(label)
        made = zip(ids, given, strict=True)
        step = [{"id": one, "act": known} | ({} if label is None else {"label": label}) for one, label in made]
        self._append({"step": step, "when": _now(), "data": self._data})

    def undo(self) -> tuple[Decision, ...]:
        """Undo the last step."""
        taken = self.last
        if taken:
            self._append({"undo": True, "when": _now()})
        return taken

    def _check(self, label: str | None) -> None:
        if label is None:
            raise InputError("a fix needs the correct label")
        if self._names is None:
            raise LabelError("this index belongs to a language model, which has no labels to fix")
        if label not in self._names:
            raise LabelError(f"unknown class {label!r}{nearest(label, self._names)}; classes: {', '.join(self._names)}")

    def _append(self, line: dict[str, Any]) -> None:
        json_log.append(self.path, line)
        self._state = _Log()

    def _read(self) -> "_Log":
        """The content of the file, read again if it changed; threads never share an incomplete state."""
        try:
            found = self.path.stat()
        except OSError:
            return _Log()
        seen, state = (found.st_size, found.st_mtime_ns), self._state
        if state.seen == seen:
            return state
        self._state = state = self._parsed(seen)
        return state

    def _parsed(self, seen: tuple[int, int]) -> "_Log":
        steps: list[list[Decision]] = []
        foreign = 0
        lines = json_log.read_lines(self.path)
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                content = json.loads(line)
                found = _step(content, self._names)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if number == len(lines):  # a line left incomplete by a killed process
                    break
                raise DataError(
                    f"{self.path}, line {number}: invalid decision ({error}): restore the file or move it away"
                ) from error
            if found is not None:
                steps.append(found)
                foreign += content.get("data") != self._data
            elif steps:
                steps.pop()
        current = {one.id: one for step in steps for one in step}
        return _Log(seen, steps, {name: one for name, one in current.items() if one.act != "clear"}, foreign)


@dataclass(frozen=True)
class _Log:
    """A file of decisions as read, with its size and modification time at that moment."""

    seen: tuple[int, int] = (-1, -1)
    steps: list[list[Decision]] = field(default_factory=list[list[Decision]])
    current: dict[str, Decision] = field(default_factory=dict[str, Decision])
    foreign: int = 0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _step(line: Any, names: Sequence[str] | None) -> list[Decision] | None:
    """Parse one line as a step; None for an undo."""
    if line.get("undo") is True:
        return None
    when, found = str(line["when"]), list[Decision]()
    for one in cast("list[dict[str, Any]]", line["step"]):
        act, label = one["act"], one.get("label")
        if act not in ACTS or not isinstance(one["id"], str):
            raise ValueError(f"{act!r} is not one of {', '.join(ACTS)}")
        if act == "fix" and (names is None or label not in names):
            raise ValueError(f"the index has no class {label!r}")
        found.append(Decision(one["id"], act, label if act == "fix" else None, when))
    return found
