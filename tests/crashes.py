"""Suites of interrupted changes of an index: kills, failing disks, every order in which a crash may lose writes, many
writers at a time. Small in `make test`, full in `benchmarks/torture.py`."""

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faults
from faults import Phase, Workers
from proponent.errors import DamagedError, DiskFullError, InputError, ProponentError
from proponent.store import Store
from proponent.store.checksums import sums_of

Tell = Callable[[str], None]


def silent(_: str) -> None:
    pass


# ---- what must hold after every interruption ----


def check_interrupted(folder: Path, phase: Phase) -> str:
    """Whatever is there is right: no half file has a final name, the index answers as before or as after."""
    check_files(folder, phase)
    if not (folder / "manifest.json").is_file():
        assert phase.old is None or phase.damaged, "the sealed index is gone"
        return check_partial(folder, phase)
    found = faults.answers(folder)
    if found == phase.new:
        return "new index"
    if phase.damaged:
        assert not silently_wrong(found, phase.new), "a damaged index answers wrongly"
        return "refused"
    assert found == phase.old, "the index is neither the old nor the new one"
    return "old index"


def check_files(folder: Path, phase: Phase) -> None:
    """Every file under a final name is the old one or the new one, whole."""
    before = faults.contents(phase.start) if phase.start is not None else {}
    for name, data in faults.contents(folder).items() if folder.is_dir() else ():
        if name in {"lease", "manifest.json"} or name.endswith((".tmp", ".done")) or before.get(name) == data:
            continue
        sums = phase.files.get(name)
        new = name.startswith(("tombstones/", "plans/")) and sums is None
        assert new or (sums is not None and sums_of([data]) == sums), f"{name} is neither the old nor the new file"


