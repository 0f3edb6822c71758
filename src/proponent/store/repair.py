"""Unseal an index with damaged files, keep the intact ones, and seal it again."""

import shlex
from collections.abc import Callable, Collection
from pathlib import Path

from proponent import disk
from proponent.errors import DamagedError
from proponent.store.checksums import Checksums, sums_of_file
from proponent.store.door import ANY, DOOR
from proponent.store.files import NOTE, finished, is_temporary, note_of, publish_bytes, walk, write_note
from proponent.store.layout import PLAN, Layout
from proponent.store.manifest import Manifest, canonical, read_json
from proponent.store.names import refuse_name


def publish_manifest(
    layout: Layout, manifest: Manifest, first: Callable[[Manifest, bytes], bytes] | None = None
) -> None:
    """Write the seal; `first` may seal elsewhere before, and says what was sealed there."""
    sealed = manifest.sealed()
    text = (canonical(sealed.model_dump()) + "\n").encode()
    publish_bytes(layout.manifest, [text if first is None else first(sealed, text)], noted=False)


def remove_strays(layout: Layout, known: Collection[str] = ()) -> None:
    """Remove leftovers of killed writers: temporary files, notes of sealed files. Only for the index's sole writer."""
    for path in walk(layout.folder):
        name = layout.name(path)
        if is_temporary(name) or (name.endswith(NOTE) and name.removesuffix(NOTE) in known):
            disk.remove(path)


def settle(layout: Layout) -> None:
    """Sync the names in every folder: a killed process may have created or renamed files without syncing them."""
    # Otherwise files that are built on them would be durable, and they would not.
    for folder in sorted(path for path in layout.folder.rglob("*") if path.is_dir() and not path.is_symlink()):
        disk.sync_folder(folder)
    disk.sync_folder(layout.folder)


def recheck(layout: Layout, *, every_byte: bool) -> None:
    """Check the finished files of an unfinished index; damaged ones count as unfinished from now on."""
    notes = [path for path in walk(layout.folder) if path.name.endswith(NOTE)]
    wrong: list[str] = []
    for note in notes:
        path = note.with_name(note.name.removesuffix(NOTE))
        sums = finished(path)
        if sums is None or not _is_right(path, sums, every_byte=every_byte):
            wrong.append(layout.name(path))
            disk.remove(note)
    for note in notes:
        if _is_last(layout.name(note), wrong):
            disk.remove(note)


def _is_last(name: str, wrong: Collection[str]) -> bool:
    """Whether a file is the last one (the features) of a segment with a damaged file."""
    # Without it, or its note, the segment is processed again, and its missing files are computed.
    folder, _, rest = name.partition("/")
    segment = rest.partition(".")[0]
    mine = any("/seg-" not in one or f"/{segment}." in one or f"/{segment}-" in one for one in wrong)
    return folder == "examples" and ".safetensors" in rest and mine


def reopen(layout: Layout, *, every_byte: bool, appending: bool = False) -> None:
    """Check the files of a sealed index; if some are missing or damaged, unseal it and remove them."""
    # The build then continues with the rest, as after a kill.
    manifest = read_json(layout.manifest, Manifest)
    wrong = [
        name
        for name, sums in manifest.files.items()
        if refuse_name(layout.folder, name) is not None
        or not _is_right(layout.folder / name, sums, every_byte=every_byte)
    ]
    if not wrong:
        return
    if appending:
        raise DamagedError(
            f"{layout.folder / wrong[0]} is missing or differs from what was written: repair the index "
            f"before you change it (`proponent verify {shlex.quote(str(layout.folder))}` shows how)"
        )
    for name in wrong:
        _refuse_elsewhere(layout.folder, name)
    if manifest.generation > 1 or PLAN in wrong:
        raise DamagedError(
            f"{layout.folder / wrong[0]} differs from what was written, and this index was changed after its first "
            "build (append, delete or merge), so it cannot be recreated from one run and one data set: restore the "
            "file, or build the index again"
        )
    for name, sums in manifest.files.items():
        path = layout.folder / name
        if name in wrong or _is_last(name, wrong):
            disk.remove(path)
            disk.remove(note_of(path))
        elif name != PLAN:
            write_note(path, sums)
    disk.remove(layout.manifest)
    disk.sync_folder(layout.folder)


def _refuse_elsewhere(folder: Path, name: str) -> None:
    """Refuse to remove files outside of the index; a link in place of a file can be removed itself."""
    problem = refuse_name(folder, name)
    link = (folder / name).is_symlink() and refuse_name(folder, str(Path(name).parent)) is None
    if problem is not None and not link:
        raise DamagedError(
            f"{folder / name} {problem}: replace it with a regular file, or build the index again elsewhere"
        )


def _is_right(path: Path, sums: Checksums, *, every_byte: bool) -> bool:
    try:
        return sums_of_file(path) == sums if every_byte else DOOR.check(path, most=ANY) == sums.size
    except (OSError, DamagedError):
        return False
