"""Builds and changes of an index in a bucket: made in a local folder, then put there by one conditional write."""

import hashlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from proponent import disk
from proponent.buckets import Bucket, Held, url_of
from proponent.errors import DamagedError, InputError, MismatchError
from proponent.store.checksums import sums_of
from proponent.store.door import DOOR, MOST_JSON
from proponent.store.files import publish_bytes
from proponent.store.layout import MANIFEST
from proponent.store.leases import NAME, Leases
from proponent.store.manifest import Manifest, parse_manifest, read_json
from proponent.store.mirror import CHANGE, Home, Mirror, alone_in, mirror_of
from proponent.store.outbox import outbox_of, work_folder
from proponent.store.remote_files import WAY_OUT, has_size, lay

_WHAT = "what"


def sealed_mirror(folder: Path) -> Mirror | None:
    """The mirror of a finished index; None for any other folder, and for one that is being changed."""
    return None if folder.parent.name.startswith(CHANGE) else mirror_of(folder)


def plan_folder(out: str | Path) -> Path:
    """The folder with the plan of an index that is built or changed, if it has one."""
    url = url_of(out)
    if url is None:
        return Path(out)
    home = Home(url)
    sealed = home.bucket.read(MANIFEST, MOST_JSON)
    return home.sealed(*sealed) if sealed is not None else _working(home)


def _working(home: Home) -> Path:
    folder = work_folder(home)
    outbox = outbox_of(folder)
    assert outbox is not None
    leases = Leases(folder)
    try:
        with leases.whole():
            outbox.take_plan()
    finally:
        leases.close()
    return folder


@contextmanager
def building(out: str | Path, *, repair: bool = False, adding: str | None = None) -> Generator[Path]:
    """The folder in which an index is built; `adding` says what is appended.

    Raises:
        InputError: what is asked is not possible in a bucket, or not in this one.
    """
    url = url_of(out)
    if url is None:
        yield Path(out)
        return
    if repair:
        raise InputError(
            f"--repair is for an index in a local folder: download {url}, repair it there, and upload it again"
        )
    home = Home(url)
    sealed = home.bucket.read(MANIFEST, MOST_JSON)
    if sealed is not None:
        folder = home.sealed(*sealed)
        _refuse_incomplete(home.bucket, folder)
        if adding is None:
            yield folder  # nothing is done, or it is refused
            return
        with changing_in_bucket(folder, f"append {adding}") as changed:
            yield changed
        return
    home.bucket.refuse_unconditional(changes=False)
    folder = _working(home)
    yield folder
    sealed = home.bucket.read(MANIFEST, MOST_JSON)
    if sealed is not None:
        _settle(home, folder, sealed[0])


def _refuse_incomplete(bucket: Bucket, folder: Path) -> None:
    for name, sums in read_json(folder / MANIFEST, Manifest).files.items():
        if not has_size(folder / name, sums.size):
            raise DamagedError(f"{bucket.at(name)} is missing or has another size: {WAY_OUT}")


def _settle(home: Home, folder: Path, text: bytes) -> None:
    """Keep the files of a finished build as those of the index, unless another process works with them."""
    leases = Leases(folder)
    alone = leases.alone
    leases.close()
    if not alone:
        return
    disk.remove(folder / NAME)
    target = home.place(hashlib.sha256(text).hexdigest()[:16])
    own = (folder / MANIFEST).is_file() and DOOR.read_bytes(folder / MANIFEST, most=MOST_JSON) == text
    if own and not target.parent.exists():
        disk.make_private_folder(target.parent)
        disk.rename(folder, target)
    else:
        disk.remove_tree(folder)


@contextmanager
def changing_in_bucket(folder: Path, what: str) -> Generator[Path]:
    """A copy of a finished index that is changed; the change is put into the bucket afterwards.

    Raises:
        InputError: another process of this machine changes it, or the store has no conditional writes.
        MismatchError: another machine has changed it meanwhile; nothing is changed then.
    """
    mirror = mirror_of(folder)
    assert mirror is not None
    bucket, home = mirror.bucket, Home(mirror.bucket.url)
    found, own = bucket.read(MANIFEST, MOST_JSON), DOOR.read_bytes(folder / MANIFEST, most=MOST_JSON)
    if found is None or found[0] != own:
        raise MismatchError(f"{bucket.url} was changed by another process: run the same command again")
    bucket.refuse_unconditional(changes=True)
    place = home.place(CHANGE + folder.parent.name)
    home.prepare()

    def busy() -> InputError:
        return InputError(f"another process of this machine is changing {bucket.url}: wait for it")

    with alone_in(place.parent, busy):
        before = read_json(folder / MANIFEST, Manifest)
        _copy(folder, place, before, what)
        copy = mirror_of(place)
        assert copy is not None
        yield place
        _put_change(bucket, place, before, found[1])
        disk.remove_tree(place)


def _copy(folder: Path, place: Path, manifest: Manifest, what: str) -> None:
    """Give the files second names; what an interrupted change of the same kind has done is kept."""
    said = place.parent / _WHAT
    if said.is_file() and DOOR.read_bytes(said, most=2**16) == what.encode() and (place / MANIFEST).is_file():
        return
    disk.remove_tree(place)
    for name in manifest.files:
        disk.make_folder((place / name).parent)
        if not (folder / name).is_file():
            continue
        try:
            disk.link(folder / name, place / name)
        except OSError:  # a file system without second names: it is fetched again
            lay(place / name, manifest.files[name].size)
    publish_bytes(place / MANIFEST, [DOOR.read_bytes(folder / MANIFEST, most=MOST_JSON)], noted=False)
    publish_bytes(said, [what.encode()], noted=False)


def _put_change(bucket: Bucket, place: Path, before: Manifest, held: Held) -> None:
    """Put the new files, then the manifest in place of the one that was read, then remove the files that it lacks."""
    after = read_json(place / MANIFEST, Manifest)
    if after == before:
        return
    fresh = {name: sums for name, sums in after.files.items() if before.files.get(name) != sums}
    made: list[str] = []
    for name, sums in fresh.items():
        if bucket.create(name, place / name) is not None:
            made.append(name)
        elif sums_of(bucket.chunks(name)) != sums:
            raise MismatchError(
                f"{bucket.at(name)} is there already, with other contents: another process changes {bucket.url}, or "
                "one was stopped in the middle: wait for it, or remove that object, and run the same command again"
            )
    if bucket.replace(MANIFEST, DOOR.read_bytes(place / MANIFEST, most=MOST_JSON), held) is None:
        _give_way(bucket, place, made, after)
    gone = [name for name in before.files if name not in after.files]
    bucket.remove(gone)


def _give_way(bucket: Bucket, place: Path, made: Sequence[str], after: Manifest) -> None:
    """Another process was faster: its change counts, unless it is the same one."""
    found = bucket.read(MANIFEST, MOST_JSON)
    theirs = None if found is None else parse_manifest(place / MANIFEST, found[0])
    if theirs is not None and theirs.merkle_root == after.merkle_root:
        return
    bucket.remove([name for name in made if theirs is None or name not in theirs.files])
    disk.remove_tree(place)
    raise MismatchError(
        f"{bucket.url} was changed by another process meanwhile, and that change counts: run the same command again"
    )
