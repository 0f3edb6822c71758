"""Test sets: held in memory while the explorer runs; what the model predicts for them is stored next to the index."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
SetResults = TypeVar("SetResults", bound="TestSetResults")

MOST_ROWS = 200_000
"""Maximum rows of a test set."""

MOST_SETS = 4
"""Test sets that were sent by a browser and stay in memory; the oldest is dropped for a fifth."""

MOST_JUDGED = 16
"""Test sets, counted once for each index, whose predictions stay in memory."""

BLOCK_ROWS, BLOCK_CHARACTERS = 512, 1_000_000
"""Maximum rows and characters that the model's process is asked about at a time."""

LANGUAGE_LAYOUTS = ("text", "messages", "completion")
"""How the rows of a language model's test set may be laid out."""

NEITHER = (
    "Test sets are for classifiers with one label per text and for language models, and the model of this index is "
    "neither. Ask about one text at a time, or explain a file of them with `proponent report`."
)


def no_test_set(shown: OpenIndex) -> str:
    """Why an index takes no test set; empty if it takes one."""
    return "" if shown.classifier or shown.language else NEITHER


def reads(shown: OpenIndex, test_set: "OpenTestSet") -> bool:
    """Whether an index takes test sets with rows of this layout."""
    known = LANGUAGE_LAYOUTS if shown.language else ("text",) if shown.classifier else ()
    return test_set.rows.layout in known


def refuse_layout(shown: OpenIndex, test_set: "OpenTestSet") -> None:
    """Refuse a test set whose rows the model of an index does not read."""
    if not reads(shown, test_set):
        layout = test_set.rows.layout
        wanted = "messages, prompts with completions, or texts" if shown.language else "texts with labels"
        raise InputError(f"{test_set.name}: its rows are {layout}, and a test set of this model holds {wanted}")


def refuse_unread(every: Iterable[OpenIndex], test_set: "OpenTestSet") -> None:
    """Refuse a test set that none of some indexes reads; InputError of the first."""
    first: InputError | None = None
    for shown in every:
        if shown.building or no_test_set(shown):
            return  # its page says what is missing
        try:
            refuse_layout(shown, test_set)
        except InputError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


class OpenTestSet:
    """A test set, under its identity in URLs."""

    def __init__(self, rows: Examples, name: str = "") -> None:
        if len(rows) > MOST_ROWS:
            raise InputError(
                f"{name or rows.name}: a test set has at most {MOST_ROWS:,} rows, and this one has {len(rows):,}: "
                "give a part of it"
            )
        self.rows, self.name, self.id = rows, name or Path(rows.name).name, rows.fingerprint[:16]
        self.warnings = tuple(line.replace(rows.name, self.name) for line in rows.warnings)

    def __len__(self) -> int:
        return len(self.rows)

    def seconds(self, column: str) -> Sequence[str | None] | None:
        """Second texts of rows, or targets; None if no row has one."""
        found = self.rows.part(column)
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
        self._results: dict[tuple[type, str, str, str], Any] = {}

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

    def read_by(self, shown: OpenIndex) -> Mapping[str, OpenTestSet]:
        """The test sets that the model of an index reads, by identity."""
        return {name: one for name, one in self.shown.items() if reads(shown, one)}

    def get(self, identity: str, shown: OpenIndex) -> OpenTestSet | None:
        """Find a test set.

        Args:
            identity: its identity; empty for the first that the index reads.
            shown: an index.

        Returns:
            The test set; None for the first if there is none.

        Raises:
            InputError: the test set is not held any more.
        """
        every = self.shown
        if identity and identity not in every:
            raise InputError(
                "this test set is no longer open: choose its file again, or start with `proponent serve INDEX --test "
                "FILE`; what was predicted for it is stored, and not computed again"
            )
        return every[identity] if identity else next(iter(self.read_by(shown).values()), None)

    def judged(self, shown: OpenIndex, test_set: OpenTestSet) -> "JudgedTestSet":
        """A test set as an index of a classifier judges it."""
        return self.results(JudgedTestSet, shown, test_set)

    def results(self, kind: type[SetResults], shown: OpenIndex, test_set: OpenTestSet) -> SetResults:
        """What an index says of a test set; always the same object."""
        refuse_layout(shown, test_set)
        key = (kind, shown.name, shown.questions.root, test_set.id)
        with self._lock:
            if key not in self._results:
                kept = [*self._results.items()][-MOST_JUDGED + 1 :]
                self._results = dict([*kept, (key, kind(shown, test_set))])
            return self._results[key]


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
    roles = _LANGUAGE_ROLES if shown.language else _ROLES
    sources = shown.store.manifest.sources
    known = {name: value for name, value in (sources[0].columns if sources else {}).items() if name in roles}
    return Columns(**known, label="") if shown.language else Columns(**known, target="")


_ROLES = ("text", "text_pair", "label", "id")
_LANGUAGE_ROLES = ("text", "target", "messages", "id")


class TestSetResults:
    """What an index says of a test set: results that are stored next to it, and rows that are training rows."""

    def __init__(self, shown: OpenIndex, test_set: OpenTestSet) -> None:
        self.shown, self.test_set, self.lock = shown, test_set, RLock()
        self._results: dict[str, StoredResult[Any]] = {}

    def result(
        self, kind: str, identity: str, read_content: Callable[[Mapping[str, Any]], Result]
    ) -> StoredResult[Result]:
        """Where a result about the test set is stored; always the same object, which remembers what it read."""
        with self.lock:
            kept = self.shown.questions
            if kind not in self._results:
                self._results[kind] = StoredResult(kept.folder, kept.root, kind, identity, read_content)
            return self._results[kind]

    @Once
    def trained(self) -> Bool[np.ndarray, " n"]:
        """Which rows have the texts of a training example."""
        rows = self.test_set.rows
        return self.shown.table.whole.held(rows.texts, list(rows.part(self.second)), self.second)

    @property
    def second(self) -> str:
        """The column of second texts."""
        return "text_pair"

    @property
    def seconds(self) -> Sequence[str | None] | None:
        """Second texts; None if no row has one."""
        return self.test_set.seconds(self.second)


class JudgedTestSet(TestSetResults):
    """A test set and an index of a classifier: true classes and predictions."""

    def __init__(self, shown: OpenIndex, test_set: OpenTestSet) -> None:
        super().__init__(shown, test_set)
        self.stored = self.result("predictions", test_set.id, self._read)

    @property
    def classes(self) -> Labels:
        """The classes of the model."""
        return self.shown.plan.labels

    @Once
    def truth(self) -> Truth:
        """The labels of the rows as classes of the model."""
        return Truth.of(self.test_set.rows.labels, self.classes)

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
