"""Folders from `save_to_disk`: their files are checked before `datasets` opens them by the names that they state."""

from pathlib import Path
from typing import Any, cast

from proponent.data.arrow_bodies import refuse_bombs, refuse_kinds
from proponent.data.door import ANY, DOOR, size_of
from proponent.data.table import short
from proponent.data.untyped import ipc, pa
from proponent.errors import DataError
from proponent.foreign_files import MEGABYTE

MOST_SETTINGS = 16 * MEGABYTE
"""Maximum bytes of a JSON file."""

_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"


def is_saved(path: Path) -> bool:
    """Whether a folder holds a data set from save_to_disk."""
    return ((path / _STATE).is_file() and (path / _INFO).is_file()) or (path / _SPLITS).is_file()


def check_saved(folder: Path) -> None:
    """Refuse a saved data set that names files elsewhere, or whose files unfold too far."""
    if not (folder / _SPLITS).is_file():
        _check_one(folder, folder)
        return
    splits = _settings(folder / _SPLITS, folder).get("splits")
    for name in cast("list[object]", splits) if isinstance(splits, list) else []:
        home = folder / _plain(folder / _SPLITS, name)
        if home.is_dir():
            _check_one(home, folder)


def _check_one(folder: Path, home: Path) -> None:
    _settings(folder / _INFO, home)
    state = _settings(folder / _STATE, home)
    for key in ("_data_files", "_indices_data_files"):
        files: object = state.get(key) or []
        for one in cast("list[object]", files) if isinstance(files, list) else []:
            entry = cast("dict[str, object]", one) if isinstance(one, dict) else {}
            _check_file(folder / _plain(folder / _STATE, entry.get("filename")), home)


def _check_file(path: Path, home: Path) -> None:
    try:
        DOOR.check(path, most=ANY, within=home)
        whole: Any = pa.memory_map(str(path)).read_buffer(size_of(path))
        refuse_bombs(whole)
        with ipc.open_stream(whole) as reader:
            refuse_kinds(reader.schema)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({short(str(error), 200)}): save the data set again") from error


def _plain(source: Path, name: object) -> str:
    if not isinstance(name, str) or not name or Path(name).name != name or name == "..":
        raise DataError(
            f"{source} names {short(name)} as one of its files: only files of the same folder are read: save the data "
            "set again"
        )
    return name


def _settings(path: Path, home: Path) -> dict[str, Any]:
    try:
        found = DOOR.read_json(path, most=MOST_SETTINGS, within=home)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({short(str(error), 200)}): save the data set again") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is not a JSON object: save the data set again")
    return cast("dict[str, Any]", found)
