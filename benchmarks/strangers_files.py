"""Mutated run folders, indexes and data files at full size: what reading a stranger's files may not do.

    python benchmarks/strangers_files.py [--cases 10000] [--parsers 60] [--cache strangers-cache]

Each case copies a whole folder or file, spoils one to three of its files (bytes, JSON values, links out of the folder,
pipes, folders in place of files, sizes of gigabytes) and reads it as every command does, in a process of its own that
is watched: Python's audit events, and the system's notices of each access to files outside. An index has the sums and
the seal of the spoilt files put right in half of the cases. A case is made from its number, so that it can be repeated;
finished cases are kept in --cache and not run again.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

KINDS = ("run", "adapter", "index", "data")
SHARES = (0.3, 0.1, 0.35, 0.25)
MOST_SECONDS, MOST_BYTES = 20.0, 2 * 2**30
PATIENCE = 600
"""Wall seconds after which a process is ended: on a busy machine a call of 20 s of the processor may take long."""

BLOCK = 1000
"""Cases of one process."""


def main() -> None:
    """Run the cases that are missing, then the parsers; write the record."""
    parser = harness.arguments(__doc__, cases=10_000, parsers=60.0)
    parser.add_argument("--cache", type=Path, default=Path("strangers-cache"), help="folder of finished cases")
    parser.add_argument("--block", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    if options.block is not None:
        run_block(options.block, options.cases, options.cache)
        return
    began = time.perf_counter()
    for number in range(-(-options.cases // BLOCK)):
        finish(number, options)
    results = [json.loads(line) for path in sorted(options.cache.glob("block-*.jsonl")) for line in path.open()]
    results = [one for one in results if one["case"] < options.cases]
    record = {
        "date": harness.today(),
        "machine": harness.machine(),
        "versions": versions(),
        **figures(results),
        "parsers": parsers(options.parsers),
        "seconds": round(time.perf_counter() - began),
    }
    harness.write_json(options.out / f"{record['date']}-strangers-files.json", record)
    print(json.dumps({name: value for name, value in record.items() if name != "parsers"}, indent=1))
    if record["failures"] or any(one["failures"] for one in record["parsers"].values()):
        raise SystemExit("a stranger's file did what it may not")


def versions() -> dict[str, str]:
    """The versions of the libraries that read the files."""
    from importlib.metadata import version

    names = ("proponent", "torch", "transformers", "tokenizers", "safetensors", "pyarrow", "numpy", "datasets", "peft")
    return {"python": sys.version.split()[0]} | {name: version(name) for name in names}


def figures(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over all cases."""
    by_kind = {kind: [one for one in results if one["kind"] == kind] for kind in KINDS}
    return {
        "cases": len(results),
        "by_kind": {kind: len(some) for kind, some in by_kind.items()},
        "refused": sum(one["outcome"] == "refused" for one in results),
        "read": sum(one["outcome"] == "read" for one in results),
        "files_outside_touched": sum(one["touched"] for one in results),
        "network_requests": sum(one["network"] for one in results),
        "code_run": sum(one["code"] for one in results),
        "slowest_call_seconds": max((one["seconds"] for one in results), default=0.0),
        "peak_memory_bytes": max((one["memory"] for one in results), default=0),
        "failures": [one for one in results if one["failures"]],
    }


