"""Test sets: held in memory while the explorer runs; what the model predicts for them is stored next to the index."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool

from proponent.data import Columns, Examples, read
from proponent.errors import DataError, InputError
from proponent.labels import Labels
from proponent.predictions import Predictions, Truth
from proponent.web.jobs import RowsTask
from proponent.web.open_indexes import OpenIndex
from proponent.web.stored_results import StoredResult
from proponent.web.table import Once

Result = TypeVar("Result")

MOST_ROWS = 200_000
"""Maximum rows of a test set."""

MOST_SETS = 4
"""Test sets that were sent by a browser and stay in memory; the oldest is dropped for a fifth."""

MOST_JUDGED = 16
"""Test sets, counted once for each index, whose predictions stay in memory."""

BLOCK_ROWS, BLOCK_CHARACTERS = 512, 1_000_000
"""Maximum rows and characters that the model's process is asked about at a time."""

NOT_A_CLASSIFIER = (
    "Test sets are for classifiers with one label per text, and the model of this index is none: its answers are not "
    "right or wrong by a label. "
)
LANGUAGE_MODEL = (
    "Missing here is a list of the rows of a file by their loss. What there is: Ask explains one answer, and "
    "`proponent report INDEX FILE --out page.html` explains every row of a file (messages, prompt and completion, or "
    "text), each with its loss."
)
OTHER_MODEL = "Ask about one text at a time, or explain a file of them with `proponent report`."


def no_test_set(shown: OpenIndex) -> str:
    """Why an index whose model is no classifier takes no test set, and what to do instead."""
    return NOT_A_CLASSIFIER + (LANGUAGE_MODEL if shown.language else OTHER_MODEL)


class OpenTestSet:
    """A test set, under its identity in URLs."""

    def __init__(self, rows: Examples, name: str = "") -> None:
        if len(rows) > MOST_ROWS:
            raise InputError(
                f"{name or rows.name}: a test set has at most {MOST_ROWS:,} rows, and this one has {len(rows):,}: "
                "give a part of it"
            )
        if rows.layout != "text":
            raise InputError(f"{name or rows.name}: its rows are {rows.layout}, and a test set holds texts with labels")
        self.rows, self.name, self.id = rows, name or Path(rows.name).name, rows.fingerprint[:16]
        self.warnings = tuple(line.replace(rows.name, self.name) for line in rows.warnings)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def pairs(self) -> Sequence[str | None] | None:
        """Second texts; None if no row has one."""
        found = self.rows.part("text_pair")
        return found if any(one is not None for one in found) else None

    def asked(self, start: int) -> list[dict[str, Any]]:
        """A block of rows from one on, as queries without their labels."""
        found: list[dict[str, Any]] = []
        size = 0
        for one in self.rows[start : start + BLOCK_ROWS]:
            size += sum(map(len, one.parts))
            if found and size > BLOCK_CHARACTERS:
                break
            query = {"id": one.id, "text": one.text, "text_pair": one.text_pair}
            found.append({name: value for name, value in query.items() if value is not None})
        return found


class OpenTestSets:
    """The test sets of an explorer: those of the command, and the last ones that a browser sent."""

    def __init__(self, given: Sequence[OpenTestSet] = ()) -> None:
        self._lock = RLock()
        self._given = {one.id: one for one in given}
        self._sent: dict[str, OpenTestSet] = {}
        self._judged: dict[tuple[str, str, str], JudgedTestSet] = {}

    @property
    def shown(self) -> Mapping[str, OpenTestSet]:
        """All test sets, by identity; those of the command first."""
        with self._lock:
            return self._given | self._sent

    def add(self, one: OpenTestSet) -> None:
        """Keep a test set that a browser sent."""
        with self._lock:
            if one.id not in self._given:
                self._sent.pop(one.id, None)
                self._sent = dict([*self._sent.items(), (one.id, one)][-MOST_SETS:])

    def get(self, identity: str) -> OpenTestSet | None:
        """Find a test set.

        Args:
            identity: its identity; empty for the first.

        Returns:
            The test set; None for the first if there is none.

        Raises:
            InputError: the test set is not held any more.
        """
        shown = self.shown
        if identity and identity not in shown:
            raise InputError(
                "this test set is no longer open: choose its file again, or start with `proponent serve INDEX --test "
                "FILE`; what was predicted for it is stored, and not computed again"
            )
        return shown[identity] if identity else next(iter(shown.values()), None)

    def judged(self, shown: OpenIndex, test_set: OpenTestSet) -> "JudgedTestSet":
        """A test set as an index judges it."""
        key = (shown.name, shown.questions.root, test_set.id)
        with self._lock:
            if key not in self._judged:
                kept = [*self._judged.items()][-MOST_JUDGED + 1 :]
                self._judged = dict([*kept, (key, JudgedTestSet(shown, test_set))])
            return self._judged[key]


