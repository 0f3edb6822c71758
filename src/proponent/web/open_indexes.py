"""The indexes that one explorer shows: opened when they are first looked at, opened anew when they change."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import Any

from proponent.actions.decisions import Decisions
from proponent.errors import InputError, ProponentError
from proponent.search import Where
from proponent.store import Plan, Store
from proponent.suggest import nearest
from proponent.web.model_worker import IndexSource
from proponent.web.near_duplicates import NearDuplicates
from proponent.web.questions import Question, Questions
from proponent.web.table import ExampleTable

Stamp = tuple[int, int, int] | None


class OpenIndex:
    """One index of the explorer.

    Args:
        name: by which URLs know it.
        folder: where it is.
        options: of `proponent.open`.
    """

    def __init__(self, name: str, folder: Path, options: Mapping[str, Any]) -> None:
        self.name, self.folder, self.options = name, folder, options
        self._lock = RLock()
        self._stamp: Stamp = None
        self._store: Store | None = None
        self._problem: ProponentError | None = None
        self._table: ExampleTable | None = None
        self._near_duplicates: NearDuplicates | None = None
        self._decisions: Decisions | None = None
        self._questions: Questions | None = None
        self._sources: list[str] | None = None

    @property
    def store(self) -> Store:
        """The open index."""
        with self._lock:
            stamp = self._stamped()
            if stamp != self._stamp:
                self._stamp = stamp
                self._open()
            if self._problem is not None:
                raise self._problem
            assert self._store is not None
            return self._store

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
        with self._lock:
            store = self.store
            if self._sources is None:
                counts = Counter[str]()
                for segment in store.segments:
                    counts.update(segment.examples.counts("source"))
                self._sources = sorted((one for one in counts if one), key=lambda one: (-counts[one], one))
            return self._sources

    @property
    def table(self) -> ExampleTable:
        """Its examples."""
        with self._lock:
            store = self.store
            if self._table is None:
                self._table = ExampleTable(store)
            return self._table

    @property
    def near_duplicates(self) -> NearDuplicates:
        """Its examples by their words."""
        with self._lock:
            table = self.table
            if self._near_duplicates is None:
                self._near_duplicates = NearDuplicates(table.whole)
            return self._near_duplicates

    @property
    def decisions(self) -> Decisions:
        """What was decided about its examples."""
        with self._lock:
            store = self.store
            if self._decisions is None:
                self._decisions = Decisions.of(store)
            return self._decisions

    @property
    def questions(self) -> Questions:
        """What it was asked."""
        with self._lock:
            store = self.store
            if self._questions is None:
                self._questions = Questions(self.folder, store.manifest.merkle_root or f"unfinished {self._stamp}")
            return self._questions

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
        if not (question.text + question.pair + question.target).strip():
            raise InputError("there is no text to explain: write one")
        for label in (question.label, question.against):
            if label and (names is None or label not in names):
                raise InputError(f"no class {label!r}{nearest(label, names or ())}")
        if question.label and question.label == question.against:
            raise InputError(f"{question.label!r} cannot be compared with itself: choose two classes")
        self.check_filters(question)

    def check_filters(self, question: Question) -> None:
        """Refuse a question that asks for training examples which the index does not have."""
        Where(question.only_label or None, question.only_source or None).check(self.store)

    def warm(self) -> None:
        """Do what the first visitor of the table would wait for."""
        try:
            table = self.table
            _ = table.judged, table.coded, table.whole.lengths, table.whole.numbers
            _ = self.near_duplicates.ready
        except ProponentError:
            return  # its pages say so

    def _stamped(self) -> Stamp:
        path = self.folder / "manifest.json"
        try:
            found = path.stat()
        except OSError:
            return (0, 0, _newest(self.folder))
        return (found.st_mtime_ns, found.st_size, found.st_ino)

    def _open(self) -> None:
        self._store = self._problem = self._table = self._near_duplicates = None
        self._decisions = self._questions = self._sources = None
        try:
            self._store = Store(
                self.folder, partial=not self.sealed, allow_missing=bool(self.options.get("allow_missing"))
            )
        except ProponentError as error:
            self._problem = error


class OpenIndexes:
    """All indexes of an explorer.

    Args:
        folders: where they are; at least one.
        options: of `proponent.open`, for all of them.
    """

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
    """When a shard was last finished, in whole seconds: an unfinished index is opened anew after that."""
    try:
        return int(max((one.stat().st_mtime for one in (folder / "forms").iterdir()), default=0.0))
    except OSError:
        return 0
