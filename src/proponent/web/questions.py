"""Questions that were asked of an index, with their answers: kept in a folder beside it, to come back at once.

One JSON file per answer, named by a hash of the question and of what the index held, and one line per answer in a list
that is only ever added to. Both are data for other tools too; everything here can be deleted at any time.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from proponent import disk, json_log
from proponent.errors import DataError
from proponent.views import Explanation

SUFFIX = ".asked"
LIST = "questions.jsonl"
FILTERS = ("only_label", "only_source")
HELD = 256
"""Answers that stay in memory."""


@dataclass(frozen=True)
class Question:
    """What is asked; empty texts mean: not given.

    Attributes:
        text: the text, the first text of a pair, or the prompt.
        pair: the second text.
        target: the part that counts.
        label: the class to explain; empty for the predicted one.
        against: the class that it is compared with.
        k: hits on each side.
        only_label: labels of the training examples that may be found; none for all.
        only_source: their sources; none for all.
    """

    text: str
    pair: str = ""
    target: str = ""
    label: str = ""
    against: str = ""
    k: int = 10
    only_label: tuple[str, ...] = ()
    only_source: tuple[str, ...] = ()

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Question":
        """Read a question back from JSON, which has lists and no tuples."""
        read: dict[str, Any] = {**content}
        for name in FILTERS:
            read[name] = tuple(read.get(name, ()))
        return cls(**read)

    @property
    def plain(self) -> dict[str, Any]:
        """Value by name, for JSON; filters only where there are some, so that questions without keep their names."""
        return {name: value for name, value in asdict(self).items() if value != ()}

    @property
    def filters(self) -> str:
        """Which training examples may be found, in words; empty for all."""
        parts = (("label", self.only_label), ("source", self.only_source))
        return " and ".join(f"{name} {' or '.join(values)}" for name, values in parts if values)


@dataclass(frozen=True)
class GroupScores:
    """What the training examples with one value of a column did together.

    Attributes:
        name: the value; empty for none.
        n: examples.
        helped: sum of the scores above zero.
        hurt: sum of the scores below zero.
    """

    name: str
    n: int
    proponents: float
    opponents: float


@dataclass(frozen=True)
class StoredAnswer:
    """An answer with what belongs to it.

    Attributes:
        id: of the question.
        question: what was asked.
        answer: what came.
        when: UTC, to the second.
        groups: sums over all training examples, by column ("label", "source").
        seconds: what it took.
    """

    id: str
    question: Question
    answer: Explanation
    when: str
    groups: Mapping[str, tuple[GroupScores, ...]] = field(default_factory=dict[str, tuple[GroupScores, ...]])
    seconds: float = 0.0


@dataclass(frozen=True)
class Summary:
    """A line of the list: enough to find a question, and to say what an example did to it.

    Attributes:
        id: of the question.
        question: what was asked.
        predicted: class that the model predicted.
        explained: class that was explained.
        when: UTC, to the second.
        hits: id of a training example to (rank, score).
    """

    id: str
    question: Question
    predicted: str | None
    explained: str | None
    when: str
    hits: Mapping[str, tuple[int, float]]


class Questions:
    """The questions that were asked of one index.

    Args:
        index: folder of the index; the questions lie beside it.
        root: what the index holds (its Merkle root): an answer counts for nothing else.
    """

    def __init__(self, index: Path, root: str) -> None:
        self.folder = index.with_name(index.name + SUFFIX)
        self._root = root
        self._seen: tuple[int, int] = (-1, -1)
        self._list: dict[str, Summary] = {}
        self._held: OrderedDict[str, StoredAnswer] = OrderedDict()

    def identity(self, question: Question) -> str:
        """Name a question."""
        spelled = json.dumps([self._root, question.plain], sort_keys=True)
        return hashlib.sha256(spelled.encode()).hexdigest()[:20]

    def get(self, question: Question) -> StoredAnswer | None:
        """Look an answer up."""
        name = self.identity(question)
        if name in self._held:
            self._held.move_to_end(name)
            return self._held[name]
        try:
            kept = _kept(name, json.loads((self.folder / f"{name}.json").read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, DataError):
            return None  # not there, or not whole: it is asked again and written anew
        return self._hold(kept) if kept.question == question else None

    def put(
        self,
        question: Question,
        answer: Explanation,
        groups: Mapping[str, tuple[GroupScores, ...]],
        seconds: float = 0.0,
    ) -> StoredAnswer:
        """Keep an answer."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        kept = StoredAnswer(self.identity(question), question, answer, when, dict(groups), seconds)
        content = {
            "question": question.plain,
            "when": when,
            "seconds": seconds,
            "n_examples": answer.n_examples,
            "groups": {name: [asdict(one) for one in some] for name, some in groups.items()},
            "answer": answer.to_dict(),
        }
        path = self.folder / f"{kept.id}.json"
        disk.make_folder(self.folder)
        disk.write_bytes(path, json.dumps(content, allow_nan=False).encode("ascii"))
        if kept.id not in self.list():
            self._add(kept)
        return self._hold(kept)

    def list(self) -> Mapping[str, Summary]:
        """Every question that was asked of this index."""
        path = self.folder / LIST
        try:
            found = path.stat()
        except OSError:
            return {}
        if (found.st_size, found.st_mtime_ns) != self._seen:
            lines = json_log.read_lines(path)
            read = [one for one in (_summary(line, self._root) for line in lines) if one is not None]
            self._list = {one.id: one for one in reversed(read)}
            self._seen = (found.st_size, found.st_mtime_ns)
        return self._list

    def _add(self, kept: StoredAnswer) -> None:
        answer = kept.answer
        line = {
            "id": kept.id,
            "root": self._root,
            "question": kept.question.plain,
            "predicted": answer.query.predicted,
            "explained": answer.query.label,
            "when": kept.when,
            "hits": {hit.id: [hit.rank, hit.score] for hit in (*answer.proponents, *answer.opponents)},
        }
        json_log.append(self.folder / LIST, line)

    def _hold(self, kept: StoredAnswer) -> StoredAnswer:
        self._held[kept.id] = kept
        while len(self._held) > HELD:
            self._held.popitem(last=False)
        return kept


def _kept(name: str, content: Mapping[str, Any]) -> StoredAnswer:
    answer = replace(Explanation.from_dict(content["answer"]), n_examples=int(content["n_examples"]))
    groups = {
        str(column): tuple(GroupScores(**one) for one in some)
        for column, some in cast("Mapping[str, Any]", content["groups"]).items()
    }
    question = Question.read(content["question"])
    return StoredAnswer(name, question, answer, str(content["when"]), groups, float(content["seconds"]))


def _summary(line: bytes, root: str) -> Summary | None:
    """A line of the list; None for one of another state of the index, or one that was not finished."""
    try:
        content = json.loads(line)
        if content["root"] != root:
            return None
        hits = {str(name): (int(rank), float(score)) for name, (rank, score) in content["hits"].items()}
        question = Question.read(content["question"])
        return Summary(
            str(content["id"]), question, content["predicted"], content["explained"], str(content["when"]), hits
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
