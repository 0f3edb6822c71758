"""Explains new texts one at a time in a process with the model, and reports progress.

Test sets are predicted and explained there, too, in blocks of rows: a question waits for one block at most.
"""

import json
import secrets
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from proponent.errors import InputError, ProponentError
from proponent.processes import Child, TimeoutExpired, start
from proponent.web.jobs import AnyJob, ExplainJob, IndexSource, KeepAnswer, QuestionJob, RowsJob, RowsTask
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

__all__ = ["ExplainJob", "IndexSource", "ModelWorker", "QuestionJob", "RowsJob"]

Queued = TypeVar("Queued", QuestionJob, ExplainJob, RowsJob)


class ModelWorker:
    """Answers questions one after another in a process with the model, which ends when idle."""

    def __init__(self, command: tuple[str, ...] = COMMAND, idle_seconds: float = IDLE_SECONDS) -> None:
        self._command, self._idle = command, idle_seconds
        self._jobs: dict[str, AnyJob] = {}
        self._changed = threading.Condition()
        self._process: Child | None = None
        self._thread: threading.Thread | None = None

    def ask(self, question: Question, source: IndexSource, keep: KeepAnswer) -> QuestionJob:
        """Put a question into the queue; identical questions share one job."""
        with self._changed:
            for job in self._questions("waiting", "running"):
                if job.question == question and job.source.index == source.index:
                    return job
            self._refuse_many()
            return self._queued(QuestionJob(secrets.token_hex(8), question, source, keep))

    def explain(self, asked: Mapping[str, Any], source: IndexSource) -> ExplainJob:
        """Put a question of a terminal into the queue."""
        with self._changed:
            self._refuse_many()
            return self._queued(ExplainJob(secrets.token_hex(8), asked, source))

    def wait(self, job: AnyJob, seconds: float) -> bool:
        """Wait for a job; whether it is done or failed."""
        with self._changed:
            return self._changed.wait_for(lambda: job.state in {"done", "failed"}, seconds)

    def withdraw(self, job: ExplainJob) -> None:
        """Drop a job that waits; one that runs is let be, so that the model stays loaded, and its answer dropped."""
        with self._changed:
            job.unwanted, job.reply = True, {}
            if job.state == "waiting":
                job.state, job.error, job.ended = "failed", CANCELLED, time.monotonic()

    def work(self, task: RowsTask, source: IndexSource, doing: str) -> RowsJob:
        """Put a task with the rows of a test set into the queue; identical tasks share one job."""
        with self._changed:
            running = self.rows_job(task.name, source.index)
            if running is not None and running.state in {"waiting", "running"}:
                return running
            if sum(isinstance(one, RowsJob) for one in self._in_state("waiting")) >= WAITING:
                raise InputError(f"{WAITING} test sets are already waiting: try again when one of them is done")
            return self._queued(RowsJob(secrets.token_hex(8), source, task, doing))

    def rows_job(self, name: str, index: Path) -> RowsJob | None:
        """Find the latest job of a task."""
        for job in reversed(list(self._jobs.values())):
            if isinstance(job, RowsJob) and job.task.name == name and job.source.index == index:
                return job
        return None

    def job(self, name: str) -> QuestionJob | None:
        """Find the job of a question."""
        found = self._jobs.get(name)
        return found if isinstance(found, QuestionJob) else None

    def pending(self, question: Question, index: Path) -> QuestionJob | None:
        """Find a question that is not answered yet, or that failed."""
        for job in reversed(self._questions("waiting", "running", "failed", "done")):
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
            unfinished = self._questions("waiting", "running")
        return unfinished.index(job) if job in unfinished else 0

    def close(self) -> None:
        """End the process; waiting questions stay unanswered."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def _refuse_many(self) -> None:
        if sum(not isinstance(one, RowsJob) for one in self._in_state("waiting")) >= WAITING:
            raise InputError(f"{WAITING} questions are already waiting: ask again when one of them is answered")

    def _queued(self, job: Queued) -> Queued:
        """Put a job into the queue; forget the oldest results."""
        self._jobs[job.id] = job
        finished = [name for name, one in self._jobs.items() if one.state in {"done", "failed"}]
        for name in finished[:-FINISHED]:
            del self._jobs[name]
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="asker")
            self._thread.start()
        self._changed.notify_all()
        return job

    def _in_state(self, *states: str) -> list[AnyJob]:
        return [one for one in self._jobs.values() if one.state in states]

    def _questions(self, *states: str) -> list[QuestionJob]:
        return [one for one in self._in_state(*states) if isinstance(one, QuestionJob)]

    def _next(self) -> AnyJob | None:
        """The first question that waits, else the first test set."""
        waiting = self._in_state("waiting")
        return next(iter(sorted(waiting, key=lambda one: isinstance(one, RowsJob))), None)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._in_state("waiting"), self._idle)
                job = self._next()
                if job is not None:
                    job.state, job.stage = "running", "starting"
            if job is None:
                self._end()
                continue
            state, problem = "failed", ""
            try:
                state = "done" if self._answer(job) else "waiting"
            except _QuestionError as error:
                problem, job.kind = str(error), error.kind
            except ProponentError as error:
                problem = str(error)
            except Exception as error:
                problem = f"unexpected {type(error).__name__}: {error}"
            with self._changed:
                if state == "waiting" and job.cancelled:
                    state, problem = "failed", CANCELLED
                job.error, job.state = problem, state
                job.ended = 0.0 if state == "waiting" else time.monotonic()
                self._changed.notify_all()

    def _answer(self, job: AnyJob) -> bool:
        """Send one request and take its reply; whether the job is done."""
        request = job.request
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        watch = _Watch(process, job)
        with watch.watching():
            with suppress(BrokenPipeError):  # the process has exited: its output ends now, too
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
            for line in process.stdout:
                watch.seen()
                reply: dict[str, Any] = json.loads(line)
                if "stage" in reply:
                    job.stage = str(reply["stage"])
                elif "error" in reply:
                    raise _QuestionError(str(reply["error"]), str(reply.get("kind", "")))
                elif "alive" not in reply:
                    return job.take(reply)
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


class _QuestionError(InputError):
    """What the process says about a question; the kind is that of the error there, empty if it was unexpected."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Watch:
    """Ends the process of a question that is cancelled, gives no sign of life, or takes too long; says why."""

    def __init__(self, process: Child, job: AnyJob) -> None:
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
