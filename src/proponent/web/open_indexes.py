"""The indexes of an explorer: opened on first use, reopened after changes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, RLock
from typing import Any

from proponent.actions import action
from proponent.actions.decisions import Decisions
from proponent.errors import InputError, ProponentError
from proponent.method import Baseline
from proponent.store import Plan, Store, beside
from proponent.suggest import nearest
from proponent.types import Conversation
from proponent.views import Page
from proponent.web.conversation import refuse_empty, turns_of
from proponent.web.model_worker import IndexSource
from proponent.web.questions import Questions
from proponent.web.states import Question
from proponent.web.table import ExampleTable, NearDuplicates, Once


class OpenIndex:
    """An index at one point in time, under its name in URLs; `options` are those of `proponent.open`."""

    def __init__(self, name: str, folder: Path, options: Mapping[str, Any]) -> None:
        self.name, self.folder, self.options = name, folder, options
        self.lock, self.stamp = RLock(), _stamp(folder)
        self.sealed = self.stamp[:2] != (0, 0)
        self._reports: dict[str, Page] = {}
        self._reporting = Lock()  # its own: other pages do not wait for a report

    @property
    def building(self) -> bool:
        """Whether its build has started but not finished."""
        return not self.sealed and (self.folder / "plan.json").is_file()

    @Once
    def readable(self) -> bool:
        """Whether there is anything to show: an index at its beginning has no shard yet."""
        try:
            return self.store.n > 0
        except ProponentError:
            return False

    @Once
    def store(self) -> Store:
        """The open index."""
        return Store(self.folder, partial=not self.sealed, allow_missing=bool(self.options.get("allow_missing")))

    @property
    def plan(self) -> Plan:
        """Its plan: method, checkpoints, data."""
        return self.store.plan

    @property
    def paired(self) -> bool:
        """Whether its examples are pairs of texts."""
        return any(segment.examples.has("text_pair") for segment in self.store.segments)

    @Once
    def chat(self) -> bool:
        """Whether its examples are conversations."""
        return self.store.n > 0 and isinstance(self.store.example(0).content, Conversation)

    @property
    def language(self) -> bool:
        """Whether its model is a language model: tokens count, and a piece of them may."""
        return self.plan.predicted in {"tokens", "next tokens"}

    @property
    def classifier(self) -> bool:
        """Whether its model predicts one class of each text."""
        return self.plan.label_names is not None

    @property
    def contrasts(self) -> bool:
        """Whether its method can compare a class with a second one."""
        return not isinstance(self.plan.term, Baseline)

    @property
    def missing(self) -> str:
        """Why new texts cannot be asked; empty if they can."""
        if self.run_folder.exists():
            return ""
        return (
            f"New texts cannot be asked: model folder {self.run_folder} is missing. Stored answers and all other pages "
            "work. If the folder has moved, start again with --run FOLDER."
        )

    @property
    def writes(self) -> bool:
        """Whether its model can write an answer."""
        return self.plan.predicted == "next tokens"

    @Once
    def sources(self) -> list[str]:
        """Its sources, the most frequent first."""
        counts = Counter[str]()
        for segment in self.store.segments:
            counts.update(segment.examples.counts("source"))
        return sorted(filter(None, counts), key=lambda name: (-counts[name], name))

    @Once
    def table(self) -> ExampleTable:
        """Table of its examples."""
        return ExampleTable(self.store)

    @Once
    def near_duplicates(self) -> NearDuplicates:
        """Near-duplicates among its examples."""
        return NearDuplicates(self.table.whole)

    @Once
    def decisions(self) -> Decisions:
        """The decisions about its examples."""
        return Decisions.of(self.store)

    @Once
    def questions(self) -> Questions:
        """The stored questions of this index."""
        return Questions(beside(self.folder), self.store.manifest.merkle_root or f"unfinished {self.stamp}")

    def report(self, name: str) -> Page:
        """The report of an action, computed at the first view."""
        with self._reporting:
            if name not in self._reports:
                self._reports[name] = action(name).report(self.store)
            return self._reports[name]

    @property
    def source(self) -> IndexSource:
        """How the process with the model opens it."""
        return IndexSource(self.folder, self.store.manifest.merkle_root, {**self.options, "partial": not self.sealed})

    @property
    def run_folder(self) -> Path:
        """Folder of the run, current or former."""
        return Path(self.options.get("run") or self.plan.run)

    def check(self, question: Question) -> None:
        """Refuse a question that is invalid for the index, before any process is started for it."""
        names = self.plan.label_names
        if not question.given:
            raise InputError("there is no text to explain: enter a text")
        self._check_answer(question)
        for label in (question.label, question.against):
            if label and (names is None or label not in names):
                raise InputError(f"unknown class {label!r}{nearest(label, names or ())}")
        if question.label and question.label == question.against:
            raise InputError(f"{question.label!r} cannot be compared with itself: choose two classes")
        self.check_filters(question)

    def _check_answer(self, question: Question) -> None:
        """Refuse turns, answers and spans that do not fit together."""
        if question.messages:
            if question.text:
                raise InputError("a text and messages are both given: leave one of them out")
            refuse_empty(turns_of(question.messages))
        if question.generate and question.answer:
            raise InputError("there is an answer already: empty that field to let the model answer, or press Ask")
        if self.chat and not question.answer and not question.generate:
            raise InputError("there is no answer to explain: enter it, or let the model answer")
        if question.answer and not question.answer.strip():
            raise InputError("the answer is empty: enter it, or let the model answer")
        counted = question.answer or ("" if question.generate else question.text)
        if question.span and counted and question.span not in counted:
            raise InputError(f"the span {question.span[:60]!r} does not stand in the answer: choose a piece of it")

    def check_filters(self, question: Question) -> None:
        """Refuse filters for training examples that the index does not have."""
        question.where.check(self.store)

    def warm(self) -> None:
        """Prepare what the first visitor of the table would wait for."""
        with suppress(ProponentError):  # its pages show the error
            table = self.table
            _ = table.judged, table.coded, table.whole.lengths, table.whole.numbers, self.near_duplicates.ready


class OpenIndexes:
    """All indexes of an explorer; at least one. An index with changed files is reopened."""

    def __init__(self, folders: Sequence[Path], options: Mapping[str, Any]) -> None:
        self._lock = Lock()
        self._open: dict[str, OpenIndex] = {}
        for folder in folders:
            name = _free(folder.name.removesuffix(".index") or "index", self._open)
            self._open[name] = OpenIndex(name, folder, options)

    @property
    def shown(self) -> Mapping[str, OpenIndex]:
        """The current indexes, by name."""
        with self._lock:
            for name, one in self._open.items():
                if one.stamp != _stamp(one.folder):
                    self._open[name] = OpenIndex(name, one.folder, one.options)
            return dict(self._open)

    @property
    def first(self) -> OpenIndex:
        """The index shown when no name is given."""
        return self.get("")

    def get(self, name: str) -> OpenIndex:
        """Find an index; the first for an empty name."""
        shown = self.shown
        if name and name not in shown:
            raise InputError(f"unknown index {name[:60]!r}{nearest(name[:60], shown)}; indexes: {', '.join(shown)}")
        return shown[name] if name else next(iter(shown.values()))


def _free(name: str, taken: Mapping[str, object]) -> str:
    return next(one for one in (name, *(f"{name}-{number}" for number in range(2, 1000))) if one not in taken)


def _stamp(folder: Path) -> tuple[int, int, int]:
    """A value that changes with the files; for an unfinished index, after every finished shard (in whole seconds)."""
    with suppress(OSError):
        found = (folder / "manifest.json").stat()
        return found.st_mtime_ns, found.st_size, found.st_ino
    with suppress(OSError):
        return 0, 0, int(max((one.stat().st_mtime for one in (folder / "forms").iterdir()), default=0.0))
    return 0, 0, 0