def silently_wrong(found: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Names of the answers that are neither right nor refused."""
    return [name for name, one in found.items() if one != right[name] and not isinstance(one, faults.REFUSALS)]


def check_partial(folder: Path, phase: Phase) -> str:
    """An unfinished index opens with what is there, or says that there is nothing."""
    try:
        store = Store(folder, partial=True)
    except InputError as error:
        if not ("no index at" in str(error) or "has no data yet" in str(error)):
            raise
        return "empty"
    found = faults.answers(folder, partial=True)
    wrong = {name: value for name, value in found.items() if isinstance(value, Exception)}
    assert not wrong or set(wrong) == {"table"}, wrong  # a table may not be there yet
    whole = {one: row for row, one in enumerate(Store(phase.end).examples["id"])}
    mine = faults.scores(folder, partial=True)
    right = faults.scores(phase.end)
    for place, one in enumerate(store.examples["id"]):
        for query, value in enumerate(mine[:, place]):
            expected = right[query, whole[one]]
            assert value != value or abs(value - expected) <= 1e-5 * max(1.0, abs(expected)), "a wrong score"
    return "complete, not sealed" if store.coverage == 1.0 else "complete up to a shard"


# ---- 1: kills ----


@dataclass
class Kills:
    """Figures of the kills."""

    kills: int = 0
    runs: int = 0
    by_phase: dict[str, int] = field(default_factory=dict[str, int])
    confirmed: int = 0
    lost: int = 0
    written_again: int = 0
    in_flight: int = 0
    most_redone: int = 0


def kill(workers: Workers, phases: Sequence[Phase], work: Path, count: int, seed: int, tell: Tell = silent) -> Kills:
    """Kill changes at random operations and at random times, and let each go on until it is done."""
    chance, figures = random.Random(seed), Kills()
    while figures.kills < count:
        phase = phases[figures.runs % len(phases)]
        _killed_run(workers, phase, work, chance, figures)
        figures.runs += 1
        if figures.runs % 50 == 0:
            tell(f"{figures.kills} kills, {figures.confirmed} confirmed files, {figures.lost} lost")
    return figures


def _killed_run(workers: Workers, phase: Phase, work: Path, chance: random.Random, figures: Kills) -> None:
    folder, events = faults.copy(phase.start, work / "killed"), work / "events"
    events.unlink(missing_ok=True)
    computed: list[str] = []
    confirmed = dict[str, tuple[str, int]]()
    for attempt in range(30):
        job: dict[str, Any] = dict(phase.job) | {"folder": str(folder), "events": str(events)}
        if attempt < 25 and chance.random() < 0.6:
            job["kill_at"] = [chance.randint(1, len(phase.operations)), chance.choice(["before", "after", "half"])]
        elif attempt < 25:
            job |= {"kill_after": chance.random() * 0.05, "slow": 0.002}
        (end,) = workers.run(job)
        assert end in {0, -9}, f"{phase.name} ended with {end}"
        told = events.read_text().splitlines() if events.exists() else []
        events.unlink(missing_ok=True)
        begun = [line[9:] for line in told if line.startswith("computed")]
        done = [line[10:] for line in told if line.startswith("confirmed")]
        redone = len([one for one in begun if one in computed])
        computed = [*(one for one in computed if one not in begun), *begun]
        figures.in_flight += len(begun) - len(done)
        figures.most_redone = max(figures.most_redone, redone)
        assert redone <= 1, f"{redone} shards were computed again after one kill"
        held = {name: one for name, one in faults.noted(folder).items() if not name.startswith(("plans", "tombstones"))}
        sealed = end == 0 or _is_new(folder, phase)
        if not sealed:
            lost = [name for name, one in confirmed.items() if name not in held or held[name][0] != one[0]]
            figures.lost += len(lost)
            assert not lost, f"{lost} were confirmed, and are lost"
        again = [name for name, one in held.items() if name in confirmed and confirmed[name][1] != one[1]]
        figures.written_again += len(again)
        assert not again, f"{again} were finished, and written again"
        figures.confirmed += len(held.keys() - confirmed.keys())
        confirmed = held
        if end == 0:
            faults.check_whole(folder, phase.root)
            assert faults.answers(folder) == phase.new
            return
        figures.kills += 1
        figures.by_phase[phase.name] = figures.by_phase.get(phase.name, 0) + 1
        check_interrupted(folder, phase)
    raise AssertionError(f"{phase.name} does not come to an end")


def _is_new(folder: Path, phase: Phase) -> bool:
    if not (folder / "manifest.json").is_file():
        return False
    try:
        return faults.root_of(folder) == phase.root
    except DamagedError:  # an unfinished repair has the manifest already, and not yet its files
        if phase.damaged:
            return False
        raise


# ---- 4: the n-th operation fails ----

KINDS = ("EIO", "ENOSPC", "EMFILE", "EINTR", "short", "torn")
"""Error numbers; a write of fewer bytes than asked, which is no error; a write that stops in the middle, disk full."""


class FailAt:
    """Makes the n-th operation fail."""

    def __init__(self, number: int, kind: str) -> None:
        self.left, self.kind, self.failed = number, kind, ""

    def __call__(self, name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        self.left -= 1
        if self.left:
            return real(*arguments)
        if self.kind in {"short", "torn"}:
            if name != "write":
                return real(*arguments)
            opened, data, at = arguments
            written = real(opened, memoryview(data)[: (len(data) + 1) // 2], at)
            if self.kind == "short":
                return written
        elif name == "close":
            real(*arguments)
        number = errno.ENOSPC if self.kind == "torn" else getattr(errno, self.kind)
        self.failed = name
        raise OSError(number, os.strerror(number))


def fail(phases: Sequence[Phase], work: Path, every: int, tell: Tell = silent) -> dict[str, int]:
    """Let operation n fail in every way, for each n (or each `every`-th); then let the change run again."""
    figures = {"failures": 0, "operations": 0, "short_writes": 0}
    for phase in phases:
        for number in range(1, len(phase.operations) + 1, every):
            kinds = KINDS if every == 1 else (KINDS[(number // every) % len(KINDS)],)
            figures["operations"] += 1
            for kind in kinds:
                _fail_once(phase, work, number, kind, figures)
            if number % 100 < every:
                tell(f"{phase.name}: operation {number} of {len(phase.operations)}, {figures['failures']} failures")
    return figures


def _fail_once(phase: Phase, work: Path, number: int, kind: str, figures: dict[str, int]) -> None:
    folder = faults.copy(phase.start, work / "failing")
    hook = FailAt(number, kind)
    what = f"{phase.name}: operation {number} ({phase.operations[number - 1]}) {kind}"
    caught: BaseException | None = None
    with faults.hooked(hook):
        try:
            faults.change(folder, phase.job)
        except (OSError, ProponentError) as error:
            caught = error
    if not hook.failed:
        figures["short_writes"] += kind == "short" and phase.operations[number - 1] == "write"
        assert caught is None, what
        faults.check_whole(folder, phase.root)
        return
    figures["failures"] += 1
    if hook.failed != "remove_folder":  # an empty folder that cannot be removed is nobody's trouble
        full = kind in {"ENOSPC", "torn"}
        assert caught is not None, f"{what} was not said"
        assert isinstance(caught, OSError) or full == isinstance(caught, DiskFullError), f"{what}: {caught!r}"
        assert not full or hook.failed in {"remove", "sync", "close"} or isinstance(caught, DiskFullError), what
    assert not list(folder.rglob("*.tmp")), f"{what} left a temporary file"
    try:
        check_interrupted(folder, phase)
        faults.change(folder, phase.job)
        faults.check_whole(folder, phase.root)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error


# ---- 6: every order of writes ----

Operation = tuple[Any, ...]


class Record:
    """Writes down every change of the disk, and makes it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.operations, self._open = folder, list[Operation](), dict[int, str]()

    def __call__(self, name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if name == "create":
            opened = real(*arguments)
            self._open[opened] = self._name(arguments[0])
            self.operations.append(("create", self._open[opened]))
            return opened
        if name == "write":
            written = real(*arguments)
            self.operations.append(("write", self._open[arguments[0]], bytes(arguments[1])[:written], arguments[2]))
            return written
        if name == "sync":
            path = self._name(Path(f"/proc/self/fd/{arguments[0]}").readlink())
            self.operations.append(("sync", path))
        elif name == "rename":
            self.operations.append(("rename", self._name(arguments[0]), self._name(arguments[1])))
        elif name != "close":
            self.operations.append((name, self._name(arguments[0])))
        return real(*arguments)

    def _name(self, path: Path) -> str:
        return Path(os.path.relpath(path.resolve(), self.folder.parent.resolve())).as_posix()


@dataclass
class _File:
    now: bytearray
    safe: bytearray
    pending: list[tuple[bytes, int]] = field(default_factory=list[tuple[bytes, int]])


class Disk:
    """A disk that can lose what was not synced: files by number, names in folders, both as they are and as they last.

    Args:
        start: what is there.
        folders: the folders that are there.
        unsafe: those of them whose names were not synced.
    """

    def __init__(self, start: Mapping[str, bytes], folders: Sequence[str], unsafe: Sequence[str] = ()) -> None:
        self.files: list[_File] = []
        self.now: dict[str, int | None] = dict.fromkeys(folders)
        for name, data in start.items():
            self.now[name] = self._new(data)
        self.safe = {name: number for name, number in self.now.items() if name not in unsafe}
        self.pending: list[tuple[str, str, int | None]] = [("put", name, None) for name in unsafe]

    def _new(self, data: bytes = b"") -> int:
        self.files.append(_File(bytearray(data), bytearray(data)))
        return len(self.files) - 1

    def do(self, operation: Operation) -> None:
        kind, name = operation[0], operation[1]
        if kind == "create":
            self._put(name, self._new())
        elif kind == "make_one_folder":
            if name not in self.now:
                self._put(name, None)
        elif kind == "write":
            held = self._file(name)
            _write(held.now, operation[2], operation[3])
            held.pending.append((operation[2], operation[3]))
        elif kind == "sync" and self.now.get(name) is not None:
            held = self._file(name)
            held.safe, held.pending = bytearray(held.now), []
        elif kind == "sync":
            mine = [one for one in self.pending if _parent(one[1]) == name]
            self.pending = [one for one in self.pending if _parent(one[1]) != name]
            _apply(self.safe, mine)
        elif kind == "rename":
            moved = self.now.pop(name)
            self.now[operation[2]] = moved
            self.pending += [("drop", name, None), ("put", operation[2], moved)]
        elif name in self.now and (kind == "remove" or (kind == "remove_folder" and not self._holds(name))):
            del self.now[name]
            self.pending.append(("drop", name, None))

    def _holds(self, folder: str) -> bool:
        return any(_parent(name) == folder for name in self.now)

    def _put(self, name: str, number: int | None) -> None:
        self.now[name] = number
        self.pending.append(("put", name, number))

    def _file(self, name: str) -> _File:
        number = self.now[name]
        assert number is not None, name
        return self.files[number]

    def crashed(self, model: str, chance: random.Random) -> tuple[dict[str, bytes], list[str]]:
        """Files and folders after a crash.

        Args:
            model: "kill" loses nothing; "strict" loses all that was not synced; "names" keeps names but not data;
                "any" keeps each unsynced name and write or not.
            chance: decides for "any".
        """
        names = dict(self.now if model in {"kill", "names"} else self.safe)
        if model == "any":
            _apply(names, [one for one in self.pending if chance.random() < 0.5])
        found: dict[str, bytes] = {}
        folders = [name for name, number in names.items() if number is None and _reached(names, name)]
        for name, number in names.items():
            if number is not None and _reached(names, name):
                held = self.files[number]
                data = bytearray(held.now if model == "kill" else held.safe)
                for piece in held.pending if model == "any" else ():
                    if chance.random() < 0.5:
                        _write(data, *piece)
                found[name] = bytes(data)
        return found, folders


def _write(data: bytearray, piece: bytes, at: int) -> None:
    data.extend(b"\0" * (at - len(data)))
    data[at : at + len(piece)] = piece


def _apply(names: dict[str, int | None], changes: Sequence[tuple[str, str, int | None]]) -> None:
    for kind, name, number in changes:
        if kind == "put":
            names[name] = number
        else:
            names.pop(name, None)


def _parent(name: str) -> str:
    return name.rpartition("/")[0] or "."


def _reached(names: Mapping[str, int | None], name: str) -> bool:
    """Whether every folder above a name is there."""
    parent = _parent(name)
    return parent == "." or (parent in names and names[parent] is None and _reached(names, parent))


def _lay_out(state: tuple[dict[str, bytes], list[str]], work: Path) -> Path:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for name in sorted(state[1]):
        (work / name).mkdir(exist_ok=True)
    for name, data in state[0].items():
        (work / name).write_bytes(data)
    return work / "index"


MODELS = ("kill", "strict", "names", "any")


def replay(phases: Sequence[Phase], work: Path, every: int, seed: int, tell: Tell = silent) -> dict[str, Any]:
    """Crash after every operation in every way; look at what is left, and let the change go on."""
    chance = random.Random(seed)
    figures: dict[str, Any] = {"prefixes": 0, "crashes": 0, "outcomes": {}}
    for phase in phases:
        start = faults.copy(phase.start, work / "recorded" / "index")
        start.parent.mkdir(exist_ok=True)
        before = {f"index/{name}": data for name, data in faults.contents(start).items()} if start.is_dir() else {}
        folders = [path.relative_to(start.parent).as_posix() for path in start.rglob("*") if path.is_dir()]
        record = Record(start)
        with faults.hooked(record):
            faults.change(start, phase.job)
        assert faults.root_of(start) == phase.root
        held = Disk(before, [*folders, *(["index"] if before else [])], phase.unsafe)
        for number, operation in enumerate([("begin", ""), *record.operations]):
            held.do(operation)
            if number % every and number != len(record.operations):
                continue
            figures["prefixes"] += 1
            for model in MODELS if every == 1 else (MODELS[(number // every) % len(MODELS)],):
                _crash(phase, held, model, chance, work, f"{phase.name}: {model} after operation {number}", figures)
            if number % 100 < every:
                tell(f"{phase.name}: operation {number} of {len(record.operations)}")
    return figures


def _crash(
    phase: Phase, held: Disk, model: str, chance: random.Random, work: Path, what: str, figures: dict[str, Any]
) -> None:
    folder = _lay_out(held.crashed(model, chance), work / "crashed")
    figures["crashes"] += 1
    try:
        outcome = check_interrupted(folder, phase)
        faults.change(folder, phase.job)
        faults.check_whole(folder, phase.root)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    figures["outcomes"][outcome] = figures["outcomes"].get(outcome, 0) + 1


def changed_minds(phases: Sequence[Phase], work: Path) -> list[Phase]:
    """Changes that begin where another one of the same kind was killed and given up: what it left must not be taken."""
    after = {phase.name: phase for phase in phases}
    appended = _stopped_late(after["append"], work / "given-up-append")
    for name in ("plans/append-00002.json", "plans/append-00002.json.done"):
        (appended / name).unlink()
    clean = Phase("other", after["build"].end, {"do": "append", "data": "other"}, work / "after-other")
    merged = _stopped_late(after["merge"], work / "given-up-merge")
    smaller = {"do": "merge", "segment_rows": 18}
    clean_merge = Phase("smaller", after["delete"].end, smaller, work / "after-smaller")
    found: list[Phase] = []
    for start, phase in ((appended, clean), (merged, clean_merge)):
        again = Phase(f"{phase.name} after a change of mind", start, phase.job, work / f"after-mind-{phase.name}")
        assert again.root == phase.root, "what was given up is in the index"
        found.append(again)
    return found


def _stopped_late(phase: Phase, folder: Path) -> Path:
    return stopped(phase, folder, int(len(phase.operations) * 0.7))


def resumed(phases: Sequence[Phase], work: Path) -> list[Phase]:
    """Builds that go on where one was killed just after it had made a folder, whose name may not last."""
    build = phases[0]
    made = [number for number, name in enumerate(build.operations, 1) if name == "make_one_folder"]
    found: list[Phase] = []
    for number in made[1:]:
        start = stopped(build, work / f"folder-{number}", number)
        newest = max(
            path.relative_to(start.parent) for path in start.rglob("*") if path.is_dir() and not any(path.iterdir())
        )
        unsafe = f"index/{newest.relative_to(start.name).as_posix()}"
        found.append(
            Phase(f"build after {unsafe}", start, build.job, work / f"after-folder-{number}", unsafe=(unsafe,))
        )
        assert found[-1].root == build.root
    return found


def repairs(phases: Sequence[Phase], work: Path) -> list[Phase]:
    """Repairs of an index of which a shard has a wrong bit and the postings are gone."""
    start = faults.copy(phases[0].end, work / "to-repair")
    shard = start / "forms" / "step-3" / "seg-00000-shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 8
    shard.write_bytes(data)
    (start / "postings" / "step-7" / "seg-00001.safetensors").unlink()
    found = Phase("repair", start, {"do": "repair"}, work / "after-repair", damaged=True)
    assert (found.root, found.new) == (phases[0].root, phases[0].new), "the repair does not make the index again"
    return [found]


def stopped(phase: Phase, folder: Path, number: int) -> Path:
    """A change that ends after so many operations, as by a kill."""

    class Stop(BaseException):
        pass

    count = 0

    def stop(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        nonlocal count
        count += 1
        if count > number and name != "close":
            raise Stop
        return real(*arguments)

    faults.copy(phase.start, folder)
    try:
        with faults.hooked(stop):
            faults.change(folder, phase.job)
    except Stop:
        return folder
    raise AssertionError("the change was not stopped")


# ---- 7: many writers ----


def crowd(
    workers: Workers, phases: Sequence[Phase], work: Path, runs: int, seed: int, tell: Tell = silent
) -> dict[str, int]:
    """Eight writers at a time on one folder, some of them killed; and shares of 1, 2, 4 and 8 processes."""
    chance = random.Random(seed)
    figures = {"runs": 0, "writers": 0, "killed": 0, "shared": 0}
    changes = [phase for phase in phases if phase.name in {"build", "append"}]
    for run in range(runs):
        phase = changes[run % len(changes)]
        folder, events = faults.copy(phase.start, work / "crowded"), work / "crowd-events"
        events.unlink(missing_ok=True)
        job = dict(phase.job) | {"folder": str(folder), "events": str(events)}
        doomed = chance.sample(range(8), chance.randint(1, 7)) if run % 2 else []
        jobs = [job | ({"kill_after": chance.random() * 0.3, "slow": 0.003} if at in doomed else {}) for at in range(8)]
        ends = workers.run(*jobs)
        assert set(ends) <= {0, -9}, ends
        assert all(end == 0 for at, end in enumerate(ends) if at not in doomed)
        figures["runs"], figures["writers"] = figures["runs"] + 1, figures["writers"] + 8
        figures["killed"] += ends.count(-9)
        assert workers.run(job) == [0]  # who comes next removes what killed writers left half written
        _check_crowd(folder, phase, events, ends.count(-9))
        if (run + 1) % 20 == 0:
            tell(f"{run + 1} runs of 8 writers, {figures['killed']} writers killed")
    for count in (1, 2, 4, 8):
        phase = changes[0]
        folder = faults.copy(phase.start, work / "shared")
        ends = workers.run(*({**phase.job, "folder": str(folder), "share": [at, count]} for at in range(count)))
        assert ends == [0] * count
        faults.check_whole(folder, phase.root)
        figures["shared"] += count
    return figures


def _check_crowd(folder: Path, phase: Phase, events: Path, killed: int) -> None:
    faults.check_whole(folder, phase.root)
    assert faults.answers(folder) == phase.new, "rows are missing or there twice"
    told = events.read_text().splitlines()
    computed = [line for line in told if line.startswith("computed")]
    assert len(computed) - len(set(computed)) <= killed, "a shard was computed twice"


# ---- 5: a full disk ----


class NoMountError(Exception):
    """A small file system cannot be mounted here."""


def full_disk(command: Sequence[str], index: str, work: Path, shares: Sequence[float]) -> dict[str, Any]:
    """Run a command whose output goes to a small file system; fill that up, and free it again.

    Args:
        command: what builds; INDEX in it stands for the folder of the index.
        index: root of the undisturbed index.
        work: a folder.
        shares: how much of the needed space there is.
    """
    needed = _needed(command, work)
    codes: list[int] = []
    for share in shares:
        with mounted(work / "small", 2 * needed + 2**20) as small:
            ballast = small / "ballast"
            free = shutil.disk_usage(small).free
            ballast.write_bytes(b"\0" * max(0, free - int(share * needed)))
            done = _run(command, small / "index")
            codes.append(done.returncode)
            assert done.returncode == 74, f"exit code {done.returncode}: {done.stderr[-500:]}"
            assert not list((small / "index").rglob("*.tmp"))
            ballast.unlink()
            done = _run(command, small / "index")
            assert done.returncode == 0, done.stderr[-500:]
            faults.check_whole(small / "index", index)
    return {"needed_bytes": needed, "runs": len(codes), "exit_codes": sorted(set(codes))}


def _needed(command: Sequence[str], work: Path) -> int:
    with mounted(work / "wide", 2**28) as wide:
        free = shutil.disk_usage(wide).free
        assert _run(command, wide / "index").returncode == 0
        return free - shutil.disk_usage(wide).free


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    words = [str(folder) if word == "INDEX" else word for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def mounted(at: Path, size: int) -> Any:
    """A file system in memory of that many bytes."""
    return _Mounted(at, size)


class _Mounted:
    def __init__(self, at: Path, size: int) -> None:
        self.at, self.size = at, size

    def __enter__(self) -> Path:
        self.at.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", str(self.at)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise NoMountError(str(error)) from error
        if done.returncode:
            raise NoMountError(done.stderr.strip())
        return self.at

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self.at)], check=False)  # mapped files of this process may be open yet
