"""File names of an index."""

import shlex
from pathlib import Path

from proponent.types import CheckpointId

PLAN = "plan.json"
MANIFEST = "manifest.json"
PLANS = "plans"

REFIT = "tables/gen-"
"""How the name of a file begins that replaces arrays of the tables."""

RUN_STEPS = 10**9
"""In plans and array names, step s of run r is stored as one number: r x RUN_STEPS + s; for the first run, just s."""


class Layout:
    """Paths of the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan = folder / PLAN
        self.manifest = folder / MANIFEST

    def addition(self, generation: int) -> Path:
        """The plan of an append."""
        return self.folder / PLANS / f"append-{generation:05d}.json"

    def merging(self, generation: int) -> Path:
        """The plan of a merge."""
        return self.folder / PLANS / f"merge-{generation:05d}.json"

    def examples(self, segment: str) -> Path:
        """The user's data: texts, labels, ids."""
        return self.folder / "examples" / f"seg-{segment}.parquet"

    def features(self, segment: str) -> Path:
        """Arrays over the examples: order, losses, probabilities ..."""
        return self.folder / "examples" / f"seg-{segment}.safetensors"

    def shard(self, at: CheckpointId, segment: str, shard: int) -> Path:
        """Gradients of some examples, in order."""
        return self.folder / "forms" / _checkpoint(at) / f"seg-{segment}-shard-{shard:05d}.safetensors"

    def postings(self, at: CheckpointId, segment: str) -> Path:
        """The same rows by token."""
        return self.folder / "postings" / _checkpoint(at) / f"seg-{segment}.safetensors"

    def table(self, at: CheckpointId) -> Path:
        """Further arrays that products need."""
        return self.folder / "tables" / f"{_checkpoint(at)}.safetensors"

    def refit(self, generation: int) -> Path:
        """Arrays that a merge fitted again."""
        return self.folder / f"{REFIT}{generation:05d}.safetensors"

    def tombstones(self, generation: int) -> Path:
        """Deleted examples."""
        return self.folder / "tombstones" / f"gen-{generation:05d}.safetensors"

    def name(self, path: Path) -> str:
        """A file's name in the manifest."""
        return path.relative_to(self.folder).as_posix()


def _checkpoint(at: CheckpointId) -> str:
    return f"run-{at.run}-step-{at.step}" if at.run else f"step-{at.step}"


def stored_number(at: CheckpointId) -> int:
    """A checkpoint as the single number that is stored."""
    return at.run * RUN_STEPS + at.step


def array_name(name: str, at: CheckpointId) -> str:
    """Name of an array over the examples that belongs to one checkpoint."""
    return f"{name}.{stored_number(at)}"


def no_index(folder: Path) -> str:
    """Report that a folder is not an index, and how to build one."""
    run, out, why = "RUN", shlex.quote(str(folder)), ""
    signs = ("config.json", "adapter_config.json", "checkpoint-*")
    if any(next(folder.glob(sign), None) is not None for sign in signs):
        run, out, why = (
            out,
            shlex.quote(f"{folder}.index" if folder.name else "run.index"),
            ", the folder is a training run",
        )
    elif folder.is_file() or next(folder.glob("*"), None) is not None:
        out, why = "NEW_FOLDER", ", the path is a file" if folder.is_file() else ", the folder contains other files"
    return f"no index at {folder}{why}: build one with `proponent index {run} DATA --out {out}`"
