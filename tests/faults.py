"""Made-up indexes without any model, a process that builds them and is killed, and hooks on every disk operation.

Run as a program it waits for jobs on stdin and forks one child per job: a kill then costs milliseconds, not the start
of an interpreter.
"""

import contextlib
import functools
import gc
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from proponent import disk
from proponent.errors import DamagedError, InputError, MismatchError
from proponent.gradients.forms import Rows
from proponent.gradients.gradient import Gradient
from proponent.method import Gradients
from proponent.search import Search
from proponent.store import (
    FORMAT,
    Plan,
    PlannedCheckpoint,
    PlannedSegment,
    PlannedTerm,
    SkippedRow,
    Source,
    Store,
    Verdict,
    Writer,
    delete,
    merge,
    verify,
)
from proponent.store.files import finished
from proponent.types import CheckpointId

STEPS = (3, 7)
WIDTH, TOKENS, SEGMENT, SHARD = 6, 12, 12, 6
SIZES = {"base": 20, "more": 10, "other": 9}
LABELS = ["a", "b", "c"]
DELETED = np.asarray([1, 4, 13, 25])
ROWS_MERGED = 1000
QUERIES = 3

Event = Callable[[str], None]
REFUSALS = (DamagedError, MismatchError, InputError)
"""The errors that a damaged index may be refused with; anything else is a bug."""


# ---- what the indexes hold ----


def source(data: str, first: int = 0) -> Source:
    """A made-up data set, cut into segments and shards."""
    n, segments = SIZES[data], list[PlannedSegment]()
    for begin in range(0, n, SEGMENT):
        count = min(SEGMENT, n - begin)
        bounds = [*range(0, count, SHARD), count]
        segments.append(PlannedSegment(name=f"{first + len(segments):05d}", n=count, shards=bounds))
    return Source(
        data=data,
        columns={"text": "text"},
        fingerprint=hashlib.sha256(data.encode()).hexdigest(),
        n=n,
        batch_size=4,
        segments=segments,
    )


def plan(**changes: Any) -> Plan:
    checkpoints = [
        PlannedCheckpoint(id=CheckpointId(0, step), learning_rate=0.1 * step, rule="recorded", weight=0.1 * step)
        for step in STEPS
    ]
    fields: dict[str, Any] = {
        "format": FORMAT,
        "proponent": "0",
        "method": Gradients(name="tracin-we"),
        "run": "runs/news",
        "tokenizer": None,
        "kind": "classification",
        "label_names": LABELS,
        "max_length": 32,
        "trust_remote_code": False,
        "fingerprints": {"tokenizer": "t" * 64} | {f"weights step {step}": "w" * 64 for step in STEPS},
        "terms": [PlannedTerm(embedding_path="exact", tied=False, checkpoints=checkpoints)],
        "word_rules": "1",
        "source": source("base"),
    }
    return Plan(**(fields | changes))


def order_of(n: int) -> np.ndarray:
    """Example of each place in the shards of a segment."""
    return np.random.default_rng(n).permutation(n)


