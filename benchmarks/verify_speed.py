"""Time and memory of `proponent verify`, by the size of the index.

    python benchmarks/verify_speed.py [--sizes 25000,100000,200000] [--width 128] [--folder DIR] [--out DIR]

Indexes are generated as in search_scale.py. Every figure is from a separate process at the command line, the median of
three; for comparison, the same run times SHA-256 alone over the same bytes in memory, and reading the files alone.
"""

import hashlib
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import harness
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
    parser = harness.arguments(__doc__, width=128, sizes="25000,100000,200000")
    parser.add_argument("--folder", type=Path, default=Path("verify-scratch"))
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    for n in map(int, options.sizes.split(",")):
        folder = options.folder / f"n{n}"
        generate(folder, n, options.width, "fp32")
        found.append({"n": n} | measured(folder))
        print(json.dumps(found[-1]), flush=True)
        shutil.rmtree(folder)
    harness.write_record(options.out, "verify", {"sizes": found})


def measured(folder: Path) -> dict[str, Any]:
    """Figures of one index; its files are in the page cache."""
    reading = statistics.median(harness.timed(lambda: read(folder))[0] for _ in range(3))
    runs = [json.loads(harness.run("-c", RUN, folder).stdout) for _ in range(3)]
    seconds = statistics.median(run["seconds"] for run in runs)
    data = bytes(256 * 2**20)
    hashing, _ = harness.timed(lambda: hashlib.sha256(data))
    size = runs[0]["bytes"]
    return {
        "bytes": size,
        "seconds": round(seconds, 3),
        "gib_per_second": round(size / seconds / GIB, 2),
        "sha256_alone_gib_per_second": round(len(data) / hashing / GIB, 2),
        "reading_alone_gib_per_second": round(size / reading / GIB, 2),
        "peak_rss_mib": round(statistics.median(run["peak_rss"] for run in runs) / 2**20),
    }


def read(folder: Path) -> None:
    """Read every file into one buffer."""
    buffer = bytearray(8 * 2**20)
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


if __name__ == "__main__":
    main()
