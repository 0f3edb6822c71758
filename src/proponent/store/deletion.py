"""Change a sealed index. Files never change; a new manifest replaces the old one."""

import hashlib
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from jaxtyping import Int

from proponent import disk
from proponent.errors import InputError
from proponent.store.bucket_changes import changing_in_bucket, sealed_mirror
from proponent.store.door import refuse_links
from proponent.store.files import finished, publish_tensors, walk
from proponent.store.layout import MANIFEST, Layout
from proponent.store.leases import NAME, Leases
from proponent.store.manifest import Manifest
from proponent.store.reader import Store
from proponent.store.repair import publish_manifest, recheck, remove_strays, settle


@contextmanager
def changing(folder: Path, waiting: Callable[[], None] | None = None) -> Generator[Store]:
    """Lock a sealed index while it is changed."""
    leases = Leases(folder)
    try:
        with leases.whole(waiting):
            store = Store(folder)
            refuse_links(folder)
            if not leases.alone:
                raise InputError(f"another process is writing to {folder}: wait for it")
            pending = store.layout.addition(store.manifest.generation + 1)
            if finished(pending) is not None:
                raise InputError(
                    f"an append to {folder} was not finished: run its command again, or cancel it by removing {pending}"
                )
            remove_strays(store.layout, store.manifest.files)
            recheck(store.layout, every_byte=False)
            settle(store.layout)
            yield store
    finally:
        leases.close()


def delete(folder: Path, examples: Int[np.ndarray, " m"], waiting: Callable[[], None] | None = None) -> Manifest:
    """Delete examples: they no longer appear in rankings. Their bytes stay until the index is merged."""
    if sealed_mirror(folder) is not None:
        what = f"delete {hashlib.sha256(np.unique(examples).astype('<i8').tobytes()).hexdigest()}"
        with changing_in_bucket(folder, what) as copy:
            return delete(copy, examples, waiting)
    with changing(folder, waiting) as store:
        manifest, layout = store.manifest, store.layout
        before = [segment.offset + segment.deleted for segment in store.segments]
        gone = np.unique(np.concatenate([*before, examples]).astype(np.int64))
        if len(gone) == store.n:
            raise InputError(f"that would delete every example of {folder}: delete the folder instead")
        if len(gone) == sum(map(len, before)):
            sweep(layout, set(manifest.files))  # leftovers of a killed delete
            return manifest
        generation = manifest.generation + 1
        path = layout.tombstones(generation)
        sums = publish_tensors(path, {"deleted": gone})
        files = {name: one for name, one in manifest.files.items() if name != manifest.deleted}
        fresh = manifest.model_copy(
            update={
                "generation": generation,
                "files": files | {layout.name(path): sums},
                "deleted": layout.name(path),
            }
        )
        publish_manifest(layout, fresh)
        sweep(layout, set(fresh.files))
        return fresh.sealed()


def sweep(layout: Layout, known: set[str]) -> None:
    """Remove files that are in no manifest, and folders that become empty."""
    emptied: set[Path] = set()
    for path in list(walk(layout.folder)):
        name = layout.name(path)
        if name not in known and name not in {MANIFEST, NAME} and not path.is_symlink() and _is_ours(name):
            disk.remove(path)
            emptied.add(path.parent)
    for folder in sorted(emptied):  # else a power cut could restore files that a later change would accept as its own
        disk.sync_folder(folder)
    for path in sorted(layout.folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):  # not empty
                disk.remove_folder(path)


def _is_ours(name: str) -> bool:
    """Whether proponent writes files of that name: other files in the folder are not touched."""
    first, _, rest = name.partition("/")
    return bool(rest) and first in {"examples", "forms", "postings", "tables", "tombstones", "plans"}
