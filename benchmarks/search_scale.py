"""Search against the number of examples: milliseconds, bytes and memory, beside the memory bandwidth of the same run.

    python benchmarks/search_scale.py [--sizes 1000,10000,100000,1000000] [--rows fp32] [--width 128] [--folder DIR]

An index of each size is generated without a model, one checkpoint: every example holds two special tokens and ten words
drawn from a Zipf vocabulary of 30,000. Norms and directions follow what an index of AG News shows (log-normal norms of
the examples, sigma 1.8; of their rows, sigma 0.8; rows of one token have cosines of about +-0.5). Queries are drawn in
the same way. Each size is searched in a process of its own, which never loads torch: its peak memory is the figure.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

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
    RowKind,
    Source,
    Store,
    Writer,
    mapped,
)
from proponent.types import CheckpointId

STEP, VOCABULARY, WORDS = CheckpointId(0, 1), 30_000, 10
SEGMENT, SHARD = 65_536, 4_096
QUERIES = 16


def words_of(generator: np.random.Generator, count: int) -> np.ndarray:
    """Distinct Zipf words of each example, ascending, behind two special tokens: [count, 2 + WORDS]."""
    weights = 1.0 / (np.arange(VOCABULARY) + 2.7)
    edges = np.cumsum(weights / weights.sum())
    drawn = np.searchsorted(edges, generator.random((count, 3 * WORDS))) + 2
    found = np.empty((count, 2 + WORDS), dtype=np.int64)
    for row, own in enumerate(drawn):
        _, first = np.unique(own, return_index=True)
        kept = own[np.sort(first)][:WORDS]
        spare = (kept[:1] + 1 + np.arange(WORDS - len(kept)) + VOCABULARY // 2) % VOCABULARY + 2
        found[row] = np.concatenate([[0, 1], np.sort(np.concatenate([kept, spare]))])
    return found


def forms(seed: int, count: int, width: int, directions: np.ndarray) -> dict[str, np.ndarray]:
    """Gradients of some examples."""
    generator = np.random.default_rng([7, seed])
    ids = words_of(generator, count)
    each = ids.shape[1]
    norms = np.exp(generator.normal(-1.2, 1.8, (count, 1)) + generator.normal(-2.5, 0.8, (count, each)))
    noise = generator.standard_normal((count, each, width), dtype=np.float32) / np.sqrt(width)
    sign = np.where(generator.random((count, 1)) < 0.5, -1.0, 1.0).astype(np.float32)
    rows = 0.7 * sign[:, :, None] * directions[ids % len(directions)] + 0.7 * noise
    rows *= norms.astype(np.float32)[:, :, None]
    return {
        "rows.indptr": np.arange(count + 1, dtype=np.int64) * each,
        "rows.ids": ids.reshape(-1),
        "rows.words": np.tile(np.arange(each) - 2, count).clip(-1),
        "rows.rows": rows.reshape(-1, width).astype(np.float32),
        "meta.losses": np.zeros(count),
        "meta.bad": np.zeros(count, dtype=np.bool_),
    }


def generate(folder: Path, n: int, width: int, kind: RowKind) -> None:
    """Write an index of n generated examples."""
    segments = []
    for start in range(0, n, SEGMENT):
        held = min(SEGMENT, n - start)
        bounds = [*range(0, held, SHARD), held]
        segments.append(PlannedSegment(name=f"{len(segments):05d}", n=held, shards=bounds))
    source = Source(data=f"{n} generated", columns={}, fingerprint="0" * 64, n=n, batch_size=32, segments=segments)
    checkpoints = [PlannedCheckpoint(id=STEP, learning_rate=1.0, rule="benchmark", weight=1.0)]
    plan = Plan(
        format=FORMAT,
        proponent="benchmark",
        method=Gradients(name="tracin-we"),
        rows=kind,
        terms=[PlannedTerm(embedding_path="exact", tied=False, checkpoints=checkpoints)],
        run="none",
        tokenizer=None,
        kind="causal-lm",
        label_names=None,
        max_length=64,
        trust_remote_code=False,
        fingerprints={},
        word_rules="none",
        source=source,
    )
    directions = np.random.default_rng(3).standard_normal((4096, width)).astype(np.float32) / np.sqrt(width)
    writer = Writer(folder, plan)
    seed = 0
    for segment in segments:
        order = np.arange(segment.n)
        names = [f"{segment.name}-{row}" for row in range(segment.n)]
        columns = {"id": names, "row": order, "text": names, "text_pair": [None] * segment.n}
        columns |= {"target": [None] * segment.n, "label": [None] * segment.n, "place": order.astype(np.int32)}
        writer.put_examples(segment.name, columns)
        for shard, (start, stop) in enumerate(zip(segment.shards[:-1], segment.shards[1:], strict=True)):
            if not writer.has_shard(STEP, segment.name, shard):
                writer.put_shard(STEP, segment.name, shard, forms(seed + shard, stop - start, width, directions))
        seed += len(segment.shards)
        if not writer.is_finished(segment.name):
            writer.finish(segment, order, writer.gather(segment, order, [-1] * segment.n), postings=True)
    writer.seal([], [], {})
    writer.close()


def queries_of(width: int) -> list[Rows]:
    """Two blocks of queries, drawn as the examples are."""
    directions = np.random.default_rng(3).standard_normal((4096, width)).astype(np.float32) / np.sqrt(width)
    blocks = [forms(10_000_000 + block, QUERIES, width, directions) for block in range(2)]
    return [Rows(one["rows.indptr"], one["rows.ids"], one["rows.words"], one["rows.rows"]) for one in blocks]


def bandwidth() -> float:
    """Bytes per second that one core reads: the better of two dot products of 256 MiB with itself."""
    array = np.ones(64 * 2**20, dtype=np.float32)
    return max(array.nbytes / _seconds(lambda: float(np.dot(array, array))) for _ in range(2))


def inner_products(store: Store, block: Rows) -> tuple[int, float]:
    """Bytes and seconds of the bare inner products: every posting row of the first query's tokens, in place."""
    query = block.example(0)
    chunk = 2**20
    size = 0
    began = time.perf_counter()
    for segment in store.segments:
        postings = segment.postings(STEP)
        assert postings is not None
        for token, place in zip(query.ids.tolist(), postings.places(query.ids).tolist(), strict=True):
            if place < 0:
                continue
            row = query.rows[query.ids == token][0]
            kept, _ = postings.raw(*postings.span(place))
            step = max(1, chunk // max(1, kept.itemsize * kept.shape[1]))
            for start in range(0, len(kept), step):
                np.einsum("md,d->m", kept[start : start + step].astype(np.float32, copy=False), row)
            size += kept.nbytes
    return size, time.perf_counter() - began


def measure(folder: Path, repeats: int) -> dict[str, object]:
    """Search one index in this process."""
    store = Store(folder)
    width = store.segments[0].postings(STEP).width  # type: ignore[union-attr]
    first, second = queries_of(width)
    works = {
        f"numpy, {'pruned' if prune else 'streamed'}": Search(store, prune=prune, threads=1) for prune in (True, False)
    }
    record: dict[str, object] = {"n": store.n, "gradient rows": sum(map(len, _postings(store)))}
    cold = _seconds(lambda: works["numpy, pruned"].top({STEP: Gradient(rows=first.example(0))}, 1, 10))
    record["first query, ms (every block checked on the way)"] = round(1e3 * cold, 1)
    for search in works.values():
        search.top({STEP: Gradient(rows=second)}, QUERIES, 10)
    record["peak memory, MB"] = round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    )  # before numba is loaded
    works |= {
        f"numba, {'pruned' if prune else 'streamed'}": Search(store, kernel="numba", prune=prune, threads=1)
        for prune in (True, False)
    }
    answers = {}
    for name, search in works.items():  # warm, compiled, and the same answer from each
        found = search.top({STEP: Gradient(rows=second)}, QUERIES, 10)
        answers[name] = [
            (one.proponents.tolist(), one.opponents.tolist(), one.proponent_scores.tolist()) for one in found
        ]
    record["all rankings equal"] = all(answer == answers["numpy, streamed"] for answer in answers.values())
    single: dict[str, list[float]] = {name: [] for name in works}
    batch: dict[str, list[float]] = {name: [] for name in works}
    products: list[float] = []
    streamed: list[float] = []
    width_of_one_core: list[float] = []
    for repeat in range(repeats):
        for name, search in works.items():
            one = {STEP: Gradient(rows=first.example(repeat % QUERIES))}
            single[name].append(_seconds(lambda ask=search, block=one: ask.top(block, 1, 10)))
            batch[name].append(_seconds(lambda ask=search: ask.top({STEP: Gradient(rows=first)}, QUERIES, 10)))
        size, seconds = inner_products(store, first)
        streamed.append(size / seconds)
        mapped.RELEASE, given_back = 2**40, mapped.RELEASE
        inner_products(store, first)
        size, seconds = inner_products(store, first)
        products.append(size / seconds)
        mapped.RELEASE = given_back
        width_of_one_core.append(bandwidth())
    record["one query, ms (median)"] = {name: _ms(values) for name, values in single.items()}
    record["16 queries together, ms (median)"] = {name: _ms(values) for name, values in batch.items()}
    counted = Search(store, threads=1)
    counted.top({STEP: Gradient(rows=first.example(0))}, 1, 10)
    record["one query, rows read"] = counted.counter.postings_read
    record["one query, rows skipped"] = counted.counter.postings_skipped
    record["one query, MB of rows read"] = round(counted.counter.bytes_read / 1e6, 2)
    record["inner product, rows mapped already, GB/s (median)"] = round(statistics.median(products) / 1e9, 2)
    record["inner product, pages mapped on the way, GB/s (median)"] = round(statistics.median(streamed) / 1e9, 2)
    record["memory bandwidth of one core, GB/s (median)"] = round(statistics.median(width_of_one_core) / 1e9, 2)
    shares = [product / most for product, most in zip(products, width_of_one_core, strict=True)]
    record["inner product (mapped already) over bandwidth (median)"] = round(statistics.median(shares), 2)
    assert "torch" not in sys.modules
    return record


