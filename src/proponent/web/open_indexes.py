"""The indexes of an explorer: opened when they are first shown, reopened when they change."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

from proponent.actions.decisions import Decisions
from proponent.errors import InputError, ProponentError
from proponent.store import Plan, Store
from proponent.suggest import nearest
from proponent.web.model_worker import IndexSource
from proponent.web.questions import Questions
from proponent.web.states import Question
from proponent.web.table import ExampleTable, NearDuplicates

Stamp = tuple[int, int, int]


class _Opened:
    """An index as it is at one moment; a change of its files makes a new one."""

    def __init__(self, store: Store, stamp: Stamp) -> None:
        self.store = store
        self.decisions = Decisions.of(store)
        self.questions = Questions(store.folder, store.manifest.merkle_root or f"unfinished {stamp}")

    @cached_property
    def table(self) -> ExampleTable:
        return ExampleTable(self.store)

    @cached_property
    def near_duplicates(self) -> NearDuplicates:
        return NearDuplicates(self.table.whole)

    @cached_property
    def sources(self) -> list[str]:
        counts = Counter[str]()
        for segment in self.store.segments:
            counts.update(segment.examples.counts("source"))
        return sorted((one for one in counts if one), key=lambda one: (-counts[one], one))


class OpenIndex:
    """One index of the explorer, by the name that URLs have for it, and the options of `proponent.open`."""

    def __init__(self, name: str, folder: Path, options: Mapping[str, Any]) -> None:
        self.name, self.folder, self.options = name, folder, options
        self._lock = RLock()
        self._stamp: Stamp | None = None
        self._opened: _Opened | ProponentError | None = None

    def _now(self, name: str) -> Any:
        """A part of the index, read under the lock: two threads never make the same part twice."""
        with self._lock:
            stamp = self._stamped()
            if stamp != self._stamp:
                self._stamp, self._opened = stamp, self._open(stamp)
            if isinstance(self._opened, ProponentError):
                raise self._opened
            return getattr(self._opened, name)

    @property
    def store(self) -> Store:
        """The open index."""
        return self._now("store")

    @property
    def sealed(self) -> bool:
        """Whether the index is finished."""
        return (self.folder / "manifest.json").is_file()

    @property
    def plan(self) -> Plan:
        """What the index is of."""
        return self.store.plan

    @property
    def paired(self) -> bool:
        """Whether its examples are pairs of texts."""
        return any(segment.examples.has("text_pair") for segment in self.store.segments)

    @property
    def sources(self) -> list[str]:
        """Its sources, the most frequent first."""
        return self._now("sources")

    @property
    def table(self) -> ExampleTable:
        """Its examples."""
        return self._now("table")

    @property
    def near_duplicates(self) -> NearDuplicates:
        """Its examples by their words."""
        return self._now("near_duplicates")

    @property
    def decisions(self) -> Decisions:
        """What was decided about its examples."""
        return self._now("decisions")

    @property
    def questions(self) -> Questions:
        """What it was asked."""
        return self._now("questions")

    @property
    def source(self) -> IndexSource:
        """How the process with the model opens it."""
        return IndexSource(self.folder, self.store.manifest.merkle_root, {**self.options, "partial": not self.sealed})

    @property
    def run_folder(self) -> Path:
        """Where its model is, or was."""
        return Path(self.options.get("run") or self.plan.run)

    def check(self, question: Question) -> None:
        """Refuse a question that the index shows to be impossible, before any process is started for it."""
        names = self.plan.label_names
        if not question.given:
            raise InputError("there is no text to explain: write one")
        for label in (question.label, question.against):
            if label and (names is None or label not in names):
                raise InputError(f"no class {label!r}{nearest(label, names or ())}")
        if question.label and question.label == question.against:
            raise InputError(f"{question.label!r} cannot be compared with itself: choose two classes")
        self.check_filters(question)

    def check_filters(self, question: Question) -> None:
        """Refuse a question that asks for training examples which the index does not have."""
        question.where.check(self.store)

    def warm(self) -> None:
        """Do what the first visitor of the table would wait for."""
        try:
            table = self.table
            _ = table.judged, table.coded, table.whole.lengths, table.whole.numbers
            _ = self.near_duplicates.ready
        except ProponentError:
            return  # its pages say so

    def _stamped(self) -> Stamp:
        try:
            found = (self.folder / "manifest.json").stat()
        except OSError:
            return (0, 0, _newest(self.folder))
        return (found.st_mtime_ns, found.st_size, found.st_ino)

    def _open(self, stamp: Stamp) -> _Opened | ProponentError:
        try:
            missing = bool(self.options.get("allow_missing"))
            return _Opened(Store(self.folder, partial=not self.sealed, allow_missing=missing), stamp)
        except ProponentError as error:
            return error


class OpenIndexes:
    """All indexes of an explorer; at least one."""

    def __init__(self, folders: Sequence[Path], options: Mapping[str, Any]) -> None:
        self.shown: dict[str, OpenIndex] = {}
        for folder in folders:
            name = _free(folder.name.removesuffix(".index") or "index", self.shown)
            self.shown[name] = OpenIndex(name, folder, options)

    @property
    def first(self) -> OpenIndex:
        """The one that is shown when none is named."""
        return next(iter(self.shown.values()))

    def get(self, name: str) -> OpenIndex:
        """Find an index."""
        if not name:
            return self.first
        if name not in self.shown:
            raise InputError(
                f"no index is called {name[:60]!r}{nearest(name[:60], self.shown)}: there are {', '.join(self.shown)}"
            )
        return self.shown[name]


def _free(name: str, taken: Mapping[str, object]) -> str:
    return next(one for one in (name, *(f"{name}-{number}" for number in range(2, 1000))) if one not in taken)


def _newest(folder: Path) -> int:
    """When a shard was last finished, in whole seconds: an unfinished index is reopened after that."""
    try:
        return int(max((one.stat().st_mtime for one in (folder / "forms").iterdir()), default=0.0))
    except OSError:
        return 0
