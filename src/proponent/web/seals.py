"""Seals of stored answers: made with a key that only this user has, so that answers of others are told apart."""

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from proponent.disk import make_folder, write_private
from proponent.errors import ProponentError
from proponent.local_sockets import state_folder
from proponent.notices import say_once

SEAL = "seal"
KEY_BYTES = 32


def sealed(content: Mapping[str, Any], root: str) -> dict[str, Any]:
    """Return a content with its seal; `root` is the Merkle root of the index."""
    plain: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
    return plain | {SEAL: _seal(plain, root)}


def is_own(content: Mapping[str, Any], root: str) -> bool:
    """Whether a content carries the seal of this user for this index."""
    plain = {name: value for name, value in content.items() if name != SEAL}
    return hmac.compare_digest(str(content.get(SEAL, "")).encode("utf-8", "replace"), _seal(plain, root).encode())


def _seal(plain: Mapping[str, Any], root: str) -> str:
    spelled = json.dumps([root, plain], sort_keys=True)
    return hmac.new(own_key(), spelled.encode("ascii"), hashlib.sha256).hexdigest()


@cache
def own_key() -> bytes:
    """The key of this user, made at first use; without a place for it, a key of this process."""
    folder = state_folder() / "proponent"
    path = folder / "answers.key"
    try:
        if not path.exists():
            make_folder(folder)
            write_private(path, secrets.token_bytes(KEY_BYTES))
    except (ProponentError, OSError):
        pass  # another process made it at the same time, or there is no place for it
    found = _private(path)
    if found is None:
        say_once(
            f"{path} cannot be made or is not private: answers stored now will be shown as not your own later; remove "
            "the file, or set XDG_STATE_HOME to a folder that you can write to"
        )
    return found or secrets.token_bytes(KEY_BYTES)


def _private(path: Path) -> bytes | None:
    """The content of a key file, unless others could have written or read it."""
    try:
        opened = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(opened, "rb") as file:  # noqa: PTH123 - it is open already
            state = os.fstat(opened)
            user = getattr(os, "getuid", None)  # there are none elsewhere than on POSIX, nor modes of files
            mine = user is None or (state.st_uid == user() and not state.st_mode & 0o077)
            found = file.read(KEY_BYTES + 1) if mine and stat.S_ISREG(state.st_mode) else b""
    except OSError:
        return None
    return found if len(found) == KEY_BYTES else None
