"""What a run's record says of its training; reading it loads no Trainer."""

from pathlib import Path
from typing import Any

from proponent.errors import RunError
from proponent.models.former import RUN_FILE, recorded
from proponent.models.run_files import StoredName, read_settings

FRESH = "fresh"
"""Replaces the name of a pretrained model: initial weights are drawn from the configuration by the seed."""

TUNED_CHECKPOINTS = 4
"""Number of checkpoints of a pretrained model: a quarter apart, so that three lie within the training."""

CHECKPOINTS = 10
"""Checkpoints of a training from scratch; LDS within class on TREC: .220 with 3, .255 with 10 (docs/log.md)."""


def spread(total: int, count: int) -> tuple[int, ...]:
    """Return `count` equidistant steps, from 1 to the last, after which a checkpoint is saved."""
    return tuple(sorted({max(1, round(total * number / count)) for number in range(1, count + 1)}))


def drawn(folder: Path) -> bool:
    """Whether a run's record says that its training began with fresh weights."""
    record = run_record(folder) or {}
    # a model with fresh weights can have a name, too
    return record.get("initial") == FRESH or record.get("trained_before") is False


def started_from(folder: Path) -> str | None:
    """Return the pretrained model that a run was fine-tuned from."""
    record = run_record(folder) or {}
    initial, trained = record.get("initial"), record.get("trained_before")
    if drawn(folder):
        return None
    if isinstance(initial, str) and initial:
        return StoredName(initial)
    return "name not recorded" if trained else None


def run_record(folder: Path) -> dict[str, Any] | None:
    """Read the record of a run's training."""
    path = recorded(folder, RUN_FILE)
    if not path.is_file():
        return None
    try:
        return read_settings(path)
    except RunError as error:
        raise RunError(f"{error}: remove it; its settings can then be passed to proponent evaluate") from error


def unfinished_note(folder: Path) -> tuple[str, ...]:
    """Report an unfinished training; records of earlier versions do not tell, and damaged ones are reported later."""
    try:
        ended = (run_record(folder) or {}).get("finished") is not False
    except RunError:
        ended = True
    said = f"the training in {folder} has not finished (stopped, or still running): later checkpoints are missing"
    return () if ended else (said,)
