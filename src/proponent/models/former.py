"""Files of the Recorder under the library's former name: read where the present one is not there, with a note."""

from collections.abc import Iterable
from pathlib import Path

NAME, FORMER = "proponent_", "whence_"


def recorded(folder: Path, name: str) -> Path:
    """Where a file or folder of the Recorder lies; the present name wins where both are there."""
    path, former = folder / name, folder / name.replace(NAME, FORMER, 1)
    return former if former.exists() and not path.exists() else path


def former_note(folder: Path, checkpoints: Iterable[Path], names: Iterable[str]) -> list[str]:
    """One line for a run whose records were written under the former name; none for any other run."""
    homes = list(dict.fromkeys([folder, *checkpoints]))
    read = {path.name for name in names for home in homes if (path := recorded(home, name)).name.startswith(FORMER)}
    read = {name for name in read if any((home / name).exists() for home in homes)}
    if not read:
        return []
    return [
        f"records of the training in {folder} are read under the library's former name ({', '.join(sorted(read))}); "
        f"a file named {NAME}... beside one of them would be read in its place"
    ]
