"""Recorder files under the library's former name: read, with a note, if the current name is missing."""

from collections.abc import Iterable
from pathlib import Path

NAME, FORMER = "proponent_", "whence_"


RUN_FILE = "proponent_run.json"
"""The Recorder's file in the run's folder that describes the training: retraining needs it."""


def recorded(folder: Path, name: str) -> Path:
    """Path of a Recorder file or folder; the current name takes precedence."""
    path, former = folder / name, folder / name.replace(NAME, FORMER, 1)
    return former if former.exists() and not path.exists() else path


def former_note(folder: Path, checkpoints: Iterable[Path], names: Iterable[str]) -> list[str]:
    """One line for a run whose records use the former name; empty for any other run."""
    homes = list(dict.fromkeys([folder, *checkpoints]))
    read = {path.name for name in names for home in homes if (path := recorded(home, name)).name.startswith(FORMER)}
    read = {name for name in read if any((home / name).exists() for home in homes)}
    if not read:
        return []
    return [
        f"training records in {folder} have the library's former name ({', '.join(sorted(read))}) and are read; a "
        f"file named {NAME}... next to them would be read instead"
    ]
