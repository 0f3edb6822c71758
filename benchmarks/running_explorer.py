"""Time, CPU time and memory of one question on the command line: alone, and answered by a running `proponent serve`.

    python benchmarks/running_explorer.py --data FOLDER [--rows 2000] [--repeats 5] [--folder DIR] [--out DIR]

A classifier is trained on AG News and indexed with the default method. Both kinds of question are separate processes,
taken in turns; their outputs must be the same bytes. The first question of the explorer loads the model there, and is
recorded apart. CPU time and memory are those of the asking process alone.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness

Cost = dict[str, float]

RUN = r"""
import contextlib, pathlib, re, sys
from proponent.cli import main
with contextlib.suppress(SystemExit):
    main(sys.argv[2:])
peak = re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())  # ru_maxrss would hold what the parent had
pathlib.Path(sys.argv[1]).write_text(peak[1])
"""


def asked(index: Path, text: str, out: Path, *words: str) -> Cost:
    """Ask in a process of its own; what it took."""
    peak = out.with_suffix(".kib")
    command = [sys.executable, "-c", RUN, str(peak), "explain", str(index), text, "--json", "--quiet", *words]
    with out.open("wb") as file:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=harness.one_thread(), stdout=file)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    kib = int(peak.read_text(encoding="ascii"))
    return {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_mib": kib / 1024}


def medians(costs: Sequence[Cost]) -> Cost:
    """Median of each figure."""
    return {name: round(statistics.median(one[name] for one in costs), 2) for name in costs[0]}


def measured(index: Path, texts: Sequence[str], repeats: int, folder: Path) -> dict[str, Any]:
    """Figures of one index, with an explorer that runs meanwhile."""
    command = [sys.executable, "-m", "proponent.cli", "serve", str(index), "--port", "0", "--quiet"]
    with subprocess.Popen(command, env=harness.one_thread(), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("http")
        try:
            first = asked(index, texts[0], folder / "first.json")
            alone, served = list[Cost](), list[Cost]()
            for number in range(repeats):
                text = texts[number % len(texts)]
                alone.append(asked(index, text, folder / "alone.json", "--alone"))
                served.append(asked(index, text, folder / "served.json"))
                assert (folder / "alone.json").read_bytes() == (folder / "served.json").read_bytes()
        finally:
            server.terminate()
    found = {"alone": medians(alone), "served": medians(served)}
    ratios = [one["seconds"] / other["seconds"] for one, other in zip(alone, served, strict=True)]
    cpu = [one["cpu_seconds"] / other["cpu_seconds"] for one, other in zip(alone, served, strict=True)]
    return {
        "first": {name: round(value, 2) for name, value in first.items()},
        **found,
        "times_faster": round(statistics.median(ratios), 1),
        "times_less_cpu": round(statistics.median(cpu), 1),
        "every_alone": [round(one["seconds"], 2) for one in alone],
        "every_served": [round(one["seconds"], 2) for one in served],
        "same_bytes": True,
    }


def main() -> None:
    """Train, index, ask, record."""
    parser = harness.arguments(__doc__, data=True, rows=2000, repeats=5)
    parser.add_argument("--folder", type=Path, default=None, help="keep run and index here")
    options = parser.parse_args()
    load = f"load {os.getloadavg()[0]:.1f} before"
    with tempfile.TemporaryDirectory(prefix="p-") as made:
        folder = options.folder or Path(made)
        os.environ["XDG_RUNTIME_DIR"] = made  # no other explorer of this user is asked
        rows = harness.sample(harness.agnews(options.data), options.rows + 8)
        data = harness.write_lines(folder / "train.jsonl", rows[8:])
        if not (folder / "news.index").exists():
            harness.trained(rows[8:], folder / "run", epochs=1, checkpoints=1, width=64, layers=2, vocabulary=8000)
            harness.command("index", folder / "run", data, "--out", folder / "news.index", "--quiet")
        record = measured(folder / "news.index", [one["text"] for one in rows[:8]], options.repeats, folder)
    harness.write_record(options.out, "running-explorer", {"rows": options.rows} | record, f"one thread, {load}")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
