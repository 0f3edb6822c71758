"""The metadata of an index: the frozen plan (written first) and the manifest (written last).

Both are JSON read through strict types: they are untrusted input.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from proponent.errors import DamagedError, InputError, MismatchError
from proponent.foreign_files import parse_json
from proponent.labels import Labels
from proponent.method import EmbeddingRows, Gradients, Logit, Method, Reduction, Term, terms_of
from proponent.method_flat import from_flat
from proponent.store.checksums import Checksums
from proponent.store.door import DOOR, MOST_JSON
from proponent.store.layout import PLANS, RUN_STEPS, stored_number
from proponent.store.rows import RowKind
from proponent.types import CheckpointId, Counting

FORMAT = 3
"""Current version of plans and manifests."""

OLDEST = 2
"""Oldest readable version: its plans hold the method as one flat record."""

FORMER_NAME = "whence"
"""The library's former name: the key of its version in earlier plans."""

FLAT = "recipe"
"""The key of the method in plans of format 2."""

Model = TypeVar("Model", bound=BaseModel)


def _checkpoint_id(value: object) -> CheckpointId:
    """The checkpoint of a stored number."""
    if isinstance(value, CheckpointId):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("Input should be a valid integer")
    return CheckpointId(*divmod(value, RUN_STEPS))


class PlannedCheckpoint(BaseModel):
    """A checkpoint of the plan."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    # stored as one number, under the key "step"
    id: Annotated[CheckpointId, PlainValidator(_checkpoint_id), PlainSerializer(stored_number, return_type=int)] = (
        Field(validation_alias="step", serialization_alias="step")
    )
    learning_rate: float  # of the optimizer at that step
    rule: str  # where the learning rate comes from

    weight: float  # the factor of this checkpoint's products
    preconditioner: str = ""  # where its second moments come from; empty without one

    @property
    def shown(self) -> dict[str, object]:
        """The checkpoint as plain data for users."""
        return {"step": self.id.step, "run": self.id.run, "learning_rate": self.learning_rate, "rule": self.rule}


class PlannedBlock(BaseModel):
    """A layer whose gradient is a slice of every example's vector."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str  # of the layer
    o: int = Field(ge=1)  # rows of its gradient
    i: int = Field(ge=1)  # columns of its gradient
    kept_o: int = Field(ge=1)  # stored rows, projected or not
    kept_i: int = Field(ge=1)  # stored columns


class PlannedSegment(BaseModel):
    """A part of the training set that is stored, searched and merged as a unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern="^[0-9]{5,9}$")  # its number, five digits; never reused in an index
    n: int = Field(ge=1, lt=2**31)  # examples
    # boundaries in the segment's own order of examples (shortest first); shard j holds order[shards[j]:shards[j+1]]
    shards: list[int]

    @model_validator(mode="after")
    def _bounds(self) -> "PlannedSegment":
        rising = all(first <= second for first, second in pairwise(self.shards))
        if not self.shards or self.shards[0] != 0 or self.shards[-1] != self.n or not rising:
            raise ValueError("the boundaries of the shards do not rise from 0 to n")
        return self


class Source(BaseModel):
    """A data set that was added to an index."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    data: str  # its name, for messages
    columns: dict[str, str]  # the user's names of the columns, and what is said of how a CSV or TSV file is written
    fingerprint: str  # SHA-256 of its rows by content
    n: int = Field(ge=0)  # examples
    batch_size: int  # examples per pass
    segments: list[PlannedSegment]  # its segments


class Addition(BaseModel):
    """The plan of an append, frozen before its first shard."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: int  # version of the layout
    source: Source  # what is appended


class Merging(BaseModel):
    """The plan of a merge, frozen before its first shard."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: int  # version of the layout
    merkle_root: str  # of the index that is merged
    segments: list[PlannedSegment]  # the new segments
    # per new segment, the shards (segment, shard) whose examples it receives, by new shard
    taken: list[list[list[list[int]]]]
    others: list[str] = []  # merkle roots of the indexes that are merged into it


