"""How fast and in how much memory `proponent verify` checks an index, against its size.

    python benchmarks/verify_speed.py [--sizes 25000,100000,200000] [--width 128] [--folder DIR] [--out DIR]

Indexes are generated as in search_scale.py. Every figure is of a process of its own at the command line, the median of
three; beside it stand SHA-256 alone over the same bytes in memory, and reading the files alone, in the same run.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from search_scale import generate

RUN = r"""
import contextlib, io, json, re, sys
from proponent.cli import main
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
    main(["verify", sys.argv[1], "--json", "--quiet"])
verdict = json.loads(said.getvalue())
assert verdict["whole"]
peak = re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())  # ru_maxrss would hold what the parent had
print(json.dumps(verdict | {"peak_rss": int(peak[1]) * 1024}))
"""
GIB = 2**30


def main() -> None:
    """Generate, verify, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="25000,100000,200000")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--folder", type=Path, default=Path("verify-scratch"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    for n in map(int, options.sizes.split(",")):
        folder = options.folder / f"n{n}"
        generate(folder, n, options.width, "fp32")
        found.append({"n": n} | measured(folder))
        print(json.dumps(found[-1]), flush=True)
        shutil.rmtree(folder)
    date = datetime.now(UTC).date().isoformat()
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"date": date, "machine": f"{platform.machine()}, {os.cpu_count()} cores", "sizes": found}
    (options.out / f"{date}-verify.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def measured(folder: Path) -> dict[str, Any]:
    """Figures of one index; its files are in the page cache."""
    reading = [timed(folder) for _ in range(3)]
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", RUN, str(folder)])) for _ in range(3)]
    seconds = statistics.median(run["seconds"] for run in runs)
    data = bytes(256 * 2**20)
    began = time.perf_counter()
    hashlib.sha256(data)
    sha256 = len(data) / (time.perf_counter() - began)
    size = runs[0]["bytes"]
    return {
        "bytes": size,
        "seconds": round(seconds, 3),
        "gib_per_second": round(size / seconds / GIB, 2),
        "sha256_alone_gib_per_second": round(sha256 / GIB, 2),
        "reading_alone_gib_per_second": round(size / statistics.median(reading) / GIB, 2),
        "peak_rss_mib": round(statistics.median(run["peak_rss"] for run in runs) / 2**20),
    }


def timed(folder: Path) -> float:
    """Seconds of reading every file into one buffer."""
    buffer = bytearray(8 * 2**20)
    began = time.perf_counter()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
