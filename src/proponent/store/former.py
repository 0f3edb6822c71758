"""Read an index of format 1, the one before: one segment, whole-file hashes, no norms. It is read, never written."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict

from proponent.errors import DamagedError
from proponent.examples import Stored
from proponent.recipe import Recipe
from proponent.store.layout import Layout
from proponent.store.manifest import (
    Manifest,
    Plan,
    PlannedCheckpoint,
    PlannedSegment,
    SkippedRow,
    Source,
    canonical,
    read_json,
)
from proponent.store.mapped import Mapped
from proponent.store.segment import Files, Segment
from proponent.store.sums import sums_of_file

FORMER = 1


class FormerPlan(BaseModel):
    """The plan of format 1; see `Plan` and `Source` for what the fields mean."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1]
    proponent: str
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

    def plan(self) -> Plan:
        """Say the same in the present format."""
        shared = self.model_dump(exclude={"batch_size", "data", "columns", "n", "shards", "fingerprints"})
        source = Source(
            data=self.data,
            columns=self.columns,
            fingerprint=self.fingerprints["data"],
            n=self.n,
            batch_size=self.batch_size,
            segments=[PlannedSegment(name="00000", n=self.n, shards=self.shards)],
        )
        prints = {name: value for name, value in self.fingerprints.items() if name != "data"}
        return Plan.model_validate(shared | {"fingerprints": prints, "source": source})


class FormerManifest(BaseModel):
    """The seal of format 1; see `Manifest`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1]
    merkle_root: str
    files: dict[str, str]
    skipped: list[SkippedRow]
    notes: list[str]
    seconds: dict[str, float]
    digest: str = ""

    def right(self) -> bool:
        """Say whether root and digest are its own."""
        root = hashlib.sha256(canonical(self.files).encode()).hexdigest()
        own = hashlib.sha256(canonical(self.model_dump(exclude={"digest"})).encode()).hexdigest()
        return root == self.merkle_root and own == self.digest


class FormerFiles:
    """The files of an index of format 1: each is hashed before its first use.

    Args:
        folder: the index.

    Raises:
        DamagedError: plan or manifest is not what was written, or a file is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_json(folder / "manifest.json", FormerManifest)
        if not self.manifest.right():
            raise DamagedError(f"{folder / 'manifest.json'} is not what was written (its digest differs)")
        self.plan = read_json(self.whole(folder / "plan.json"), FormerPlan)
        missing = next((name for name in self.manifest.files if not (folder / name).is_file()), None)
        if missing is not None:
            raise DamagedError(f"{folder / missing} is missing: restore it, or build the index again")

    @cached_property
    def _right(self) -> set[Path]:
        return set()

    def whole(self, path: Path) -> Path:
        """Check a file."""
        if path not in self._right:
            name = path.relative_to(self.folder).as_posix()
            try:
                found = sums_of_file(path).sha256
            except OSError:
                found = ""
            if self.manifest.files.get(name) != found:
                raise DamagedError(f"{path} is not what was written: restore it, or build the index again")
            self._right.add(path)
        return path

    def tensors(self, path: Path) -> Mapped:
        """Open a safetensors file."""
        return Mapped(self.whole(path))

    def has(self, path: Path) -> bool:
        """Say whether a file belongs to the index."""
        return path.relative_to(self.folder).as_posix() in self.manifest.files

    def read(self) -> tuple[Plan, Manifest]:
        """Say plan and manifest in the present format."""
        plan = self.plan.plan()
        note = "this index is of format 1: it is read, but searched slowly; build it again for the fast search"
        return plan, Manifest(
            format=FORMER,
            merkle_root=self.manifest.merkle_root,
            files={},
            sources=[plan.source],
            segments=plan.source.segments,
            skipped=self.manifest.skipped,
            notes=[*self.manifest.notes, note],
            seconds=self.manifest.seconds,
        )

    def segments(self) -> tuple[Segment, ...]:
        """The one segment."""
        names, plan = self.plan.label_names, self.plan.plan()
        files = Files(
            FormerLayout(self.folder),
            self.tensors,
            self.whole,
            self.has,
            tuple(one.step for one in plan.checkpoints),
            None if names is None else tuple(names),
        )
        return (FormerSegment(plan.source.segments[0], 0, files, np.zeros(0, dtype=np.int64), incomplete=False),)


class FormerLayout(Layout):
    """Names of the files of format 1."""

    def examples(self, segment: str) -> Path:
        """What the user gave, and what the model said."""
        return self.folder / "examples" / f"part-{segment}.parquet"

    def features(self, segment: str) -> Path:  # noqa: ARG002 # there is one segment
        """Arrays over the examples."""
        return self.folder / "examples" / "features.safetensors"

    def shard(self, step: int, segment: str, shard: int) -> Path:  # noqa: ARG002 # the same
        """Gradients of some examples."""
        return self.folder / "forms" / f"step-{step}" / f"shard-{shard:05d}.safetensors"


class FormerSegment(Segment):
    """The one segment of an index of format 1; it has no postings that a search of today reads."""

    @cached_property
    def places(self) -> Int[np.ndarray, " n"]:
        """Place in the shards of each example."""
        order = self.features("order")
        if not np.array_equal(np.sort(order), np.arange(self.n)):
            raise DamagedError(f"{self._files.layout.features(self.name)}: its order is not that of {self.n} examples")
        return np.argsort(order).astype(np.int32)

    @cached_property
    def examples(self) -> Stored:
        """What the user gave, and what the model said."""
        return Stored(self._files.whole(self._files.layout.examples(self.name)))

    def postings(self, step: int) -> Any:  # noqa: ARG002 # one signature for every segment
        """None: the forms are scanned."""
        return None