class PlannedTerm(BaseModel):
    """What is stored for one term of the method; a method that is not a sum has one term."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    embedding_path: str  # the path in use; "exact" if the table is not shared
    tied: bool  # whether the head shares the embedding's table
    checkpoints: list[PlannedCheckpoint]  # in order
    blocks: list[PlannedBlock] = []  # layers besides the word embedding and the head, in the order of the vectors


class Plan(BaseModel):
    """Everything that decides what an index holds; frozen before the first shard."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: int  # version of the layout
    proponent: str  # version of the library that planned it
    method: Method  # the method as data
    rows: RowKind = "fp32"  # storage type of embedding rows
    terms: list[PlannedTerm] = Field(min_length=1)  # the stored terms, one for each term of the method
    run: str  # folder of the run, as given
    # folders of runs that were joined by listing them; empty for one run or a folder of runs
    joined: list[str] = Field(default_factory=list)
    tokenizer: str | None  # folder of the tokenizer if the user named one; else None
    base: str | None = None  # base model of an adapter if the user named one; else None
    kind: str  # task head
    predicts: Literal["labels", "tokens", "next tokens", "pairs"] | None = None  # None in plans of earlier versions
    label_names: list[str] | None  # classes in order; None for a language model
    data_names: list[str] = []  # names that the data gives to the outputs of a model without names, in order
    max_length: int  # maximum tokens read of a text
    counting: Counting | None = None  # which tokens of the rows of chat fine-tuning count; None for plain training
    trust_remote_code: bool  # whether the user allowed the model's own code
    fingerprints: dict[str, str]  # SHA-256 by content of tokenizer, weights and moments
    weighted: bool = False  # whether the gradients of training examples are multiplied by weights of the data
    word_rules: str  # rules by which texts were split into words; positions of words are invalid under other rules
    source: Source  # the data set of the first build

    @model_validator(mode="after")
    def _terms(self) -> "Plan":
        if len(self.terms) != len(terms_of(self.method)):
            raise ValueError(f"{len(self.terms)} terms are planned for {len(terms_of(self.method))} of the method")
        return self

    @model_validator(mode="after")
    def _steps(self) -> "Plan":
        for term in self.terms:
            _refuse_twice("checkpoint", [str(one.id) for one in term.checkpoints])
            if not term.checkpoints:
                raise ValueError("no checkpoints are planned")
        _refuse_twice("segment", [one.name for one in self.source.segments])
        return self

    @property
    def predicted(self) -> str:
        """What the model predicts; an earlier plan without classes belongs to a language model."""
        return self.predicts or ("tokens" if self.label_names is None else "labels")

    @property
    def labels(self) -> Labels:
        """Classes in order."""
        return Labels(tuple(self.label_names or ()))

    @property
    def term(self) -> Term:
        """The first term of the method."""
        return terms_of(self.method)[0]

    @property
    def checkpoints(self) -> list[PlannedCheckpoint]:
        """Checkpoints of the first term."""
        return self.terms[0].checkpoints

    @property
    def blocks(self) -> list[PlannedBlock]:
        """Layers of the first term."""
        return self.terms[0].blocks

    @property
    def embedding_path(self) -> str:
        """The path of the first term in use."""
        return self.terms[0].embedding_path

    @property
    def tied(self) -> bool:
        """Whether the head shares the embedding's table."""
        return self.terms[0].tied

    @property
    def shown_path(self) -> str | None:
        """The path of the word embedding's gradient; None for other gradients."""
        rows = isinstance(self.term, Gradients) and isinstance(self.term.gradient, EmbeddingRows)
        return self.embedding_path if rows else None

    @property
    def reduction(self) -> Reduction:
        """How the losses of the counted tokens are reduced."""
        objective = self.term.objective
        return "mean" if isinstance(objective, Logit) else objective.reduction

    @property
    def by_token(self) -> bool:
        """Whether gradients are rows of the word embedding, one per token."""
        rows = self.term.gradient if isinstance(self.term, Gradients) else None
        directed = isinstance(rows, EmbeddingRows) and rows.direction is not None  # the head's part is in the rows
        return self.shown_path is not None and (directed or not self.tied or self.embedding_path == "input")

    @property
    def scales_train(self) -> bool:
        """Whether training gradients have factors: they are scaled to norm 1, or weighted."""
        return self.weighted or (isinstance(self.term, Gradients) and self.term.scales_train)


