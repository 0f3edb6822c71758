"""An index of ten million examples on one machine: search, delete, merge, the explorer's start.

    python benchmarks/ten_million.py [--sizes 100000,1000000,10000000] [--folder DIR] [--keep]

Indexes are generated without a model, as in search_scale.py: two special tokens and six words per example, rows of
width 32 in 16 bits, one checkpoint, segments of 32,768 examples, so that a merge writes every one anew. Each step is a
process of its own, whose peak memory is reported (mapped pages included). `delete`, `merge`, `verify` and `serve` are
the commands that ship; the search is `proponent.search`, since there is no model whose gradients could be asked.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import harness
import numpy as np
from generated_index import write_index
from memory import PEAK
from search_scale import STEP, forms

from proponent.gradients.forms import Rows
from proponent.gradients.gradient import Gradient
from proponent.search import Search
from proponent.store import Store

WORDS, WIDTH, SEGMENT, SHARD = 6, 32, 32_768, 4_096
QUERIES, K, DELETED = 16, 10, 1_000
LABELS = ["even", "odd"]


def generate(folder: Path, n: int) -> None:
    """Write an index of n generated examples of a classifier."""

    def columns(segment: int, count: int) -> dict[str, Any]:
        names, empty = [f"r{segment * SEGMENT + row}" for row in range(count)], [None] * count
        labels = [LABELS[row % 2] for row in range(count)]
        return {"id": names, "text": names, "text_pair": empty, "target": empty, "label": labels}

    def shard(segment: int, at: int, count: int) -> dict[str, np.ndarray]:
        made = forms(1000 * segment + at, count, WIDTH, WORDS)
        half = np.full((count, len(LABELS)), 0.5, dtype=np.float32)
        return made | {"meta.probabilities": half}

    options = {"shard_rows": SHARD, "steps": [STEP], "labels": LABELS, "segment_rows": SEGMENT}
    write_index(folder, n, columns, shard, rows="fp16", **options)


def asked() -> list[Gradient]:
    """Queries, drawn as the examples are."""
    made = forms(10_000_000, QUERIES, WIDTH, WORDS)
    rows = Rows(made["rows.indptr"], made["rows.ids"], made["rows.words"], made["rows.rows"])
    return [Gradient(rows=rows.example(place)) for place in range(QUERIES)]


def rankings(search: Search) -> list[Any]:
    """Ids and scores of both ends, query by query."""
    answers = []
    for query in asked():
        one = search.top({STEP: query}, 1, K)[0]
        ids = [search.store.take("id", examples) for examples in (one.proponents, one.opponents)]
        answers.append([ids, one.proponent_scores.tolist(), one.opponent_scores.tolist()])
    return answers


def measure(folder: Path, *, streamed: bool) -> dict[str, Any]:
    """Ask every query in this process, once over everything and then once more; rows read by the second."""
    began = time.perf_counter()
    search = Search(Store(folder), threads=1, prune=not streamed)
    opened = time.perf_counter() - began
    answers = rankings(search)
    cold = time.perf_counter() - began - opened
    before, times = search.counter.postings_read, list[float]()
    for query in asked():
        times.append(harness.timed(lambda query=query: search.top({STEP: query}, 1, K))[0])
    return {
        "open, s": round(opened, 2),
        "first pass of 16 queries, s": round(cold, 2),
        "query, ms (median)": round(1e3 * statistics.median(times), 1),
        "rows read by a query (mean)": round((search.counter.postings_read - before) / QUERIES),
        "peak, MB": harness.peak_mb(),
        "answers": answers,
    }


def command(*words: object) -> dict[str, float]:
    """Run the command line: seconds and MB of its peak memory."""
    began = time.perf_counter()
    done = harness.run("-c", PEAK, *words)
    return {"s": round(time.perf_counter() - began, 1), "peak, MB": round(float(done.stderr.split()[-1]))}


def served(folder: Path) -> dict[str, float]:
    """Seconds from the start of `proponent serve` to its address, and to its first page; peak memory then."""
    command = [sys.executable, "-m", "proponent.cli", "serve", str(folder), "--port", "0", "--quiet"]
    began = time.perf_counter()
    with subprocess.Popen(command, env=harness.one_thread(), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            listening = time.perf_counter() - began
            with urllib.request.urlopen(address, timeout=600) as page:
                assert page.status == 200
            first = time.perf_counter() - began
            status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")
        finally:
            server.terminate()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found is not None
    return {
        "address, s": round(listening, 2),
        "first page, s": round(first, 2),
        "peak, MB": round(int(found[1]) / 1e3),
    }


def child(*words: object) -> Any:
    """Run a step of this script in a process of its own."""
    return json.loads(harness.run(__file__, *words).stdout.splitlines()[-1])


def without(answers: list[Any], ids: set[str]) -> bool:
    """Whether no answer names one of the ids."""
    return not any(one in ids for answer in answers for end in answer[0] for one in end)


def one_size(folder: Path, n: int) -> dict[str, Any]:
    """Every step at one size."""
    found: dict[str, Any] = {"n": n}
    if not (folder / "manifest.json").exists():
        found["written"] = child("--generate", folder, n)
    found["GB"] = round(harness.folder_bytes(folder) / 1e9, 2)
    pruned, streamed = child("--ask", folder), child("--ask", folder, "--streamed")
    found["rankings, pruned = streamed"] = pruned["answers"] == streamed["answers"]
    found["served"] = served(folder)
    best = [one for answer in pruned["answers"] for end in answer[0] for one in end[:2]]
    gone = list(dict.fromkeys([*best, *(f"r{row}" for row in range(0, n, max(1, n // DELETED)))]))[:DELETED]
    ids = folder.with_suffix(".ids")
    ids.write_text("\n".join(gone), encoding="utf-8")
    found["delete"] = command("delete", folder, "--ids-file", ids, "--json", "-q")
    deleted = child("--ask", folder)
    found["merge"] = command("merge", folder, "--json", "-q")
    found["merge"]["GB"] = round(harness.folder_bytes(folder) / 1e9, 2)
    merged = child("--ask", folder)
    found["rankings after merge = after delete"] = merged["answers"] == deleted["answers"]
    found["deleted ids in rankings"] = any(not without(one["answers"], set(gone)) for one in (deleted, merged))
    found["verify"] = command("verify", folder, "--json", "-q")
    for name, one in {"pruned": pruned, "streamed": streamed, "merged": merged}.items():
        found[name] = {key: value for key, value in one.items() if key != "answers"}
    return found


def main() -> None:
    """Generate, measure in fresh processes, print and write a dated record."""
    parser = harness.arguments(__doc__, sizes="100000,1000000,10000000")
    parser.add_argument("--folder", type=Path, default=Path("search-scale"))
    parser.add_argument("--keep", action="store_true", help="keep the generated indexes")
    parser.add_argument("--generate", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--streamed", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.generate is not None:
        seconds, _ = harness.timed(lambda: generate(Path(options.generate[0]), int(options.generate[1])))
        print(json.dumps({"s": round(seconds, 1), "peak, MB": harness.peak_mb()}))
        return
    if options.ask is not None:
        print(json.dumps(measure(options.ask, streamed=options.streamed)))
        return
    results = []
    for n in map(int, options.sizes.split(",")):
        folder = options.folder / f"ten-{n}"
        found = one_size(folder, n)
        print(json.dumps(found), flush=True)
        results.append(found)
        if not options.keep:
            shutil.rmtree(folder)
    index = f"{2 + WORDS} rows of width {WIDTH} per example (fp16), one checkpoint, segments of {SEGMENT}, generated"
    harness.write_record(options.out, "ten-million", {"index": index, "deleted": DELETED, "sizes": results})


if __name__ == "__main__":
    main()
