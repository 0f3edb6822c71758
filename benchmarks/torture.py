"""Fault injection at full size: kills, flipped bits, cut files, failing calls, lost writes, many writers, a full disk.

    python benchmarks/torture.py [--kills 1000] [--flips 10000] [--parts 1000] [--every 1] [--runs 100] [--fuzz 1000]
                                 [--parsers 60] [--only kills,flips]

The index is small and synthetic, so that thousands of runs are possible; the killed, damaged and resumed code is the
real writer, reader and merge. Any unexpected result ends the run with an error. The suites are those of
tests/test_faults.py and tests/test_store_fuzz.py; the full disk is filled by real commands on a small model.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import decisions
import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import crashes
import damage
import enemies
import faults
from tiny import NEWS, made

TITLES = {
    "kills": "`kill -9` at random operations and times, in build, append, delete and merge",
    "flips": "one flipped bit, everything asked",
    "cuts": "files cut off at every part and every edge, and one byte too long",
    "cuts of an unfinished index": "files of an unfinished index cut off, and the build run again",
    "failures": "the n-th operation of the disk fails (EIO, ENOSPC, EMFILE, EINTR, short and torn writes)",
    "crashes": "every prefix of the operations, with lost and reordered unsynced writes",
    "writers": "eight writers at a time, some killed; shares of 1, 2, 4 and 8 processes",
    "full disk": "a full file system in memory, with real processes",
    "decisions": "decisions of 16 connections and 4 processes, with kills and full disks",
    "fuzz": "made-up plans, manifests, headers and numbers, their sums put right",
    "parsers": "spoilt files of every kind that is read, each parser for a minute",
}


def main() -> None:
    """Run the suites; write the record and the page."""
    parser = harness.arguments(__doc__, kills=1000, flips=10_000)
    parser.add_argument("--parts", type=int, default=1000, help="cuts per file")
    parser.add_argument("--every", type=int, default=1, help="take every n-th operation of the disk")
    parser.add_argument("--runs", type=int, default=100, help="runs of eight writers")
    parser.add_argument("--fuzz", type=int, default=1000, help="made-up inputs per test of the fuzz")
    parser.add_argument("--decisions", type=int, default=100_000, help="decisions that must all be confirmed")
    parser.add_argument("--parsers", type=float, default=60.0, help="seconds of fuzz for each parser")
    parser.add_argument("--only", default="", help="names of suites, with commas")
    parser.add_argument("--page", type=Path, default=harness.ROOT / "docs" / "torture.md")
    options = parser.parse_args()
    wanted = set(filter(None, options.only.split(",")))
    suites: dict[str, dict[str, Any]] = {}
    with faults.scratch() as work, faults.Workers() as workers:
        phases = list(faults.phases(work))
        for name, job in jobs(options, phases, work, workers).items():
            if wanted and name not in wanted:
                continue
            began = time.perf_counter()
            suites[name] = job() | {"seconds": round(time.perf_counter() - began, 1)}
            print(name, json.dumps(suites[name]), flush=True)
            write(options, suites)


def jobs(
    options: argparse.Namespace, phases: list[faults.Phase], work: Path, workers: faults.Workers
) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every suite by name."""

    def every_phase() -> list[faults.Phase]:
        others = (crashes.resumed, crashes.repairs, crashes.changed_minds)
        return [*phases, *(one for make in others for one in make(phases, work))]

    return {
        "kills": lambda: asdict(
            crashes.kill(workers, [*phases, *crashes.repairs(phases, work)], work, options.kills, 1, tell)
        ),
        "writers": lambda: crashes.crowd(workers, phases, work, options.runs, 2, tell),
        "flips": lambda: asdict(damage.flip(damage.variants(phases, work), options.flips, 3, tell)),
        "cuts": lambda: asdict(damage.cut(damage.variants(phases, work), options.parts, tell)),
        "cuts of an unfinished index": lambda: asdict(damage.cut_unfinished(phases[0], work, options.parts // 10)),
        "failures": lambda: crashes.fail(every_phase(), work, options.every, tell),
        "crashes": lambda: crashes.replay(every_phase(), work, options.every, 4, tell),
        "full disk": lambda: full_disk(work),
        "decisions": lambda: decided(options, work),
        "fuzz": lambda: fuzz(options.fuzz),
        "parsers": lambda: parsers(work, options.parsers),
    }


def full_disk(work: Path) -> dict[str, Any]:
    """Build with `proponent index` where there is not enough space, free some, and build on."""
    (work / "tiny").mkdir()
    tiny = made(work / "tiny", NEWS)
    words = ["index", str(tiny.run), str(tiny.data), "--out", "INDEX", "--quiet"]
    command = [sys.executable, "-m", "proponent.cli", *words]
    shares = [0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    try:
        return crashes.full_disk(command, faults.root_of(tiny.index), work, shares)
    except crashes.NoMountError as error:
        return {"not run": f"a small file system cannot be mounted here ({error})"}


def decided(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Decide through the explorer and the library, and read the log."""
    settings = {"n": options.decisions, "connections": 16, "processes": 4, "kills": max(2, options.decisions // 1000)}
    return decisions.confirmed(argparse.Namespace(folder=work / "decisions", **settings))


def parsers(work: Path, seconds: float) -> dict[str, Any]:
    """Spoil the files of each parser: typed errors in plain lines, nothing outside touched, no network, no code."""
    counts: dict[str, int] = {}
    slowest = 0.0
    for name in enemies.TARGETS:
        found = enemies.fuzz(name, work / "parsers" / name.replace(" ", "-") / "in", seconds, seed=int(time.time()))
        if found.failures:
            raise SystemExit(f"{name}: {found.failures[:5]}")
        counts[name], slowest = found.inputs, max(slowest, found.slowest)
    return {"inputs": sum(counts.values()), "inputs_by_parser": counts, "slowest_seconds": round(slowest, 2)}


def fuzz(examples: int) -> dict[str, Any]:
    """Run the fuzz of the tests in full size: typed errors only, each within 5 seconds of the processor."""
    tests = Path(__file__).resolve().parent.parent / "tests" / "test_store_fuzz.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(
        command, env=os.environ | {"PROPONENT_FUZZ": str(examples)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout[-4000:])
    return {"inputs_per_test": examples, "outcome": done.stdout.splitlines()[-1].partition(" in ")[0]}


def write(options: argparse.Namespace, suites: dict[str, dict[str, Any]]) -> None:
    """Write the record after each suite, with those of the same day, and the page with earlier days' others."""
    date = harness.today()
    path = options.out / f"{date}-torture.json"
    held = json.loads(path.read_text(encoding="utf-8"))["suites"] if path.is_file() else {}
    record = {"date": date, "machine": harness.machine(), "environment": harness.environment(), "suites": held | suites}
    harness.write_json(path, record)
    options.page.write_text(page(options.out), encoding="utf-8")


def page(folder: Path) -> str:
    """Every suite as it was measured last."""
    records = [(path.name, json.loads(path.read_text())) for path in sorted(folder.glob("*-torture.json"))]
    latest = {name: (file, one, figures) for file, one in records for name, figures in one["suites"].items()}
    lines = [
        "# Faults",
        "",
        "`make torture`. A generated index of some tens of examples is built, appended to, deleted from and merged by "
        "the real writer while something goes wrong. A suite ends at its first failure: a confirmed file lost, more "
        "than one shard computed again, a wrong answer without an error, an error without the file's name, a final "
        "root that differs. Each suite is shown as it was measured last, with its day.",
        "",
    ]
    for name, title in TITLES.items():
        if name not in latest:
            continue
        file, record, figures = latest[name]
        lines += [f"## {title[0].upper()}{title[1:]}", ""]
        lines += [f"{record['date']} · {record['machine']} · [record](../benchmarks/results/{file})", ""]
        lines += ["| figure | value |", "|---|---|"]
        lines += [f"| {key.replace('_', ' ')} | {told(value)} |" for key, value in figures.items()]
        lines.append("")
    missing = [title for name, title in TITLES.items() if name not in latest]
    return "\n".join([*lines, *([f"Not measured: {'; '.join(missing)}.", ""] if missing else [])])


def told(value: Any) -> str:
    """A figure, or several by name."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {number:,}" for name, number in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def tell(line: str) -> None:
    """Say how far it is."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