@functools.cache
def _example(data: str, row: int, step: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng([*data.encode(), row, step])
    count = 0 if row == 2 else int(generator.integers(1, 6))  # row 2 has no finite gradient
    bad = row == 2
    return {
        "rows.ids": np.sort(generator.integers(0, TOKENS, count)).astype(np.int32),
        "rows.words": np.arange(count, dtype=np.int32),
        "rows.rows": generator.normal(size=(count, WIDTH)).astype(np.float32),
        "meta.bad": np.asarray([bad]),
        "meta.losses": np.asarray([np.nan if bad else generator.random()]),
        "meta.probabilities": generator.dirichlet(np.ones(len(LABELS)), 1).astype(np.float32),
    }


def shard_arrays(data: str, rows: list[int], step: int) -> dict[str, np.ndarray]:
    """The gradients of some examples, one after another: always the same."""
    each = [_example(data, row, step) for row in rows]
    arrays = {name: np.concatenate([one[name] for one in each]) for name in each[0]}
    return arrays | {"rows.indptr": np.concatenate([[0], np.cumsum([len(one["rows.ids"]) for one in each])])}


def columns(data: str, begin: int, n: int) -> dict[str, Any]:
    rows = range(begin, begin + n)
    places = np.empty(n, dtype=np.int32)
    places[order_of(n)] = np.arange(n, dtype=np.int32)
    return {
        "id": [f"{data}-{row}" for row in rows],
        "row": np.asarray(rows, dtype=np.int64),
        "text": [f"the {data} text number {row}, naïve 日本" for row in rows],
        "text_pair": [None] * n,
        "target": [None] * n,
        "label": [LABELS[row % 3] for row in rows],
        "source": ["left" if row % 2 else "right" for row in rows],
        "place": places,
    }


def queries() -> dict[CheckpointId, Gradient]:
    """Three queries at every checkpoint."""
    found: dict[CheckpointId, Gradient] = {}
    for step in STEPS:
        generator = np.random.default_rng(1000 + step)
        counts = [4, 1, 6]
        ids = np.concatenate([generator.choice(TOKENS, count, replace=False) for count in counts])
        found[CheckpointId(0, step)] = Gradient(
            rows=Rows(
                indptr=np.concatenate([[0], np.cumsum(counts)]),
                ids=ids.astype(np.int64),
                words=np.zeros(len(ids), dtype=np.int64),
                rows=generator.normal(size=(len(ids), WIDTH)).astype(np.float32),
            )
        )
    return found


# ---- changing an index, as `proponent.index` does, without a model ----


def build(
    folder: Path,
    data: str = "base",
    *,
    append: bool = False,
    share: tuple[int, int] | None = None,
    rows: str = "fp32",
    repair: bool = False,
    said: Event = lambda _: None,
) -> None:
    """Build, resume or append; the loop of `proponent.index.worker`, and `Build.run_all` around it."""
    held = source(data)
    writer = Writer(
        folder,
        plan(rows=rows),
        append=(lambda first, manifest: _addition(manifest.sources, data, first)) if append else None,
        repair=repair,
    )
    try:
        if writer.finished is not None:
            return
        begins, before = [0, *itertools.accumulate(one.n for one in held.segments)], 0
        for segment, cut, begin in zip(writer.source.segments, held.segments, begins, strict=False):
            if not writer.has_examples(segment.name):
                writer.put_examples(segment.name, columns(data, begin, cut.n))
            if not writer.is_finished(segment.name):
                _shards(writer, data, segment, begin, share, before, said)
                if _complete(writer, segment):
                    _finish(writer, data, segment, begin)
            before += len(cut.shards) - 1
        if all(_complete(writer, segment) for segment in writer.source.segments):
            for segment, begin in zip(writer.source.segments, begins, strict=False):
                _finish(writer, data, segment, begin)
            cause = f"loss is not finite at step {STEPS[0]}"
            skipped = SkippedRow(id=f"{data}-2", row=2, cause=cause)
            writer.seal([skipped], [f"a note on {data}"], {"gradients": 1.5})
    finally:
        writer.close()


def _addition(sources: list[Source], data: str, first: int) -> Source | None:
    wanted = source(data, first)
    return None if wanted.fingerprint in {one.fingerprint for one in sources} else wanted


def _shards(
    writer: Writer,
    data: str,
    segment: PlannedSegment,
    begin: int,
    share: tuple[int, int] | None,
    before: int,
    said: Event,
) -> None:
    """Compute what is missing of a segment, waiting for others."""
    order, bounds = order_of(segment.n), segment.shards
    for step in STEPS:
        at = CheckpointId(0, step)
        while True:
            missing = [one for one in range(len(bounds) - 1) if not writer.has_shard(at, segment.name, one)]
            mine = [one for one in missing if share is None or (before + one) % share[1] == share[0]]
            if not mine and "inverse_root" in writer.table_names(at):
                break
            if writer.base is None and "inverse_root" not in writer.table_names(at):
                writer.put_table(at, {"inverse_root": np.full((TOKENS, WIDTH), step, dtype=np.float32)})
            done = 0
            for shard in mine:
                unit = writer.units[segment.name, at, shard]
                if not writer.leases.take(unit):
                    continue
                if not writer.has_shard(at, segment.name, shard):
                    said(f"computed {segment.name} {step} {shard}")
                    rows = [begin + int(one) for one in order[bounds[shard] : bounds[shard + 1]]]
                    writer.put_shard(at, segment.name, shard, shard_arrays(data, rows, step))
                    said(f"confirmed {segment.name} {step} {shard}")
                    done += 1
                writer.leases.drop(unit)
            if mine and not done:
                time.sleep(0.005)


def _complete(writer: Writer, segment: PlannedSegment) -> bool:
    shards = range(len(segment.shards) - 1)
    return all(writer.has_shard(CheckpointId(0, step), segment.name, one) for step in STEPS for one in shards)


def _finish(writer: Writer, data: str, segment: PlannedSegment, begin: int) -> None:
    with writer.leases.whole():
        if writer.is_finished(segment.name) or writer.finished is not None:
            return
        labels = [(begin + place) % 3 for place in range(segment.n)]
        order = order_of(segment.n)
        writer.finish(segment, order, writer.gather(segment, order, labels), postings=True)


def change(folder: Path, job: Mapping[str, Any], said: Event = lambda _: None) -> None:
    """Do one job: {"do": "build" | "append" | "delete" | "merge" | "repair", ...}."""
    what = job["do"]
    if what == "delete":
        delete(folder, DELETED)
    elif what == "merge":
        merge(folder, rows=job.get("segment_rows", ROWS_MERGED))
    else:
        share = job.get("share")
        build(
            folder,
            job.get("data", "more" if what == "append" else "base"),
            append=what == "append",
            share=None if share is None else (share[0], share[1]),
            rows=job.get("rows", "fp32"),
            repair=what == "repair",
            said=said,
        )


# ---- what an index answers ----


def answers(folder: Path, **how: bool) -> dict[str, Any]:
    """Everything that an index can be asked, each answer or the typed error that it ended in."""
    try:
        store = Store(folder, **how)
    except REFUSALS as error:
        return dict.fromkeys(_questions(), error)
    found: dict[str, Any] = {}
    for name, question in _questions().items():
        try:
            found[name] = question(store)
        except REFUSALS as error:
            found[name] = error
    return found


def _questions() -> dict[str, Callable[[Store], Any]]:
    return {
        "plan": lambda store: (store.plan.model_dump_json(), [one.model_dump_json() for one in store.manifest.sources]),
        "skipped": lambda store: [one.model_dump_json() for one in store.manifest.skipped] + store.manifest.notes,
        "scores": lambda store: Search(store, threads=1).scores(queries(), QUERIES).tobytes(),
        "top": lambda store: [_ranked(one) for one in Search(store, threads=1).top(queries(), QUERIES, 3)],
        "texts": lambda store: [store.examples[name] for name in ("id", "row", "text", "label", "source")],
        "row": lambda store: repr([store.row(one) for one in range(0, store.n, 7)]),
        "features": lambda store: [
            store.features[name].tobytes() for name in ("losses", "skipped", "labels", "probabilities")
        ],
        "alive": lambda store: (store.alive.tobytes(), store.n, store.coverage),
        "forms": lambda store: [
            sorted((name, array.tobytes()) for name, array in arrays.items())
            for step in STEPS
            for _, arrays in store.shards(CheckpointId(0, step))
        ],
        "table": lambda store: [store.table(CheckpointId(0, step))["inverse_root"].tobytes() for step in STEPS],
    }


def _ranked(ranking: Any) -> list[bytes]:
    return [
        getattr(ranking, name).tobytes() for name in ("proponents", "proponent_scores", "opponents", "opponent_scores")
    ]


def scores(folder: Path, **how: bool) -> np.ndarray:
    return Search(Store(folder, **how), threads=1).scores(queries(), QUERIES)


def root_of(folder: Path) -> str:
    return Store(folder).manifest.merkle_root


def faultless(verdict: Verdict) -> bool:
    """Whether a check found nothing at all."""
    return verdict.sealed and not verdict.damage and not verdict.strays


def check_whole(folder: Path, root: str) -> None:
    """An index is what an undisturbed run makes, and nothing lies about in its folder."""
    assert root_of(folder) == root
    verdict = verify(folder)
    assert faultless(verdict), (verdict.damage, verdict.strays)
    left = [path.name for path in folder.rglob("*") if path.name.endswith((".tmp", ".done"))]
    assert not left, left


# ---- hooks on the disk ----

OPERATIONS = ("create", "write", "sync", "close", "rename", "remove", "make_one_folder", "remove_folder")
Hook = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]
"""Is given the name of an operation, the operation and its arguments; does it, or does not."""


