"""What an index says of itself: the frozen plan (written first) and the manifest (written last).

Both are JSON read through strict types: they are untrusted input.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from whence.errors import DamagedError, MismatchError
from whence.recipe import Recipe

FORMAT = 1
"""Version of the directory layout; a reader refuses a newer one."""

Model = TypeVar("Model", bound=BaseModel)


class PlannedCheckpoint(BaseModel):
    """A checkpoint of the plan.

    Attributes:
        step: optimizer step.
        learning_rate: of the optimizer at that step.
        rule: how it is known.
        weight: what multiplies this checkpoint's products.
        preconditioner: where its second moments come from; empty without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    step: int
    learning_rate: float
    rule: str
    weight: float
    preconditioner: str = ""


class Plan(BaseModel):
    """Everything that decides what an index holds; frozen before the first shard.

    Attributes:
        format: version of the layout.
        whence: version of the library that planned it.
        recipe: the method as data.
        embedding_path: the path that was really taken; "exact" where the table is not shared.
        tied: whether the head shares the embedding's table.
        run: folder of the run, as given.
        tokenizer: folder of the tokenizer when the user named one; else None.
        kind: task head.
        label_names: classes in order; None for a language model.
        max_length: most tokens read of a text.
        batch_size: examples per pass.
        trust_remote_code: whether the user allowed the model's own code.
        fingerprints: SHA-256 by content of tokenizer, weights and data.
        checkpoints: in order.
        word_rules: rules by which texts were split into words; positions of words mean nothing under others.
        data: name of the training data, for messages.
        columns: the user's names of the columns.
        n: examples.
        shards: boundaries in the length-sorted order; shard j holds order[shards[j]:shards[j+1]].
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: int
    whence: str
    recipe: Recipe
    embedding_path: str
    tied: bool
    run: str
    tokenizer: str | None
    kind: str
    label_names: list[str] | None
    max_length: int
    batch_size: int
    trust_remote_code: bool
    fingerprints: dict[str, str]
    checkpoints: list[PlannedCheckpoint]
    word_rules: str
    data: str
    columns: dict[str, str]
    n: int
    shards: list[int]


class SkippedRow(BaseModel):
    """A training row that has no gradient.

    Attributes:
        id: the user's id.
        row: 0-based row of the source.
        cause: what was not finite, at which step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    row: int
    cause: str


class Manifest(BaseModel):
    """The seal of an index, written last.

    Attributes:
        format: version of the layout.
        merkle_root: SHA-256 over the sorted (name, SHA-256) of every other file.
        files: SHA-256 of each file by its path inside the index.
        skipped: rows without a gradient.
        notes: lines that every answer repeats.
        seconds: time by stage.
        digest: SHA-256 of this manifest's canonical form without this field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: int
    merkle_root: str
    files: dict[str, str]
    skipped: list[SkippedRow]
    notes: list[str]
    seconds: dict[str, float]
    digest: str = ""

    def sealed(self) -> "Manifest":
        """Fill in the digest.

        Returns:
            The manifest with its own digest.
        """
        return self.model_copy(update={"digest": self.own_digest()})

    def own_digest(self) -> str:
        """Hash the canonical form without the digest.

        Returns:
            SHA-256, hexadecimal.
        """
        return hashlib.sha256(canonical(self.model_dump(exclude={"digest"})).encode()).hexdigest()


def canonical(value: Any) -> str:
    """Write JSON in its one canonical form.

    Args:
        value: plain data.

    Returns:
        Sorted keys, no spaces, UTF-8.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def merkle_root(files: dict[str, str]) -> str:
    """Hash a table of file hashes.

    Args:
        files: SHA-256 by name.

    Returns:
        SHA-256, hexadecimal.
    """
    return hashlib.sha256(canonical(files).encode()).hexdigest()


def read_json(path: Path, model: type[Model]) -> Model:
    """Read a plan or a manifest.

    Args:
        path: the file.
        model: what it must be.

    Returns:
        The typed content.

    Raises:
        DamagedError: missing, not JSON, or not of that shape.
        MismatchError: written by a newer version of the format.
    """
    try:
        raw: object = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"cannot read {path}: {error}: the index is damaged; build it again") from error
    version = cast("dict[str, object]", raw).get("format") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise MismatchError(
            f"{path} has format {version}, newer than the {FORMAT} that this version of whence reads: upgrade whence"
        )
    try:
        return model.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        first = error.errors()[0]
        raise DamagedError(
            f"{path} is not a valid {model.__name__.lower()} ({'.'.join(map(str, first['loc']))}: {first['msg']}): "
            "build the index again"
        ) from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that whence writes")
