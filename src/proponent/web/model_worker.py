"""Explains new texts one at a time in a process with the model, and reports progress."""

import json
import secrets
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proponent.errors import InputError, ProponentError
from proponent.processes import Child, TimeoutExpired, start
from proponent.web.model_process import COMMAND
from proponent.web.states import Question

WAITING = 8
"""Maximum number of questions that wait for the current one."""

FINISHED = 64
"""Number of finished jobs whose result is remembered."""

IDLE_SECONDS = 900.0
"""Idle time after which the process with the model is ended."""

SILENT_SECONDS = 120.0
"""Time without a sign of life after which the process is ended: it is stopped, or hangs."""

LIMIT_SECONDS = 3600.0
"""Longest time for one question."""

LOOK_SECONDS = 0.2
"""Seconds between two looks at a running question."""

END_SECONDS = 20.0
"""Time that an idle process has to end by itself."""

CANCELLED = "the question was cancelled"

KeepAnswer = Callable[[Question, Mapping[str, Any], float], object]
"""Stores the process's answer to a question, with its duration in seconds."""


@dataclass(frozen=True)
class IndexSource:
    """The queried index, and the options of `proponent.open`; an unfinished index has no root."""

    index: Path
    root: str
    options: Mapping[str, Any]


@dataclass
class QuestionJob:
    """A waiting, running or finished question; state is "waiting", "running", "done" or "failed".

    `cancelled` says that somebody does not want the answer any more.
    """

    id: str
    question: Question
    source: IndexSource
    keep: KeepAnswer
    stage: str = "waiting"
    state: str = "waiting"
    error: str = ""
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    cancelled: bool = False

    @property
    def seconds(self) -> float:
        """Duration so far, or in total."""
        return (self.ended or time.monotonic()) - self.began


class ModelWorker:
    """Answers questions one after another in a process with the model, which ends when idle."""

    def __init__(self, command: tuple[str, ...] = COMMAND, idle_seconds: float = IDLE_SECONDS) -> None:
        self._command, self._idle = command, idle_seconds
        self._jobs: dict[str, QuestionJob] = {}
        self._changed = threading.Condition()
        self._process: Child | None = None
        self._thread: threading.Thread | None = None

    def ask(self, question: Question, source: IndexSource, keep: KeepAnswer) -> QuestionJob:
        """Put a question into the queue; identical questions share one job."""
        with self._changed:
            for job in self._in_state("waiting", "running"):
                if job.question == question and job.source.index == source.index:
                    return job
            if len(self._in_state("waiting")) >= WAITING:
                raise InputError(f"{WAITING} questions are already waiting: ask again when one of them is answered")
            job = QuestionJob(secrets.token_hex(8), question, source, keep)
            self._jobs[job.id] = job
            finished = [name for name, one in self._jobs.items() if one.state in {"done", "failed"}]
            for name in finished[:-FINISHED]:
                del self._jobs[name]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="asker")
                self._thread.start()
            self._changed.notify()
            return job

    def job(self, name: str) -> QuestionJob | None:
        """Find a job."""
        return self._jobs.get(name)

    def pending(self, question: Question, index: Path) -> QuestionJob | None:
        """Find a question that is not answered yet, or that failed."""
        for job in reversed(list(self._jobs.values())):
            if job.question == question and job.source.index == index:
                return None if job.state == "done" else job
        return None

    def cancel(self, name: str) -> None:
        """End a waiting or running question; of one that is finished nothing changes."""
        with self._changed:
            job = self._jobs.get(name)
            if job is None:
                return
            job.cancelled = True
            if job.state == "waiting":
                job.state, job.error, job.ended = "failed", CANCELLED, time.monotonic()

    def ahead(self, job: QuestionJob) -> int:
        """Count the questions in front of a job."""
        with self._changed:
            unfinished = self._in_state("waiting", "running")
        return unfinished.index(job) if job in unfinished else 0

    def close(self) -> None:
        """End the process; waiting questions stay unanswered."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def _in_state(self, *states: str) -> list[QuestionJob]:
        return [one for one in self._jobs.values() if one.state in states]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._in_state("waiting"), self._idle)
                job = next(iter(self._in_state("waiting")), None)
                if job is not None:
                    job.state, job.stage = "running", "starting"
            if job is None:
                self._end()
                continue
            state, problem = "failed", ""
            try:
                self._answer(job)
                state = "done"
            except ProponentError as error:
                problem = str(error)
            except Exception as error:
                problem = f"unexpected {type(error).__name__}: {error}"
            with self._changed:
                job.error, job.ended, job.state = problem, time.monotonic(), state

    def _answer(self, job: QuestionJob) -> None:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        watch = _Watch(process, job)
        with watch.watching():
            with suppress(BrokenPipeError):  # the process has exited: its output ends now, too
                process.stdin.write(json.dumps(_asked(job)) + "\n")
                process.stdin.flush()
            for line in process.stdout:
                watch.seen()
                reply: dict[str, Any] = json.loads(line)
                if "stage" in reply:
                    job.stage = str(reply["stage"])
                elif "error" in reply:
                    raise InputError(str(reply["error"]))
                elif "answer" in reply:
                    job.keep(job.question, reply, job.seconds)
                    return
        code = self._end()
        if watch.why:
            raise InputError(watch.why)
        why = "it was killed, possibly out of memory" if code == -9 else f"exit code {code}"
        raise InputError(f"the model process ended ({why}): ask again, or use a shorter text")

    def _started(self) -> Child:
        if self._process is None or self._process.poll() is not None:
            self._process = start(self._command)
        return self._process

    def _end(self) -> int:
        """End the process by closing its input, and by force if it does not end."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):  # unread input of the process
                    stream.close()
        try:
            return process.wait(timeout=END_SECONDS)
        except TimeoutExpired:  # it is stopped, or hangs
            process.kill()
            return process.wait()


class _Watch:
    """Ends the process of a question that is cancelled, gives no sign of life, or takes too long; says why."""

    def __init__(self, process: Child, job: QuestionJob) -> None:
        self._process, self._job, self._done = process, job, threading.Event()
        self._began = self._last = time.monotonic()
        self.why = ""

    def seen(self) -> None:
        """Note a sign of life."""
        self._last = time.monotonic()

    @contextmanager
    def watching(self) -> Generator[None]:
        """Watch, while a question is answered."""
        thread = threading.Thread(target=self._look, daemon=True, name="watch")
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _look(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            now = time.monotonic()
            if self._job.cancelled:
                self.why = CANCELLED
            elif now - self._last > SILENT_SECONDS:
                self.why = (
                    f"the model process gave no sign of life for {SILENT_SECONDS:.0f} seconds and was ended: it was "
                    "stopped, or this machine has too little memory; ask again"
                )
            elif now - self._began > LIMIT_SECONDS:
                self.why = (
                    f"the question took longer than {LIMIT_SECONDS / 60:.0f} minutes and was ended: ask about a "
                    "shorter text, or in a terminal with `proponent explain`"
                )
            else:
                continue
            self._process.kill()
            return


def _asked(job: QuestionJob) -> dict[str, Any]:
    return {
        "index": str(job.source.index),
        "root": job.source.root,
        "options": dict(job.source.options),
        "question": job.question.plain,
    }