def _postings(store: Store) -> Iterator[object]:
    return (segment.postings(STEP) for segment in store.segments)


def _ms(values: list[float]) -> float:
    return round(1e3 * statistics.median(values), 2)


def _seconds(work: object) -> float:
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began


def main() -> None:
    """Generate, measure in fresh processes, print and write a dated record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000,1000000")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rows", default="fp32", choices=["fp32", "fp16", "int8"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("search-scale"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--keep", action="store_true", help="keep the generated indexes")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one, options.repeats)))
        return
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    results = []
    for n in map(int, options.sizes.split(",")):
        folder = options.folder / f"{n}-{options.width}-{options.rows}"
        generating = [sys.executable, "-c", _GENERATE, str(folder), str(n), str(options.width), options.rows]
        began = time.perf_counter()
        done = subprocess.run(generating, env=environment, check=True, capture_output=True, text=True)
        written = time.perf_counter() - began
        words = [sys.executable, __file__, "--one", str(folder), "--repeats", str(options.repeats)]
        found = json.loads(subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout)
        found["writing: seconds, peak memory MB"] = [round(written, 1), int(done.stdout)]
        print(json.dumps(found), flush=True)
        results.append(found)
        if not options.keep:
            shutil.rmtree(folder)
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread, numpy {np.__version__}",
        "index": f"{2 + WORDS} rows of width {options.width} per example ({options.rows}), one checkpoint, generated",
        "sizes": results,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"{record['date']}-search-scale-{options.rows}.json"
    (options.out / name).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in record.items() if key != "sizes"}, indent=1))


_GENERATE = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from search_scale import generate
generate(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)
"""

if __name__ == "__main__":
    main()
