"""Takes questions of `proponent explain` while the explorer runs, from processes of the same user alone.

They come over a socket of the file system in a folder that only this user can enter (`local_sockets.py`): no page of a
browser reaches it, and no token is written to a file. A question goes to the process with the model, as those of the
pages do, and nothing is stored.
"""

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from proponent import disk
from proponent.errors import InputError, ProponentError
from proponent.local_sockets import LineError, Lines, is_own, listen
from proponent.notices import say_once
from proponent.web.jobs import ExplainJob
from proponent.web.model_worker import ModelWorker
from proponent.web.open_indexes import OpenIndex, OpenIndexes
from proponent.web.running import facts

MOST_CONNECTIONS = 16
MOST_REQUEST = 4 * 2**20
"""Maximum bytes of a question."""

READ_SECONDS = 10.0
BEAT_SECONDS = 1.0
"""Seconds between two signs of life, while a question is answered."""

PAUSE_SECONDS = 0.5
"""Seconds after a connection that could not be taken."""

Reply = dict[str, Any]


class TerminalQuestions:
    """Listens for each index of an explorer, until it is closed."""

    def __init__(self, open_indexes: OpenIndexes, asker: ModelWorker) -> None:
        self._open_indexes, self._asker = open_indexes, asker
        self._listening: list[tuple[socket.socket, Path, tuple[int, int]]] = []
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._closed = False

    def start(self) -> None:
        """Listen; where that is impossible, `explain` goes on to work alone."""
        for name, shown in self._open_indexes.shown.items():
            try:
                made = listen(shown.folder)
            except (OSError, ProponentError) as error:
                say_once(f"`proponent explain` cannot use this explorer, and loads the model itself: {error}")
                return
            if made is None:
                return
            bound, path = made
            found = path.stat()
            self._listening.append((bound, path, (found.st_dev, found.st_ino)))
            threading.Thread(target=self._accept, args=(bound, name), daemon=True, name="terminal").start()

    def close(self) -> None:
        """Stop listening, and remove the sockets."""
        self._closed = True
        for bound, path, identity in self._listening:
            with suppress(OSError):
                found = path.stat()
                if (found.st_dev, found.st_ino) == identity:
                    disk.remove(path)
            with suppress(OSError):
                bound.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits
            bound.close()

    def _accept(self, bound: socket.socket, name: str) -> None:
        while not self._closed:
            try:
                connection, _ = bound.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(PAUSE_SECONDS)  # such as too many open files: the next attempt would fail at once
                continue
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(connection, name), daemon=True, name="terminal").start()
            except RuntimeError:  # no more threads
                self._places.release()
                connection.close()

    def _serve(self, connection: socket.socket, name: str) -> None:
        """Answer one question."""
        try:
            with connection, suppress(OSError, LineError):
                if is_own(connection):
                    self._answer(Lines(connection, MOST_REQUEST), Lines(connection), name)
        finally:
            self._places.release()

    def _answer(self, asked: Lines, told: Lines, name: str) -> None:
        hello = asked.receive(READ_SECONDS)
        shown = self._open_indexes.get(name)
        refused = _refused(hello.get("hello"), facts(shown.options, shown.stamp))
        told.send({"refused": refused} if refused else {"ready": True}, READ_SECONDS)
        if refused:
            return
        request = asked.receive(READ_SECONDS)
        try:
            reply = self._reply(request, shown, told)
        except InputError as error:
            reply = {"error": str(error), "kind": type(error).__name__}
        except ProponentError:
            reply = {"refused": "the running `proponent serve` cannot read the index"}
        if self._open_indexes.get(name).stamp != shown.stamp:
            reply = {"refused": "the index changed while the running `proponent serve` answered"}
        told.send(reply, READ_SECONDS)

    def _reply(self, request: Mapping[str, Any], shown: OpenIndex, told: Lines) -> Reply:
        if "names" in request:
            return {"names": shown.plan.label_names}
        if "label" in request:
            shown.plan.labels.number(request["label"])
            return {}
        return self._explained(request.get("question"), shown, told)

    def _explained(self, question: object, shown: OpenIndex, told: Lines) -> Reply:
        if not isinstance(question, dict):
            return {"refused": "this is no question"}
        try:
            job = self._asker.explain(cast("Mapping[str, Any]", question), shown.source)
        except InputError as error:  # too many wait
            return {"refused": f"the running `proponent serve` is busy: {error}"}
        try:
            while not self._asker.wait(job, BEAT_SECONDS):
                told.send({"alive": True}, READ_SECONDS)
        except (OSError, LineError):
            self._asker.withdraw(job)
            raise
        return _result(job)


def _result(job: ExplainJob) -> Reply:
    if job.state == "done":
        found, job.reply = job.reply, {}  # an answer may be large, and jobs are remembered
        return found
    if job.kind:
        return {"error": job.error, "kind": job.kind}
    return {"refused": f"the running `proponent serve` did not answer ({job.error})"}


def _refused(theirs: object, ours: Mapping[str, Any]) -> str:
    """Why a process would answer otherwise than this one; empty if it would not."""
    if theirs == ours:
        return ""
    known: Mapping[str, Any] = cast("Mapping[str, Any]", theirs) if isinstance(theirs, dict) else {}
    other = [name for name, value in ours.items() if name not in known or known[name] != value]
    return f"the running `proponent serve` has another {' and another '.join(other) or 'version of the program'}"
