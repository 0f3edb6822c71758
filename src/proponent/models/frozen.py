"""Which parameters of a run stayed frozen: by its record, or by comparing its checkpoints.

The Recorder notes the parameters that its optimizer moved (`trained` in `proponent_run.json`). Without that note, the
weight files of a run's first and last checkpoint are compared: what is equal byte for byte was frozen.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn

from proponent.errors import DamagedError
from proponent.models.checkpoints import Checkpoint
from proponent.models.huggingface import ModelInfo, without_weights
from proponent.models.run_record import run_record
from proponent.models.trained_parts import Trained, every_parameter, word_table
from proponent.models.weights import weight_files
from proponent.tensors import same_bytes, stored_arrays

LEAST = 0.1
"""Minimum share of the numbers for which equal weights count as frozen: a model may have small parts that it never
uses. A word embedding counts whatever its share."""


@dataclass(frozen=True)
class Moved:
    """Parameters by what is known of them: the names of those that moved, or of those that did not."""

    names: frozenset[str]
    frozen: bool  # whether these are the frozen ones
    source: str

    def moves(self, names: Iterable[str]) -> bool:
        """Whether a parameter with these names (several, if modules share it) was moved."""
        return any(one in self.names for one in names) is not self.frozen


def parts_of(saved: Sequence[Checkpoint], info: ModelInfo, *, trust_remote_code: bool) -> Trained | None:
    """Find what a run, or joined runs, moved; None if nothing was frozen, as far as is known, and for adapters."""
    known = None if info.adapter else moved_by(saved)
    folder = saved[-1].path
    model = None if known is None else without_weights(folder, info.task, trust_remote_code=trust_remote_code)
    return None if known is None or model is None else trained_parts(model, known)


def moved_by(saved: Sequence[Checkpoint]) -> list[Moved] | None:
    """What is known of each of some joined runs; None if nothing was frozen in one of them."""
    found: list[Moved] = []
    for number in dict.fromkeys(one.id.run for one in saved):
        own = [one.path for one in saved if one.id.run == number]
        home = own[-1].parent if own[-1].name.startswith("checkpoint-") else own[-1]
        known = _moved((run_record(home) or {}).get("trained"), own[0], own[-1])
        if known is None:
            return None
        found.append(known)
    return found


def _moved(recorded: object, first: Path, last: Path) -> Moved | None:
    """What is known of a run: by its record, else by its first and last checkpoint; None if nothing was frozen."""
    if isinstance(recorded, list):
        names = frozenset(map(str, cast("list[object]", recorded)))
        return Moved(names, frozen=False, source="as recorded by proponent.Recorder")
    same = _equal(first, last) if first != last else frozenset[str]()
    source = f"their weights are equal in {first.name} and {last.name}"
    return Moved(same, frozen=True, source=source) if same else None


def trained_parts(model: nn.Module, known: Sequence[Moved]) -> Trained | None:
    """Find what the trainings of joined runs moved, in a model whose weights need not be loaded."""
    moved, frozen = dict[str, int](), dict[str, int]()
    table, embedding = word_table(model), True
    for names, parameter in every_parameter(model):
        moves = any(one.moves(names) for one in known)
        (moved if moves else frozen).update(dict.fromkeys(names, int(parameter.numel())))
        embedding = embedding and (moves or parameter is not table)
    size, left = _size(model, moved), _size(model, frozen)
    compared = any(one.frozen for one in known)
    few = compared and embedding and left < LEAST * (size + left)
    if not moved or not frozen or few:
        return None
    return Trained(frozenset(moved), embedding, f"{_described(moved, frozen, size)} ({known[0].source})")


def _size(model: nn.Module, names: Mapping[str, int]) -> int:
    return sum(one.numel() for every, one in every_parameter(model) if every[0] in names)


def _described(moved: Mapping[str, int], frozen: Mapping[str, int], size: int) -> str:
    """Name the smaller side by the outermost modules that hold nothing of the other."""
    trained, kept = _modules(moved, frozen), _modules(frozen, moved)
    if len(trained) <= len(kept):
        return f"only {_listed(trained)} ({size:,} parameters) was trained; all other parameters were frozen"
    return f"{_listed(kept)} was frozen; all other parameters ({size:,}) were trained"


def _modules(names: Iterable[str], others: Iterable[str]) -> list[str]:
    taken = {other[:at] for other in others for at in range(len(other) + 1) if at == len(other) or other[at] == "."}
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        heads = [".".join(parts[: at + 1]) for at in range(len(parts))]
        found.setdefault(next(head for head in heads if head not in taken or head == name))
    return [*found]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _equal(first: Path, last: Path) -> frozenset[str]:
    """Names of the arrays that are equal byte for byte; none if all are equal, which says nothing of frozen parts."""
    try:
        mine = {name: one for path in weight_files(first) for name, one in stored_arrays(path).items()}
        theirs = {name: one for path in weight_files(last) for name, one in stored_arrays(path).items()}
        equal = {name for name, one in mine.items() if name in theirs and same_bytes(one, theirs[name])}
    except (DamagedError, OSError):  # loading reports what is wrong
        return frozenset()
    return frozenset() if equal == theirs.keys() else frozenset(equal)
