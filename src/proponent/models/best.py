"""Which checkpoint is the final model: training may have continued after it (load_best_model_at_end)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from proponent.errors import RunError
from proponent.models.checkpoints import Checkpoint
from proponent.models.run_files import DOOR, MOST_WEIGHTS, home_of, read_settings
from proponent.models.run_record import run_record
from proponent.models.weights import weight_files

OTHERS = "; --steps chooses others"
"""Ends a note that does not apply once the user has chosen the steps."""

_BLOCK = 1 << 20
_STEP = re.compile(r"checkpoint-([0-9]{1,9})/?$")


class Kept(NamedTuple):
    """The checkpoints up to the final model, the checkpoints saved after it, and notes about them."""

    checkpoints: tuple[Checkpoint, ...]
    later: tuple[Checkpoint, ...] = ()
    notes: tuple[str, ...] = ()


def kept(folder: Path, checkpoints: tuple[Checkpoint, ...]) -> Kept:
    """Exclude checkpoints saved after the final model: they are not part of its training."""
    if len(checkpoints) < 2:
        return Kept(checkpoints)
    best = _best(checkpoints)
    own = weight_files(folder)
    if own:
        like = [one for one in (checkpoints[-1], *checkpoints[:-1][::-1]) if _alike(own, weight_files(one.path))]
        if not like:
            return Kept(checkpoints, (), (_unlike(folder, checkpoints[-1]),))
        found, why = like[0], f"the model saved in {folder}"
    elif best is not None and _loads_best(folder):
        found, why = best, "the best model (load_best_model_at_end)"
    else:
        return Kept(checkpoints)
    if found is checkpoints[-1]:
        return Kept(checkpoints)
    return _cut(checkpoints, found, "the best checkpoint and " + why if found is best and own else why)


def _cut(checkpoints: tuple[Checkpoint, ...], found: Checkpoint, why: str) -> Kept:
    place = checkpoints.index(found) + 1
    left = ", ".join(str(one.step) for one in checkpoints[place:])
    summed = ", ".join(str(one.step) for one in checkpoints[:place])
    note = (
        f"the model is checkpoint-{found.step}, {why}: scores use the checkpoints up to it ({summed}), and later "
        f"checkpoints are left out (step {left}){OTHERS}"
    )
    return Kept(checkpoints[:place], checkpoints[place:], (note,))


def _unlike(folder: Path, last: Checkpoint) -> str:
    return (
        f"the model saved in {folder} differs from all of its checkpoints: predictions and scores are those of "
        f"checkpoint-{last.step}; to explain the saved model, give a folder without checkpoint-*"
    )


def _best(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The best checkpoint according to the state of the last one."""
    path = checkpoints[-1].path / "trainer_state.json"
    state: dict[str, Any] = read_settings(path) if path.is_file() else {}
    named = _STEP.search(str(state.get("best_model_checkpoint") or "").replace("\\", "/"))
    step = int(named[1]) if named else state.get("best_global_step")
    return next((one for one in checkpoints if one.step == step), None)


def _loads_best(folder: Path) -> bool:
    """Whether the run loads its best checkpoint at the end: assumed, unless its record says otherwise."""
    try:
        return (run_record(folder) or {}).get("load_best_model_at_end") is not False
    except RunError:  # a damaged record: reported by the code that needs it
        return True


def _alike(own: list[Path], others: list[Path]) -> bool:
    """Whether weights are equal byte by byte; stops at the first difference."""
    if [(path.name, path.stat().st_size) for path in own] != [(path.name, path.stat().st_size) for path in others]:
        return False
    return all(_equal(mine, theirs) for mine, theirs in zip(own, others, strict=True))


def _equal(mine: Path, theirs: Path) -> bool:
    opened = (DOOR.open(path, most=MOST_WEIGHTS, within=home_of(path)) for path in (mine, theirs))
    with next(opened) as one, next(opened) as other:
        while block := one.read(_BLOCK):
            if block != other.read(_BLOCK):
                return False
    return True
