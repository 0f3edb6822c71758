"""Decisions of people about training examples: keep, fix the label, drop.

Decisions are stored in an append-only file next to the index, one JSON object per line; an undo is also a line.
Neither the index nor the data set that it was built from is changed.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import xxhash

from proponent import json_log
from proponent.errors import DataError, InputError, LabelError
from proponent.store import Store, beside
from proponent.suggest import nearest

Act = Literal["keep", "fix", "drop", "clear"]
ACTS: tuple[Act, ...] = ("keep", "fix", "drop", "clear")
SUFFIX = ".decisions.jsonl"
LONGEST_NOTE = 1_000
"""Characters of a note."""


@dataclass(frozen=True)
class Decision:
    """One decision about one training example."""

    id: str  # of the example
    act: Act  # keep it as it is, fix its label, drop it, or (clear) withdraw the decision
    label: str | None  # the new label of a fix; None otherwise
    when: str  # UTC, to the second
    note: str | None = None  # why, in the words of who decided; None as before, which is never current


class Decisions:
    """The decisions about one index."""

    def __init__(self, index: Path, names: Sequence[str] | None, data: str = "") -> None:
        self.path = index.with_name(index.name + SUFFIX)
        self._names, self._data = names, data
        self._state, self._start, self._reading = _Log(), _Start(), threading.Lock()

    @classmethod
    def of(cls, store: Store) -> "Decisions":
        """The decisions about an open index."""
        return cls(beside(store.folder), store.plan.label_names, store.plan.source.fingerprint)

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
        return self.last_step[1]

    @property
    def last_step(self) -> tuple[int, tuple[Decision, ...]]:
        """Number of the last step, which no other step ever gets, and its decisions; 0 and none without a step."""
        steps = self._read().steps
        return (steps[-1].number, steps[-1].decisions) if steps else (0, ())

    @property
    def foreign(self) -> int:
        """Number of steps made for another data set; they still apply, and views say so."""
        return self._read().foreign

    def decide(
        self,
        ids: Sequence[str],
        act: str,
        labels: Sequence[str | None] | None = None,
        note: str | None = None,
        still: Callable[[Mapping[str, Decision]], bool] = lambda _: True,
    ) -> None:
        """Decide about some examples, as one step.

        Args:
            ids: the examples.
            act: keep, fix, drop, or clear.
            labels: their new labels, for a fix.
            note: why, at most 1,000 characters; None leaves the notes that there are.
            still: is asked with the current decisions while nobody else can decide; it must agree.

        Raises:
            InputError: an unknown decision, a fix without a label, a note that is too long, or things have changed.
            LabelError: a label that the index does not have.
        """
        said = {} if note is None else {"note": _checked(note)}
        known = next((one for one in ACTS if one == act), None)
        if known is None:
            raise InputError(f"unknown decision {act[:40]!r}: choose keep, fix, drop or clear")
        given = [None] * len(ids) if labels is None or act != "fix" else list(labels)
        for label in given if act == "fix" else ():
            self._check(label)
        made = zip(ids, given, strict=True)
        step = [{"id": one, "act": known} | ({} if label is None else {"label": label}) for one, label in made]

        def record() -> dict[str, Any]:
            if not still(self._read().current):
                raise InputError(
                    "things have changed since they were shown, and nothing was decided: look at them again"
                )
            return {"step": step, "when": _now(), "data": self._data} | said

        self._append(record)

    def annotate(self, identity: str, note: str) -> None:
        """Give a decision another note; what was decided stays.

        Raises:
            InputError: there is no decision, or the note is too long.
        """
        said = _checked(note)

        def record() -> dict[str, Any]:
            made = self._read().current.get(identity)
            if made is None:
                raise InputError("a note belongs to a decision: decide first")
            step = {"id": identity, "act": made.act} | ({} if made.label is None else {"label": made.label})
            return {"step": [step], "when": _now(), "data": self._data, "note": said}

        self._append(record)

    def undo(self, step: int | None = None) -> tuple[Decision, ...]:
        """Undo the last step.

        Args:
            step: the number of the step that must still be the last one; None takes whichever is. Two undos of the
                same step undo it once.

        Returns:
            The decisions that were taken back; none if there is no step, or this one was undone before.

        Raises:
            InputError: another step was made after this one.
        """
        taken: tuple[Decision, ...] = ()

        def record() -> dict[str, Any] | None:
            nonlocal taken
            steps = self._read().steps
            if not steps or (step is not None and all(one.number != step for one in steps)):
                return None
            if step is not None and steps[-1].number != step:
                raise InputError("another decision was made since: look at the last decision, and undo that one first")
            taken = steps[-1].decisions
            return {"undo": True, "when": _now()}

        self._append(record)
        return taken

    def _check(self, label: str | None) -> None:
        if label is None:
            raise InputError("a fix needs the correct label")
        if self._names is None:
            raise LabelError("this index belongs to a language model, which has no labels to fix")
        if label not in self._names:
            raise LabelError(f"unknown class {label!r}{nearest(label, self._names)}; classes: {', '.join(self._names)}")

    def _append(self, line: dict[str, Any] | Callable[[], dict[str, Any] | None]) -> None:
        json_log.append(self.path, line)

    def _read(self) -> "_Log":
        """The content of the file, read again if it changed; threads never share an incomplete state."""
        try:
            found = self.path.stat()
        except OSError:
            return _Log()
        seen, state = (found.st_ino, found.st_size, found.st_mtime_ns), self._state
        if state.seen == seen:
            return state
        with self._reading:
            self._state = state = replace(self._parsed(), seen=seen)
        return state

    def _parsed(self) -> "_Log":
        """Read the file; of one that only grew, what was added."""
        content = json_log.read_bytes(self.path)
        start = self._start if self._start.begins(content) else _Start()
        *lines, tail = content[start.size :].split(b"\n")
        log = self._extended(start.log, lines, start.lines)
        size = len(content) - len(tail)
        self._start = _Start(size, xxhash.xxh3_128_digest(content[:size]), start.lines + len(lines), log)
        if tail:
            with suppress(DataError):  # a line left incomplete by a killed process
                log = self._extended(log, [tail], self._start.lines)
        return log

    def _extended(self, log: "_Log", lines: Sequence[bytes], before: int) -> "_Log":
        """A log with more lines; line numbers go on from those before."""
        steps, foreign, kept = list(log.steps), log.foreign, len(log.steps)  # `kept`: steps that `log.current` holds
        for number, line in enumerate(lines, before + 1):
            if not line:
                continue
            try:
                content = json.loads(line)
                found = _step(content, self._names)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise DataError(
                    f"{self.path}, line {number}: invalid decision ({error}): restore the file or move it away; if a "
                    "newer version of proponent wrote it, use that version"
                ) from error
            if found is not None:
                steps.append(_Step(number, tuple(found)))
                foreign += content.get("data") != self._data
            elif steps:
                steps.pop()
                kept = min(kept, len(steps))
        whole = kept == len(log.steps)
        current = dict(log.current) if whole else {}
        for step in steps[kept if whole else 0 :]:
            _apply(step.decisions, current)
        return _Log((-1, -1, -1), steps, current, foreign)


@dataclass(frozen=True)
class _Step:
    """One step: the number of its line, which no other step ever gets, and its decisions."""

    number: int
    decisions: tuple[Decision, ...]


@dataclass(frozen=True)
class _Log:
    """A file of decisions as read, with its number, size and modification time at that moment."""

    seen: tuple[int, int, int] = (-1, -1, -1)
    steps: list[_Step] = field(default_factory=list[_Step])
    current: dict[str, Decision] = field(default_factory=dict[str, Decision])
    foreign: int = 0


@dataclass(frozen=True)
class _Start:
    """The complete lines at the start of a file: bytes, their digest, number of lines, content."""

    size: int = 0
    digest: bytes = b""
    lines: int = 0
    log: _Log = field(default_factory=_Log)

    def begins(self, content: bytes) -> bool:
        """Whether a file begins with these lines."""
        return self.size <= len(content) and xxhash.xxh3_128_digest(content[: self.size]) == self.digest


def _apply(decisions: Sequence[Decision], current: dict[str, Decision]) -> None:
    for one in decisions:
        if one.act == "clear":
            current.pop(one.id, None)
        else:
            before = current.get(one.id)
            kept = "" if before is None else before.note
            current[one.id] = one if one.note is not None else replace(one, note=kept)


def _checked(note: str) -> str:
    """A note of a permitted length, without unpaired surrogates."""
    if len(note) > LONGEST_NOTE:
        raise InputError(f"the note has {len(note):,} characters: shorten it to {LONGEST_NOTE:,}")
    return note.encode("utf-8", "backslashreplace").decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _step(line: Any, names: Sequence[str] | None) -> list[Decision] | None:
    """Parse one line as a step; None for an undo."""
    if line.get("undo") is True:
        return None
    when, found, note = str(line["when"]), list[Decision](), line.get("note")
    if not isinstance(note, str | None):
        raise ValueError("its note is no text")
    note = None if note is None else note[:LONGEST_NOTE].encode("utf-8", "backslashreplace").decode()
    for one in cast("list[dict[str, Any]]", line["step"]):
        act, label = one["act"], one.get("label")
        if act not in ACTS or not isinstance(one["id"], str):
            raise ValueError(f"{act!r} is not one of {', '.join(ACTS)}")
        if act == "fix" and (names is None or label not in names):
            raise ValueError(f"the index has no class {label!r}")
        found.append(Decision(one["id"], act, label if act == "fix" else None, when, note))
    return found
