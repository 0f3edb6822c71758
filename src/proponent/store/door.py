"""How the files of an index are opened: only regular ones, no links, and none larger than the format can make them."""

from pathlib import Path

from proponent.errors import DamagedError
from proponent.foreign_files import MEGABYTE, Door

DOOR = Door(DamagedError, "restore it, or build the index again", links=False)

MOST_JSON = 128 * MEGABYTE
"""Maximum bytes of a plan or a manifest, which holds 16 characters per 256 KiB of the index: enough for 2 TB."""

MOST_NOTE = 16 * MEGABYTE
"""Maximum bytes of a note next to a finished file."""

ANY = 2**50
"""Maximum bytes of a file that is mapped or read in blocks."""

FOLDERS = ("examples", "forms", "postings", "tables", "tombstones", "plans")
"""Folders of an index."""

LINK = "is a link, and an index contains no links"


def refuse_links(folder: Path) -> None:
    """Refuse an index with a folder, a plan, a manifest or locks behind a link: what is written there is elsewhere."""
    for name in (*FOLDERS, "plan.json", "manifest.json", "lease"):
        _refuse(folder / name)
    for name in ("forms", "postings"):
        if (folder / name).is_dir():
            for inner in (folder / name).iterdir():
                _refuse(inner)


def _refuse(path: Path) -> None:
    if path.is_symlink():
        raise DamagedError(f"{path} {LINK}: replace it with a regular file or folder, or build the index elsewhere")