@contextlib.contextmanager
def hooked(hook: Hook) -> Generator[None]:
    """Put a hook before every operation that changes the disk."""
    kept = {name: getattr(disk, name) for name in OPERATIONS}
    try:
        for name, real in kept.items():
            setattr(disk, name, functools.partial(_through, hook, name, real))
        yield
    finally:
        for name, real in kept.items():
            setattr(disk, name, real)


def _through(hook: Hook, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
    return hook(name, real, arguments)


class Count:
    """Counts the operations, and does them."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        self.names.append(name)
        return real(*arguments)


class KillAt:
    """Kills its own process at the n-th operation: before it, after it, or in the middle of a write."""

    def __init__(self, number: int, mode: str) -> None:
        self.left, self.mode = number, mode

    def __call__(self, name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        self.left -= 1
        if self.left:
            return real(*arguments)
        if self.mode == "after":
            real(*arguments)
        elif self.mode == "half" and name == "write":
            opened, data, at = arguments
            real(opened, memoryview(data)[: len(data) // 2], at)
        os.kill(os.getpid(), signal.SIGKILL)
        return None


# ---- a process that forks workers ----


def work(job: Mapping[str, Any]) -> None:
    """Do a job in a process of its own, telling a file of events how far it is."""
    events = os.open(job["events"], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if "events" in job else None

    def said(line: str) -> None:
        if events is not None:
            os.write(events, f"{line}\n".encode())
        if job.get("slow"):
            time.sleep(job["slow"])

    hook = KillAt(*job["kill_at"]) if "kill_at" in job else None
    with hooked(hook) if hook is not None else contextlib.nullcontext():
        change(Path(job["folder"]), job, said)


def serve() -> None:
    """Fork a child per job of each line on stdin; kill those that are to be killed; tell how each ended."""
    with scratch() as folder:
        list(phases(folder))  # what is imported and cached at the first use is there for every child
    gc.freeze()
    for line in sys.stdin:
        jobs = json.loads(line)
        began = time.monotonic()
        children = [_forked(job) for job in jobs]
        doomed = sorted((job["kill_after"], child) for job, child in zip(jobs, children, strict=True)
                        if "kill_after" in job)  # fmt: skip
        for after, child in doomed:
            time.sleep(max(0.0, began + after - time.monotonic()))
            os.kill(child, signal.SIGKILL)
        ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(ends), flush=True)


def _forked(job: Mapping[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work(job)
        os._exit(0)
    except BaseException as error:
        print(f"{job['do']}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


class Workers:
    """The process that forks; a context manager."""

    def __enter__(self) -> "Workers":
        command = [sys.executable, str(Path(__file__).resolve())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def run(self, *jobs: Mapping[str, Any]) -> list[int]:
        """Do jobs at the same time; their exit codes, -9 for the killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(jobs) + "\n")
        self._process.stdin.flush()
        return list(json.loads(self._process.stdout.readline()))


