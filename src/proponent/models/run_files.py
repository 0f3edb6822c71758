"""The files of a training run, read through the door for foreign files: their sizes, and where they may lie."""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from proponent.errors import RunError
from proponent.foreign_files import MEGABYTE, Door, lies_in

DOOR = Door(RunError, "copy the whole run again, with real files in place of links")

MOST_SETTINGS = 64 * MEGABYTE
"""Maximum bytes of a JSON file; the log of a long training is the largest."""

MOST_TEXT = 4 * MEGABYTE
"""Maximum bytes of a model card, and of a chat template."""

MOST_WEIGHTS = 2**50
"""Maximum bytes of weights: they are mapped, and read as a model needs them."""

MOST_ENTRIES = 100_000
"""Maximum files of one folder."""

_LOADED = re.compile(
    r"(\w*config|tokenizer.*|special_tokens_map|added_tokens|\w*vocab\w*|encoder|emoji|chat_template)\.json"
    r"|.*\.safetensors\.index\.json|(\w*vocab\w*|merges|dict)\.txt|vocab\.bpe|bpe\.codes|.*\.(model|spm|jinja|safetensors)"
)
"""Names of the files that loaders of other libraries open in a folder of a model."""

_INNER = re.compile(r"checkpoint-\d+|(proponent|whence)_\w+")
_IMPLEMENTATION = re.compile(r"_?\w+_implementation(_internal)?")


_ODD = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, AssertionError)
"""Errors of code that meets a value of another kind, of another sign or of another size than the file should hold."""


class StoredName(str):
    """The name of a model that stands in a file: looked up in folders and in the cache of the hub, never on the hub.

    Only a name that the user gives may be fetched.
    """

    __slots__ = ()


@contextmanager
def reading_run(folder: Path) -> Generator[None]:
    """Name the folder where values in it have a kind or a size that no training writes."""
    try:
        yield
    except _ODD as error:
        said = next(iter(str(error).splitlines()), "")
        raise RunError(
            f"{folder} cannot be read: a file of it holds a value that no training writes ({type(error).__name__}: "
            f"{said[:200]}): copy the run again"
        ) from error


def home_of(path: Path) -> Path:
    """The folder of the run that a file belongs to."""
    home = path.parent
    while _INNER.fullmatch(home.name) and home.parent != home:
        home = home.parent
    return home


def require_inside(folder: Path) -> Path:
    """Refuse a folder of a run that is a link out of the run."""
    if not lies_in(folder, home_of(folder)):
        raise RunError(f"{folder} is a link out of its run: copy the folder there, or give the folder that it leads to")
    return folder


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON object from a training run."""
    try:
        loaded = DOOR.read_json(path, most=MOST_SETTINGS, within=home_of(path))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}: the run folder is damaged or incompletely copied") from error
    if not isinstance(loaded, dict):
        raise RunError(f"{path} is not a JSON object")
    return cast("dict[str, Any]", loaded)


def read_card(path: Path) -> str:
    """Read a model card (README.md); empty if there is none."""
    if not path.is_file():
        return ""
    try:
        return DOOR.read_text(path, most=MOST_TEXT, within=home_of(path), errors="replace")
    except OSError as error:
        raise RunError(f"cannot read {path} ({error.strerror}): copy the run again, or remove the file") from error


def weights_file(path: Path) -> Path:
    """The path of weights that another library opens, once they are checked."""
    DOOR.check(path, most=MOST_WEIGHTS, within=home_of(path))
    return path


def check_files(folder: Path) -> None:
    """Check every file that a loader of another library may open in a folder."""
    homes = [folder, *(one for name in ("additional_chat_templates",) if (one := folder / name).is_dir())]
    for home in homes:
        for number, path in enumerate(home.iterdir()):
            if number >= MOST_ENTRIES:
                raise RunError(f"{home} holds more than {MOST_ENTRIES:,} files: give a folder with one run")
            if _LOADED.fullmatch(path.name) and not path.is_dir():
                _check(path, _most(path))


def _most(path: Path) -> int:
    if path.suffix == ".safetensors":
        return MOST_WEIGHTS
    return MOST_TEXT if path.suffix == ".jinja" else MOST_SETTINGS


def _check(path: Path, most: int) -> None:
    try:
        DOOR.check(path, most=most, within=home_of(path))
    except OSError as error:
        raise RunError(
            f"cannot read {path} ({error.strerror}): copy the whole run again, or remove the file"
        ) from error


def refuse_named_files(path: Path) -> None:
    """Refuse the settings of a tokenizer that name files elsewhere: its files are those of its folder."""
    settings = read_settings(path) if path.is_file() else {}
    for name, value in settings.items():
        names = cast("list[object]", value) if isinstance(value, list) else [value]
        if not name.endswith(("_file", "_files")):
            continue
        elsewhere = next((one for one in names if isinstance(one, str) and _leads_out(path.parent, one)), None)
        if elsewhere is not None:
            raise RunError(
                f"{path} names {elsewhere[:100]!r} as {name}: only files of the same folder are read: take {name} out"
            )


def _leads_out(folder: Path, name: str) -> bool:
    """Whether a file exists under a name, outside of the folder: earlier versions left stale paths in settings."""
    try:
        return "\0" in name or (os.path.lexists(folder / name) and not lies_in(folder / name, folder))
    except OSError:  # no name that a file may have
        return False


def refuse_hub_code(path: Path, settings: dict[str, Any]) -> None:
    """Refuse a configuration, or a part of one, that uses code from a hub."""
    parts: list[dict[str, Any]] = [settings]
    while parts:
        for name, value in parts.pop().items():
            found = list(cast("dict[str, object]", value).values()) if isinstance(value, dict) else [value]
            if isinstance(value, dict):
                parts.append(cast("dict[str, Any]", value))
            code = next((one for one in found if isinstance(one, str) and _from_hub(one)), None)
            if _IMPLEMENTATION.fullmatch(name) and code is not None:
                raise RunError(
                    f"{path} uses attention code from a hub ({code[:100]}), which is not run by default: allow it "
                    f"with --trust-remote-code (trust_remote_code=True), or take {name} out"
                )


def _from_hub(name: str) -> bool:
    """Whether attention code is somebody's, or that of a package which is not there: it is then fetched from a hub."""
    plain = name.removeprefix("paged|")
    if {"/", ":"} & set(plain):
        return True
    return plain.startswith("flash_attention") and find_spec("flash_attn") is None


def refuse_code(path: Path, trust_remote_code: bool) -> None:
    """Refuse code that comes with a model unless it is allowed: without its code, it would be another model."""
    code = read_settings(path).get("auto_map") if path.is_file() and not trust_remote_code else None
    if code:
        raise RunError(
            f"{path.parent} contains custom code (auto_map in {path.name}), which is not run by default: "
            "read it, then allow it with --trust-remote-code (trust_remote_code=True); if the model was trained "
            "without that code, take auto_map out"
        )