def read_test_set(path: Path, name: str, columns: Columns) -> OpenTestSet:
    """Read a test set that a browser sent.

    Args:
        path: the temporary file.
        name: its name, for messages.
        columns: names of its columns.

    Returns:
        The test set.

    Raises:
        DataError: it is no data set that can be read; the message has its name and not that of the temporary file.
    """
    try:
        return OpenTestSet(read(path, columns=columns), name)
    except InputError as error:
        told = str(error).replace(f"{path}", name).replace(path.name, name)
        raise DataError(told) from error


def columns_of(shown: OpenIndex) -> Columns:
    """The columns that an index was built with, which its test sets probably have, too."""
    sources = shown.store.manifest.sources
    known = {name: value for name, value in (sources[0].columns if sources else {}).items() if name in _ROLES}
    return Columns(**known, target="")


_ROLES = ("text", "text_pair", "label", "id")


class JudgedTestSet:
    """A test set and an index: true classes, predictions, and rows that are training rows."""

    def __init__(self, shown: OpenIndex, test_set: OpenTestSet) -> None:
        self.shown, self.test_set, self.lock = shown, test_set, RLock()
        self._results: dict[str, StoredResult[Any]] = {}
        self.stored = self.result("predictions", test_set.id, self._read)

    def result(
        self, kind: str, identity: str, read_content: Callable[[Mapping[str, Any]], Result]
    ) -> StoredResult[Result]:
        """Where a result about the test set is stored; always the same object, which remembers what it read."""
        with self.lock:
            kept = self.shown.questions
            if kind not in self._results:
                self._results[kind] = StoredResult(kept.folder, kept.root, kind, identity, read_content)
            return self._results[kind]

    @property
    def classes(self) -> Labels:
        """The classes of the model."""
        return self.shown.plan.labels

    @Once
    def truth(self) -> Truth:
        """The labels of the rows as classes of the model."""
        return Truth.of(self.test_set.rows.labels, self.classes)

    @Once
    def trained(self) -> Bool[np.ndarray, " n"]:
        """Which rows have the texts of a training example."""
        return self.shown.table.whole.held(self.test_set.rows.texts, self.test_set.pairs)

    @property
    def predictions(self) -> Predictions | None:
        """What the model predicts; None if it was not asked yet."""
        return self.stored.get()

    def _read(self, content: Mapping[str, Any]) -> Predictions:
        predicted = np.asarray(content["predicted"], dtype=np.int64)
        chances = np.asarray(content["chances"], dtype=np.float64)
        if content["names"] != list(self.classes) or len(predicted) != len(self.test_set):
            raise ValueError("predictions of other classes or rows")
        return Predictions(tuple(self.classes), predicted, chances, self.truth.classes)


class PredictTask(RowsTask):
    """Predicts a test set in the process with the model."""

    def __init__(self, judged: JudgedTestSet) -> None:
        self.judged, self.name = judged, f"predictions {judged.test_set.id}"
        self.total = len(judged.test_set)
        self._predicted: list[int] = []
        self._chances: list[float] = []

    def request(self, start: int) -> tuple[dict[str, Any], int]:
        """The texts of a block."""
        rows = self.judged.test_set.asked(start)
        return {"rows": rows}, len(rows)

    def take(self, start: int, reply: Mapping[str, Any]) -> None:
        """Keep the predictions of a block."""
        self._predicted[start:] = map(int, reply["predicted"])
        self._chances[start:] = map(float, reply["chances"])

    def finish(self, seconds: float) -> None:
        """Store all predictions."""
        content = {"names": list(self.judged.classes), "predicted": self._predicted, "chances": self._chances}
        self.judged.stored.put(content | {"seconds": seconds})
