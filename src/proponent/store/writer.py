"""Write an index: plan first, shards in any order by any number of processes, manifest last. A killed build resumes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int

from proponent import disk
from proponent.errors import DamagedError, InputError, MismatchError
from proponent.store.checksums import Checksums, has_blocks, sums_of_file
from proponent.store.compatibility import refuse_other_plan, refuse_other_source
from proponent.store.deletion import sweep
from proponent.store.door import refuse_links
from proponent.store.features import gather_features
from proponent.store.files import (
    NOTE,
    Columns,
    finished,
    is_temporary,
    note_of,
    publish_bytes,
    publish_table,
    publish_tensors,
    walk,
)
from proponent.store.layout import MANIFEST, PLAN, Layout
from proponent.store.leases import NAME, Leases
from proponent.store.manifest import (
    FORMAT,
    Addition,
    Manifest,
    Plan,
    PlannedSegment,
    SkippedRow,
    Source,
    canonical,
    read_json,
)
from proponent.store.mapped import MappedTensors
from proponent.store.mirror import mirror_of
from proponent.store.outbox import outbox_of
from proponent.store.postings import Shard, write_postings
from proponent.store.refit import refit_name, refitted_table
from proponent.store.repair import publish_manifest, recheck, remove_strays, reopen, settle
from proponent.store.rows import decode_arrays, encode_arrays
from proponent.store.shard_outputs import OUTPUTS
from proponent.types import CheckpointId

Arrays = Mapping[str, np.ndarray]


class Writer:
    """An index that is built or appended to."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        *,
        append: Callable[[int, Manifest], Source | None] | None = None,
        repair: bool = False,
        waiting: Callable[[], None] | None = None,
        follows: bool = False,  # whether tables get further arrays after the gradients
    ) -> None:
        self.folder, self.layout, self._follows = folder, Layout(folder), follows
        self.plan, self.source = plan, plan.source
        _refuse_other_owner(folder, appending=append is not None)
        disk.make_folder(folder)
        self._outbox = outbox_of(folder)
        self.leases = Leases(folder)
        with self.leases.whole(waiting):
            self._claim(plan, repair=repair, appending=append is not None)
            self.base = self._sealed() if append is not None else None
            self._nothing_new = False
            if append is not None:
                self._claim_addition(append)
        self.refresh()

    @property
    def finished(self) -> Manifest | None:
        """The manifest of an index that already contains this writer's source; None while work remains."""
        manifest = self._sealed()
        if manifest is None and self._outbox is not None:
            return self._outbox.sealed
        if manifest is None or self.base is None:
            return manifest
        done = self._nothing_new or manifest.generation > self.base.generation
        return manifest if done else None

    @cached_property
    def units(self) -> dict[tuple[str, CheckpointId | None, int], int]:
        """Number of every piece of work: (segment, checkpoint, shard), or (segment, None, -1) for the final files."""
        keys: list[tuple[str, CheckpointId | None, int]] = []
        for segment in self.source.segments:
            ids = [one.id for one in self.plan.checkpoints]
            keys += [(segment.name, at, shard) for at in ids for shard in range(len(segment.shards) - 1)]
            keys.append((segment.name, None, -1))
        return {key: number for number, key in enumerate(keys)}

    def has_shard(self, at: CheckpointId, segment: str, shard: int) -> bool:
        """Whether a shard was finished, by this or any other process, now or earlier."""
        return self._done(self.layout.shard(at, segment, shard))

    def has_shard_now(self, at: CheckpointId, segment: str, shard: int) -> bool:
        """Whether a shard is finished; a bucket is asked."""
        path = self.layout.shard(at, segment, shard)
        return self._done(path) or (self._outbox is not None and self._outbox.look(path))

    def refresh(self) -> None:
        """See what other machines have put into the bucket, and put what is not there yet."""
        if self._outbox is not None:
            self._outbox.refresh(tables=not self._follows)

    def put_shard(self, at: CheckpointId, segment: str, shard: int, arrays: dict[str, np.ndarray]) -> None:
        """Publish one shard of forms."""
        path = self.layout.shard(at, segment, shard)
        publish_tensors(path, encode_arrays(arrays, self.plan.rows))
        self._put(path)

    def table_names(self, at: CheckpointId) -> tuple[str, ...]:
        """Name the arrays of a checkpoint's published table."""
        table = self._table(at)
        return () if table is None else table.names

    def put_table(self, at: CheckpointId, arrays: Arrays, *, after: bool = False) -> None:
        """Publish the table (embedding or head) that a checkpoint's products need; `after` the gradients, again."""
        publish_tensors(self.layout.table(at), arrays)
        if self._outbox is not None and not after:
            self._outbox.put(self.layout.table(at), first=self._follows)

    def read_table(self, at: CheckpointId) -> dict[str, np.ndarray]:
        """Read a published table back."""
        table, base = self._table(at), self.base
        name = None if base is None else refit_name(base.files)
        again = None if name is None or base is None else self._mapped(self.folder / name, base.files[name])
        held: Mapping[str, np.ndarray] = {} if table is None else table.all()
        return {**held, **refitted_table(again, at)}

    def has_examples(self, segment: str) -> bool:
        """Whether the examples of a segment were published."""
        return self._done(self.layout.examples(segment))

    def put_examples(self, segment: str, columns: Columns) -> None:
        """Publish the user's data."""
        publish_table(self.layout.examples(segment), columns)
        self._put(self.layout.examples(segment))

    def shards(
        self,
        at: CheckpointId,
        segment: PlannedSegment,
        order: Int[np.ndarray, " n"],
        names: tuple[str, ...] | None = None,
    ) -> Iterator[Shard]:
        """Read the finished shards of a segment back, in their stored form."""
        for shard, (start, stop) in enumerate(zip(segment.shards[:-1], segment.shards[1:], strict=True)):
            path = self.layout.shard(at, segment.name, shard)
            file = MappedTensors(path, self._sums(path))
            wanted = file.names if names is None else [name for name in names if name in file.names]
            yield order[start:stop], {name: file.view(name) for name in wanted}

    def decoded(self, at: CheckpointId, segment: PlannedSegment, order: Int[np.ndarray, " n"]) -> Iterator[Shard]:
        """Read the finished shards of a segment back, in 32-bit floats."""
        for places, arrays in self.shards(at, segment, order):
            yield places, decode_arrays(arrays)

    def gather(
        self, segment: PlannedSegment, order: Int[np.ndarray, " n"], labels: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """Gather the arrays over a segment's examples from its shards; see `gather_features`."""
        parts = {one.id: self.shards(one.id, segment, order, OUTPUTS) for one in self.plan.checkpoints}
        return gather_features(segment.n, labels, parts)

    def is_finished(self, segment: str) -> bool:
        """Whether all files of a segment exist."""
        return self._done(self.layout.features(segment)) and all(
            self.has_shard(at, segment, shard) for name, at, shard in self.units if name == segment and at is not None
        )

    def finish(
        self, segment: PlannedSegment, order: Int[np.ndarray, " n"], features: Arrays, *, postings: bool
    ) -> None:
        """Publish the files that follow a segment's shards."""
        for checkpoint in self.plan.checkpoints if postings else ():
            path = self.layout.postings(checkpoint.id, segment.name)
            if not self._done(path):
                write_postings(path, segment.n, lambda names, at=checkpoint.id: self.shards(at, segment, order, names))
                self._put(path)
        publish_tensors(self.layout.features(segment.name), features)
        self._put(self.layout.features(segment.name))

    def seal(
        self, skipped: Sequence[SkippedRow], notes: Sequence[str], seconds: Mapping[str, float], peak_rss: int = 0
    ) -> None:
        """Collect the checksums of every file and write the manifest: from here on the index exists."""
        with self.leases.whole():
            if self.finished is not None:
                return
            base = self.base
            if self._outbox is not None:
                self._outbox.refresh(tables=True)
                self._outbox.fetch_all()
            noted = list(self._noted())
            for path, sums in noted:
                if has_blocks(path, sums):  # of any process that took part
                    continue
                if self._outbox is not None:
                    self._outbox.fetch_again(path)
                else:
                    raise DamagedError(
                        f"{path} differs from what was written: run the same `proponent index` command again with "
                        "--repair, which computes it anew"
                    )
            files = dict(base.files) if base is not None else {PLAN: sums_of_file(self.layout.plan)}
            files |= {self.layout.name(path): sums for path, sums in noted}
            self._refuse_incomplete(files)
            manifest = Manifest(
                format=FORMAT,
                generation=1 if base is None else base.generation + 1,
                merkle_root="",
                files=files,
                sources=[*(base.sources if base is not None else []), self.source],
                segments=[*(base.segments if base is not None else []), *self.source.segments],
                deleted="" if base is None else base.deleted,
                skipped=[*(base.skipped if base is not None else []), *skipped],
                notes=list(dict.fromkeys([*(base.notes if base is not None else []), *notes])),
                seconds=dict(seconds),
                peak_rss=peak_rss,
            )
            publish_manifest(self.layout, manifest, None if self._outbox is None else self._outbox.seal)
            for path, _ in noted:
                disk.remove(note_of(path))

    def close(self) -> None:
        """Release the index to other processes."""
        self.leases.close()

    def _table(self, at: CheckpointId) -> MappedTensors | None:
        path = self.layout.table(at)
        sums = self.base.files.get(self.layout.name(path)) if self.base is not None else self._sums(path)
        if sums is None and self._outbox is not None:
            sums = self._outbox.fetch(path, first=True)
        return None if sums is None else self._mapped(path, sums)

    def _mapped(self, path: Path, sums: Checksums) -> MappedTensors:
        mirror = mirror_of(self.folder)
        return MappedTensors(path, sums, None if mirror is None else mirror.file(path).fill)

    def _put(self, path: Path) -> None:
        if self._outbox is not None:
            self._outbox.put(path)

    def _done(self, path: Path) -> bool:
        """Whether a file is finished."""
        return (self._outbox is not None and self._outbox.has(path)) or self._sums(path) is not None

    def _sums(self, path: Path) -> Checksums | None:
        """Checksums of a finished file: from its note, or from the manifest if another process sealed the index."""
        found = finished(path)
        if found is None and self.layout.manifest.is_file():
            sealed = self.finished
            return None if sealed is None else sealed.files.get(self.layout.name(path))
        if found is None and self._outbox is not None:
            return self._outbox.fetch(path)
        return found

    def _claim(self, plan: Plan, *, repair: bool, appending: bool) -> None:
        alone = self.leases.alone
        if not self.layout.manifest.is_file():
            refuse_links(self.folder)
        if alone:
            remove_strays(self.layout)
        if not self.layout.plan.is_file():
            publish_bytes(
                self.layout.plan,
                [(canonical(plan.model_dump(mode="json", by_alias=True)) + "\n").encode()],
                noted=False,
            )
            if self._outbox is None or self._outbox.put_plan():
                return
        found = read_json(self.layout.plan, Plan)
        refuse_other_plan(self.folder, found, plan, finished=self.layout.manifest.is_file(), data=not appending)
        self.plan, self.source = found, found.source  # names may have changed; the frozen plan stays
        if not alone:
            return
        if self.layout.manifest.is_file():
            reopen(self.layout, every_byte=repair, appending=appending)
        refuse_links(self.folder)
        sealed = self._sealed()
        if sealed is not None:
            remove_strays(self.layout, sealed.files)
        if sealed is None or appending:
            recheck(self.layout, every_byte=repair)
            settle(self.layout)

    def _claim_addition(self, append: Callable[[int, Manifest], Source | None]) -> None:
        base = self.base
        if base is None:
            raise InputError(
                f"the index at {self.folder} is unfinished: finish it first (the same command without --append)"
            )
        source = append(1 + max((int(one.name) for one in base.segments), default=-1), base)
        if source is None:
            self._nothing_new = True
            return
        self.source = source
        path = self.layout.addition(base.generation + 1)
        if path.is_file() and finished(path):
            refuse_other_source(self.folder, path, read_json(path, Addition).source, source)
            return
        sweep(self.layout, set(base.files))  # leftovers of an abandoned append
        addition = Addition(format=FORMAT, source=source)
        publish_bytes(path, [(canonical(addition.model_dump()) + "\n").encode()])

    def _sealed(self) -> Manifest | None:
        path = self.layout.manifest
        return read_json(path, Manifest) if path.is_file() else None

    def _refuse_incomplete(self, files: Mapping[str, Checksums]) -> None:
        for name, at, shard in self.units:
            path = self.layout.features(name) if at is None else self.layout.shard(at, name, shard)
            if self.layout.name(path) not in files:
                raise DamagedError(f"{path} is missing: run the same `proponent index` command again with --repair")

    def _noted(self) -> Iterator[tuple[Path, Checksums]]:
        """Finished files of this change that no manifest knows yet."""
        known: set[str] = set() if self.base is None else set(self.base.files)
        for note in walk(self.folder):
            if not note.name.endswith(NOTE):
                continue
            path = note.with_name(note.name.removesuffix(NOTE))
            sums = finished(path)
            if sums is not None and self.layout.name(path) not in known:
                yield path, sums


def _refuse_other_owner(folder: Path, *, appending: bool) -> None:
    """Refuse a folder with files of other programs, or without an index to append to."""
    if folder.exists() and not folder.is_dir():
        raise MismatchError(f"{folder} is a file: choose another --out")
    held = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set[str]()
    ours = {NAME, PLAN, MANIFEST}
    alien = {name for name in held if name not in ours and not is_temporary(name)}
    if PLAN not in held and alien:
        raise MismatchError(f"{folder} is not empty and not an index (it contains {min(alien)}): choose another --out")
    if appending and PLAN not in held:
        raise InputError(f"no index at {folder} to append to: leave --append out to build a new index")