# ---- folders ----


@contextlib.contextmanager
def scratch(preferred: Path | None = None) -> Generator[Path]:
    """A folder in memory where there is one: thousands of fsyncs of a disk take minutes and test nothing more."""
    memory = Path("/dev/shm")
    where = preferred or (memory if os.access(memory, os.W_OK) else None)
    with tempfile.TemporaryDirectory(prefix="proponent-faults-", dir=where) as folder:
        yield Path(folder)


def copy(start: Path | None, to: Path) -> Path:
    """A fresh copy of an index; no folder for one that is not begun."""
    shutil.rmtree(to, ignore_errors=True)
    if start is not None:
        shutil.copytree(start, to)
    return to


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Phase:
    """A change of an index: where it starts, what is done, what comes out undisturbed.

    Args:
        name: for messages.
        start: the folder before; None for none.
        job: what is done.
        end: where the undisturbed result goes.
        damaged: the start is damaged.
        unsafe: folders of the start whose names were not synced when their maker was killed.
    """

    def __init__(
        self,
        name: str,
        start: Path | None,
        job: Mapping[str, Any],
        end: Path,
        *,
        damaged: bool = False,
        unsafe: tuple[str, ...] = (),
    ) -> None:
        self.name, self.start, self.job, self.damaged, self.unsafe = name, start, job, damaged, unsafe
        counted = Count()
        copy(start, end)
        with hooked(counted):
            change(end, job)
        self.end, self.operations = end, counted.names
        self.root = root_of(end)
        self.files = Store(end).manifest.files
        self.new = answers(end)
        self.old = answers(start) if start is not None and (start / "manifest.json").is_file() else None


def phases(work: Path) -> Iterator[Phase]:
    """A build, an append, a delete and a merge, one after another."""
    before: Path | None = None
    for name in ("build", "append", "delete", "merge"):
        phase = Phase(name, before, {"do": name}, work / f"after-{name}")
        yield phase
        before = phase.end


def noted(folder: Path) -> dict[str, tuple[str, int]]:
    """Files that a note says are finished: what they are (SHA-256), and which file of the disk that is."""
    found: dict[str, tuple[str, int]] = {}
    for note in folder.rglob("*.done"):
        path = note.with_name(note.name.removesuffix(".done"))
        sums = finished(path)
        if sums is not None:
            found[path.relative_to(folder).as_posix()] = (sums.sha256, path.stat().st_ino)
    return found


if __name__ == "__main__":
    serve()
