"""What runs must share to be joined, and how their checkpoints are numbered."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from proponent.errors import InputError, MismatchError
from proponent.models.checkpoints import Checkpoint
from proponent.types import CheckpointId

if TYPE_CHECKING:
    from proponent.models.run import Run


def numbered(firsts: Sequence[int], runs: Sequence[tuple[Checkpoint, ...]]) -> tuple[Checkpoint, ...]:
    """Number the checkpoints of joined runs by run."""
    both = zip(firsts, runs, strict=True)
    return tuple(replace(one, id=CheckpointId(first + one.id.run, one.step)) for first, run in both for one in run)


def note_of(run: "Run", note: str, runs: "Sequence[Run]") -> str:
    """A note that does not apply to all joined runs, prefixed with the path of its run."""
    named = all(note in one.notes for one in runs) or str(run.path) in note
    return note if named else f"{run.path}: {note}"


def refuse_twice(runs: "Sequence[Run]") -> None:
    """Refuse a run given twice: its checkpoints would count twice without adding a seed."""
    known: set[Path] = set()
    for run in runs:
        own = {one.path.resolve() for one in run.saved}
        if not known.isdisjoint(own):
            raise InputError(
                f"the run {run.path} was given twice: join runs of different seeds, and give each run once"
            )
        known |= own


def check_alike(first: "Run", other: "Run") -> None:
    """Require that a text, its tokens and its label have the same meaning in both runs."""
    pairs = {
        "task": (first.task.kind, other.task.kind),
        "labels": (first.label_names, other.label_names),
        "losses": (first.loss_of_pairs, other.loss_of_pairs),
        "tokenizer": (first.tokenizer_fingerprint()[:12], other.tokenizer_fingerprint()[:12]),
    }
    for name, (mine, theirs) in pairs.items():
        if mine != theirs:
            raise MismatchError(
                f"{first.path} and {other.path} cannot be joined: their {name} differ ({mine} and {theirs}): join "
                "runs of one task and one tokenizer, or index them separately"
            )