def _refuse_twice(what: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        twice, _ = Counter(names).most_common(1)[0]
        raise ValueError(f"the {what} {twice} is there twice")


class SkippedRow(BaseModel):
    """A training row that has no gradient."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    row: int  # 0-based row of the source
    cause: str  # the non-finite value, and its step


class Manifest(BaseModel):
    """The seal of an index, written last."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: int  # version of the layout
    generation: int = 1  # 1 for a first build, incremented by every append, delete and merge
    merkle_root: str  # SHA-256 over the sorted (name, SHA-256) of every other file
    files: dict[str, Checksums]  # sums of each file by its path inside the index
    sources: list[Source]  # every data set that was added, in order
    segments: list[PlannedSegment]  # the segments of the index, in data order
    # name of the file of tombstones; empty if nothing is deleted
    deleted: str = Field(default="", pattern=r"^(tombstones/gen-[0-9]{5,9}\.safetensors)?$")
    skipped: list[SkippedRow]  # rows without a gradient
    notes: list[str]  # lines that every explanation repeats
    seconds: dict[str, float]  # time by stage of the last build or append
    peak_rss: int = 0  # peak memory of the process that built it, in bytes
    digest: str = ""  # SHA-256 of this manifest's canonical form without this field

    @model_validator(mode="after")
    def _segments(self) -> "Manifest":
        _refuse_twice("segment", [one.name for one in self.segments])
        return self

    def sealed(self) -> "Manifest":
        """Fill in root and digest."""
        rooted = self.model_copy(update={"merkle_root": merkle_root(self.files)})
        return rooted.model_copy(update={"digest": rooted.own_digest()})

    def own_digest(self) -> str:
        """Hash the canonical form of the manifest without its digest."""
        return hashlib.sha256(canonical(self.model_dump(exclude={"digest"})).encode()).hexdigest()


def canonical(value: Any) -> str:
    """Serialize to canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def merkle_root(files: Mapping[str, Checksums]) -> str:
    """Hash a table of file hashes."""
    return hashlib.sha256(canonical({name: sums.sha256 for name, sums in files.items()}).encode()).hexdigest()


def former_lines(path: Path) -> list[str]:
    """The notes on a plan of an earlier version."""
    try:
        raw = _read(path)
    except (OSError, ValueError):
        return []
    if not isinstance(raw, dict):
        return []
    lines = ["this index was written under the library's former name, whence: it can be read"]
    lines = lines if FORMER_NAME in raw else []
    if FLAT in raw:
        lines.append(
            "this index stores its method in the flat format of version 0.1: it can be read, and a rebuild writes "
            "the current format"
        )
    return lines


def read_json(path: Path, model: type[Model]) -> Model:
    """Read a plan or a manifest."""
    try:
        raw = _read(path)
    except (OSError, ValueError) as error:
        raise DamagedError(f"cannot read {path}: {error}: the index is damaged; build it again") from error
    return _validated(path, raw, model)


def parse_manifest(path: Path, text: bytes) -> "Manifest":
    """Read a manifest that is in memory; `path` names it in messages."""
    try:
        raw = parse_json(text, plausible=True)
    except ValueError as error:
        raise DamagedError(f"cannot read {path}: {error}: the index is damaged; build it again") from error
    return _validated(path, raw, Manifest)


def _validated(path: Path, raw: object, model: type[Model]) -> Model:
    version = cast("dict[str, object]", raw).get("format") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise MismatchError(
            f"{path} has format {version}, newer than the {FORMAT} that this version reads: upgrade proponent"
        )
    if isinstance(version, int) and version < OLDEST:
        raise MismatchError(
            f"{path} has format {version}, older than the {OLDEST} that this version reads: build the index again, "
            "into another folder (--out)"
        )
    if isinstance(raw, dict) and "proponent" in model.model_fields:
        raw = _present_plan(path, cast("dict[str, Any]", raw))
    try:
        return model.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        first = error.errors()[0]
        raise DamagedError(
            f"{path} is not a valid {model.__name__.lower()} ({'.'.join(map(str, first['loc']))}: {first['msg']}): "
            "build the index again"
        ) from error


def _present_plan(path: Path, held: dict[str, Any]) -> dict[str, Any]:
    """Convert a plan of an earlier version to the current format."""
    found = {("proponent" if name == FORMER_NAME else name): value for name, value in held.items()}
    flat = found.pop(FLAT, None)
    if found.get("format") == FORMAT or not isinstance(flat, dict):
        return held if flat is not None else found
    try:
        method = from_flat(cast("dict[str, Any]", flat), "of the index")
    except InputError as error:
        raise DamagedError(f"{path} is not a valid plan ({error}): build the index again") from error
    term = {name: found.pop(name) for name in PlannedTerm.model_fields if name in found}
    return found | {"method": method.model_dump(mode="json"), "terms": [term]}


def _read(path: Path) -> object:
    home = path.parent.parent if path.parent.name == PLANS else path.parent
    return DOOR.read_json(path, most=MOST_JSON, within=home, plausible=True)
