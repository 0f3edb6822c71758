"""Answers to the questions about an index, stored in a folder next to it.

One JSON file per answer, named by a hash of the question and of the index's contents, and an append-only list with one
line per answer. Other tools may read both; all files can be deleted at any time. Both carry a seal made with a key of
this user: an answer without it came with the folder, and pages say so. Where the folder cannot be written to, an answer
is shown without being kept.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from proponent import disk, json_log
from proponent.errors import DataError, DiskFullError, InputError
from proponent.foreign_files import MEGABYTE, Door, parse_json
from proponent.views import Explanation
from proponent.views.explanation import current_keys
from proponent.views.group_scores import GroupScores
from proponent.web.seals import is_own, sealed
from proponent.web.states import Question

SUFFIX = ".asked"
LIST = "questions.jsonl"
MOST_ANSWER = 64 * MEGABYTE
"""Maximum bytes of a stored answer."""

MOST_LIST, MOST_ENTRY = 32 * MEGABYTE, MEGABYTE // 4
"""Maximum bytes of the list of questions, and of one question in it."""

_DOOR = Door(InputError, "delete it; the question is answered again")
HELD = 256
"""Number of answers in memory."""


Groups = Mapping[str, tuple[GroupScores, ...]]


@dataclass(frozen=True)
class StoredAnswer:
    """An answer, its question, its sums by column ("label", "source"), its time (UTC) and its duration."""

    id: str
    question: Question
    answer: Explanation
    when: str
    groups: Groups
    seconds: float = 0.0
    own: bool = True  # whether it carries the seal of this user
    unkept: str = ""  # why it is not kept; empty if it is


@dataclass(frozen=True)
class Summary:
    """An entry of the list; `hits` maps the id of a training example to its rank and score."""

    id: str
    question: Question
    predicted: str | None
    explained: str | None
    when: str
    hits: Mapping[str, tuple[int, float]]
    own: bool = True


class Questions:
    """The questions about one index; `root` is its Merkle root, and answers of other roots are ignored."""

    def __init__(self, index: Path, root: str) -> None:
        self.folder = index.with_name(index.name + SUFFIX)
        self._root = root
        self._seen: tuple[int, int] = (-1, -1)
        self._list: dict[str, Summary] = {}
        self._read = lru_cache(HELD)(self._from_file)
        self._unkept: dict[Question, StoredAnswer] = {}

    @property
    def root(self) -> str:
        """Merkle root of the index."""
        return self._root

    def identity(self, question: Question) -> str:
        """Name a question."""
        spelled = json.dumps([self._root, question.plain], sort_keys=True)
        return hashlib.sha256(spelled.encode()).hexdigest()[:20]

    def get(self, question: Question) -> StoredAnswer | None:
        """Look an answer up."""
        if question in self._unkept:  # computed here, beside a stored one that could not be replaced
            return self._unkept[question]
        try:
            return self._read(question)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, DataError, InputError):
            return None  # missing or incomplete: it is computed again and rewritten

    def put(self, question: Question, content: Mapping[str, Any], seconds: float = 0.0) -> StoredAnswer:
        """Store the answer of the model's process: `answer`, `n_examples` and `groups`."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        whole = sealed({"question": question.plain, "when": when, "seconds": seconds, **content}, self._root)
        kept = _stored(self.identity(question), whole)
        try:
            with disk.unwritable_named(self.folder):
                disk.make_folder(self.folder)
            disk.write_bytes(self.folder / f"{kept.id}.json", json.dumps(whole, allow_nan=False).encode("ascii"))
            self._read.cache_clear()
            self._unkept.pop(question, None)
            known = self.list().get(kept.id)
            if known is None or not known.own:
                self._add(kept)
        except (InputError, DiskFullError) as error:  # the answer was computed: it is shown in any case
            kept = replace(kept, unkept=str(error))
            self._unkept = dict([*self._unkept.items(), (question, kept)][-HELD:])
        return kept

    def list(self) -> Mapping[str, Summary]:
        """All questions about this index, the latest first."""
        path = self.folder / LIST
        try:
            found = path.stat()
        except OSError:
            return {}
        if (found.st_size, found.st_mtime_ns) != self._seen:
            read = [_summary(line, self._root) for line in json_log.read_lines(path, MOST_LIST)]
            found_by_id: dict[str, Summary] = {}
            for one in reversed(read):
                if one is not None and (one.id not in found_by_id or (one.own and not found_by_id[one.id].own)):
                    found_by_id[one.id] = one
            self._list = found_by_id
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
        json_log.append(self.folder / LIST, sealed(line, self._root), MOST_LIST)

    def _from_file(self, question: Question) -> StoredAnswer:
        name = self.identity(question)
        content = _DOOR.read_json(self.folder / f"{name}.json", most=MOST_ANSWER, within=self.folder)
        kept = replace(_stored(name, content), own=is_own(content, self._root))
        if kept.question != question:
            raise KeyError(name)
        return kept


def _stored(name: str, content: Mapping[str, Any]) -> StoredAnswer:
    answer = replace(Explanation.from_dict(content["answer"]), n_examples=int(content["n_examples"]))
    groups = {
        str(column): tuple(GroupScores(**current_keys(one)) for one in some)
        for column, some in cast("Mapping[str, Any]", content["groups"]).items()
    }
    question = _question(content["question"])
    return StoredAnswer(name, question, answer, str(content["when"]), groups, float(content["seconds"]))


def _question(content: Mapping[str, Any]) -> Question:
    """A stored question; one with a field of a newer version is another question than it would seem."""
    unknown = content.keys() - {one.name for one in fields(Question)}
    if unknown:
        raise KeyError(min(unknown))
    return Question(**content)


def _summary(line: bytes, root: str) -> Summary | None:
    """An entry of the list; None if it belongs to another state of the index, or is incomplete."""
    try:
        content: dict[str, Any] = parse_json(line) if len(line) <= MOST_ENTRY else {}
        if content["root"] != root:
            return None
        hits = {str(name): (int(rank), float(score)) for name, (rank, score) in content["hits"].items()}
        question, when = _question(content["question"]), str(content["when"])
        own = is_own(content, root)
        return Summary(str(content["id"]), question, content["predicted"], content["explained"], when, hits, own)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, InputError):
        return None
