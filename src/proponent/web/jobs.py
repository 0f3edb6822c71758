"""Work for the process with the model: one question of a page or a terminal, or the rows of a test set in blocks."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proponent.web.states import Question

KeepAnswer = Callable[[Question, Mapping[str, Any], float], object]
"""Stores the process's answer to a question, with its duration in seconds."""


@dataclass(frozen=True)
class IndexSource:
    """The queried index, and the options of `proponent.open`; an unfinished index has no root."""

    index: Path
    root: str
    options: Mapping[str, Any]

    @property
    def opening(self) -> dict[str, Any]:
        """What the process opens, as JSON."""
        return {"index": str(self.index), "root": self.root, "options": dict(self.options)}


@dataclass(kw_only=True)
class Job:
    """Waiting, running or finished work; state is "waiting", "running", "done" or "failed".

    `cancelled` says that somebody does not want the result any more.
    """

    stage: str = "waiting"
    state: str = "waiting"
    error: str = ""
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    cancelled: bool = False
    kind: str = ""  # name of the error, if the question is at fault

    @property
    def seconds(self) -> float:
        """Duration so far, or in total."""
        return (self.ended or time.monotonic()) - self.began


@dataclass
class QuestionJob(Job):
    """One question."""

    id: str
    question: Question
    source: IndexSource
    keep: KeepAnswer

    @property
    def request(self) -> dict[str, Any]:
        """What the process is asked."""
        return {**self.source.opening, "question": self.question.plain}

    def take(self, reply: Mapping[str, Any]) -> bool:
        """Take the process's reply; whether the job is done."""
        self.keep(self.question, reply, self.seconds)
        return True


@dataclass
class ExplainJob(Job):
    """One question of a terminal: arguments of `Index.explain` as JSON; its answer is stored nowhere."""

    id: str
    asked: Mapping[str, Any]
    source: IndexSource
    reply: dict[str, Any] = field(default_factory=dict[str, Any])
    unwanted: bool = False  # whoever asked is gone

    @property
    def request(self) -> dict[str, Any]:
        """What the process is asked."""
        return {**self.source.opening, "explain": dict(self.asked)}

    def take(self, reply: Mapping[str, Any]) -> bool:
        """Take the process's reply; whether the job is done."""
        self.reply = {} if self.unwanted else dict(reply)
        return True


class RowsTask(ABC):
    """What is done with the rows of a test set.

    Attributes:
        name: names the task; the same task for the same rows has the same name.
        total: number of rows.
    """

    name: str
    total: int

    @abstractmethod
    def request(self, start: int) -> tuple[dict[str, Any], int]:
        """What the process is asked about the rows from one on, and how many they are."""

    @abstractmethod
    def take(self, start: int, reply: Mapping[str, Any]) -> None:
        """Take the process's reply to the request that began at a row."""

    @abstractmethod
    def finish(self, seconds: float) -> None:
        """Store the result."""


@dataclass
class RowsJob(Job):
    """A task with the rows of a test set, block by block; questions are answered between two blocks."""

    id: str
    source: IndexSource
    task: RowsTask
    doing: str
    done: int = 0
    asked: int = 0

    @property
    def request(self) -> dict[str, Any]:
        """What the process is asked next."""
        asked, self.asked = self.task.request(self.done)
        return {**self.source.opening, **asked}

    def take(self, reply: Mapping[str, Any]) -> bool:
        """Take the reply to a block; whether the job is done."""
        self.task.take(self.done, reply)
        self.done += self.asked
        if self.done < self.task.total:
            return False
        self.task.finish(self.seconds)
        return True

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        return f"{self.doing}: {self.done:,} of {self.task.total:,} rows"


AnyJob = QuestionJob | ExplainJob | RowsJob