def parsers(seconds: float) -> dict[str, Any]:
    """Fuzz each parser for some seconds, in this process."""
    import enemies

    found: dict[str, Any] = {}
    for name in enemies.TARGETS if seconds else ():
        with tempfile.TemporaryDirectory() as work, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one = enemies.fuzz(name, Path(work) / "in", seconds, seed=int(time.time()))
        found[name] = {
            "inputs": one.inputs,
            "refused": one.refused,
            "read": one.read,
            "slowest_seconds": round(one.slowest, 3),
            "failures": one.failures[:20],
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


def finish(number: int, options: argparse.Namespace) -> None:
    """Run the cases of a block that are missing; a process that hangs or dies is noted, and the block goes on."""
    path = options.cache / f"block-{number:04d}.jsonl"
    wanted = range(number * BLOCK, min((number + 1) * BLOCK, options.cases))
    while (missing := [one for one in wanted if one not in known(path)]) != []:
        command = [sys.executable, __file__, "--block", str(number), "--cases", str(options.cases)]
        process = subprocess.Popen([*command, "--cache", str(options.cache)], stdout=subprocess.DEVNULL)
        size, since = -1, time.monotonic()
        while process.poll() is None and time.monotonic() - since < PATIENCE:
            time.sleep(0.5)
            if path.exists() and path.stat().st_size != size:
                size, since = path.stat().st_size, time.monotonic()
        ended = process.poll()
        if ended is None:
            process.kill()
        process.wait()
        left = [one for one in missing if one not in known(path)]
        if left and ended != 0:
            what = f"no answer within {PATIENCE} s" if ended is None else f"the process ended with {ended}"
            note(path, {"case": left[0], "kind": kind_of(left[0]), "outcome": "died", "failures": [what]} | NOTHING)
        print(f"block {number}: {len(known(path))} of {len(wanted)}", file=sys.stderr, flush=True)


NOTHING = {"touched": 0, "network": 0, "code": 0, "seconds": 0.0, "memory": 0}


def known(path: Path) -> set[int]:
    """Numbers of the finished cases of a block."""
    return {json.loads(line)["case"] for line in path.open()} if path.exists() else set()


def note(path: Path, result: dict[str, Any]) -> None:
    """Keep the result of a case."""
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")


def kind_of(case: int) -> str:
    """What is spoilt in a case."""
    return random.Random(f"kind {case}").choices(KINDS, SHARES)[0]


def run_block(number: int, cases: int, cache: Path) -> None:
    """Run the missing cases of a block in this process."""
    import hostile_watch

    warnings.simplefilter("ignore")
    path = cache / f"block-{number:04d}.jsonl"
    done = known(path)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        seeds = Seeds(work / "whole")
        for case in range(number * BLOCK, min((number + 1) * BLOCK, cases)):
            if case not in done:
                note(path, run_case(case, seeds, work, hostile_watch))


class Seeds:
    """Whole folders and files to begin with, made once."""

    def __init__(self, folder: Path) -> None:
        import enemies

        folder.mkdir()
        self.folder = folder
        self.run = enemies.model_folder(folder)
        self.checkpoints = folder / "run"
        shutil.copytree(self.run, self.checkpoints / "checkpoint-8")
        self.adapter = enemies.adapter_folder(folder)
        self.index = enemies.index_folder(folder)
        data = folder / "files"
        data.mkdir()
        self.data = enemies.data_seeds(data)


def run_case(case: int, seeds: Seeds, work: Path, watch: Any) -> dict[str, Any]:
    """Copy, spoil, read, and say what happened."""
    import enemies

    chance, kind = random.Random(f"case {case}"), kind_of(case)
    home = work / f"case-{case}" / "home"
    home.mkdir(parents=True)
    bait = enemies.bait_beside(home)
    read = prepare(kind, chance, seeds, home)
    began, failures, outcome = time.process_time(), [], "read"
    forget_peak()
    with watch.watched(home, *([seeds.run] if kind == "adapter" else []), bait=bait) as noticed:
        for act in read:
            try:
                act()
            except enemies.ProponentError as error:
                outcome = "refused"
                failures += enemies.faults_of_message(str(error))
            except Exception as error:  # that is what is looked for
                outcome = "untyped"
                failures.append(f"{type(error).__name__}: {str(error)[:300]}")
        seen = noticed()
    seconds = time.process_time() - began
    bait.close()
    shutil.rmtree(home.parent, ignore_errors=True)
    memory = peak()
    sorts = Counter(watch.sort_of(one) for one in seen)
    failures += seen
    failures += [f"{seconds:.1f} s"] if seconds > MOST_SECONDS else []
    failures += [f"{memory / 2**30:.2f} GB"] if memory > MOST_BYTES else []
    return {
        "case": case,
        "kind": kind,
        "outcome": outcome,
        "touched": sorts["file"],
        "network": sorts["network"],
        "code": sorts["code"],
        "seconds": round(seconds, 3),
        "memory": memory,
        "failures": failures,
    }


def forget_peak() -> None:
    """Begin to measure the peak of memory anew, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes of memory at the peak since then."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def prepare(kind: str, chance: random.Random, seeds: Seeds, home: Path) -> list[Callable[[], object]]:
    """Copy and spoil; what reads it."""
    import enemies

    if kind == "data":
        path = home / chance.choice(seeds.data).name
        source = seeds.folder / "files" / path.name
        shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
        enemies.spoil_folder(chance, path) if path.is_dir() else enemies.spoil_file(chance, path)
        return [lambda: enemies.data_read(path)]
    if kind == "index":
        folder = Path(shutil.copytree(seeds.index, home / "index"))
        for beside in seeds.folder.glob("index.*"):
            (shutil.copytree if beside.is_dir() else shutil.copy)(beside, home / beside.name)
        spoilt = enemies.spoil_folder(chance, home if chance.random() < 0.2 else folder)
        if chance.random() < 0.5:
            enemies.put_right(folder, spoilt)
        return enemies.index_readers(folder)
    source = seeds.adapter if kind == "adapter" else chance.choice((seeds.run, seeds.checkpoints))
    folder = Path(shutil.copytree(source, home / source.name))
    inner = folder / "checkpoint-8" if (folder / "checkpoint-8").is_dir() and chance.random() < 0.8 else folder
    enemies.spoil_folder(chance, inner)
    return [lambda: enemies.opened(folder)]


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        main()
