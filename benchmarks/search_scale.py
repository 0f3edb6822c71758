"""Search by the number of examples: milliseconds, bytes and memory, compared with the memory bandwidth in the same run.

    python benchmarks/search_scale.py [--sizes 1000,10000,100000,1000000] [--rows fp32] [--width 128] [--folder DIR]

An index of each size is generated without a model, one checkpoint: every example has two special tokens and ten words
sampled from a Zipf vocabulary of 30,000. Norms and directions follow those of an AG News index (log-normal norms of
the examples, sigma 1.8; of their rows, sigma 0.8; rows of one token have cosines of about +-0.5). Queries are drawn in
the same way. Each size is searched in a separate process, which never loads torch: its peak memory is reported.
Only the search is timed, by `proponent.search`, since `Index.top` would also compute the query gradients; the bare
inner products run with the release of mapped pages (`store.mapped`) switched off.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
from generated_index import write_index

from proponent.gradients.forms import Rows
from proponent.gradients.gradient import Gradient
from proponent.search import Search
from proponent.store import RowKind, Store, mapped
from proponent.types import CheckpointId

STEP, VOCABULARY, WORDS = CheckpointId(0, 1), 30_000, 10
SHARD = 4_096
QUERIES = 16


def words_of(generator: np.random.Generator, count: int, words: int = WORDS) -> np.ndarray:
    """Distinct Zipf words of each example, ascending, behind two special tokens: [count, 2 + words]."""
    drawn = harness.zipf(generator, VOCABULARY, (count, 3 * words)) + 2
    found = np.empty((count, 2 + words), dtype=np.int64)
    for row, own in enumerate(drawn):
        _, first = np.unique(own, return_index=True)
        kept = own[np.sort(first)][:words]
        spare = (kept[:1] + 1 + np.arange(words - len(kept)) + VOCABULARY // 2) % VOCABULARY + 2
        found[row] = np.concatenate([[0, 1], np.sort(np.concatenate([kept, spare]))])
    return found


def forms(seed: int, count: int, width: int, words: int = WORDS) -> dict[str, np.ndarray]:
    """Gradients of some examples of `words` words."""
    directions = np.random.default_rng(3).standard_normal((4096, width)).astype(np.float32) / np.sqrt(width)
    generator = np.random.default_rng([7, seed])
    ids = words_of(generator, count, words)
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

    def columns(segment: int, count: int) -> dict[str, Any]:
        names, empty = [f"{segment}-{row}" for row in range(count)], [None] * count
        return {"id": names, "text": names, "text_pair": empty, "target": empty, "label": empty}

    def shard(segment: int, at: int, count: int) -> dict[str, np.ndarray]:
        return forms(1000 * segment + at, count, width)

    write_index(folder, n, columns, shard, shard_rows=SHARD, steps=[STEP], rows=kind)


def queries_of(width: int) -> list[Rows]:
    """Two blocks of queries, drawn as the examples are."""
    blocks = [forms(10_000_000 + block, QUERIES, width) for block in range(2)]
    return [Rows(one["rows.indptr"], one["rows.ids"], one["rows.words"], one["rows.rows"]) for one in blocks]


def bandwidth() -> float:
    """Bytes per second that one core reads: the better of two dot products of 256 MiB with itself."""
    array = np.ones(64 * 2**20, dtype=np.float32)
    return max(array.nbytes / harness.timed(lambda: float(np.dot(array, array)))[0] for _ in range(2))


def inner_products(store: Store, block: Rows) -> int:
    """Every posting row of the first query's tokens times its row, in place; how many bytes these are."""
    query, chunk, size = block.example(0), 2**20, 0
    for postings in _postings(store):
        for token, place in zip(query.ids.tolist(), postings.places(query.ids).tolist(), strict=True):
            if place < 0:
                continue
            row = query.rows[query.ids == token][0]
            kept, _ = postings.raw(*postings.span(place))
            step = max(1, chunk // max(1, kept.itemsize * kept.shape[1]))
            for start in range(0, len(kept), step):
                np.einsum("md,d->m", kept[start : start + step].astype(np.float32, copy=False), row)
            size += kept.nbytes
    return size


def product_speed(store: Store, block: Rows) -> float:
    """Bytes per second of these products."""
    sizes: list[int] = []
    seconds, _ = harness.timed(lambda: sizes.append(inner_products(store, block)))
    return sizes[0] / seconds


def measure(folder: Path, repeats: int) -> dict[str, object]:
    """Search one index in this process."""
    store = Store(folder)
    width = next(_postings(store)).width
    first, second = queries_of(width)

    def searches(kernel: Any) -> dict[str, Search]:
        found = {"pruned": True, "streamed": False}
        return {
            f"{kernel}, {name}": Search(store, kernel=kernel, prune=prune, threads=1) for name, prune in found.items()
        }

    works = searches("numpy")
    record: dict[str, object] = {"n": store.n, "gradient rows": sum(map(len, _postings(store)))}
    cold, _ = harness.timed(lambda: works["numpy, pruned"].top({STEP: Gradient(rows=first.example(0))}, 1, 10))
    record["first query, ms (every block checked on the way)"] = round(1e3 * cold, 1)
    for search in works.values():
        search.top({STEP: Gradient(rows=second)}, QUERIES, 10)
    record["peak memory, MB"] = harness.peak_mb()  # before numba is loaded
    works |= searches("numba")
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
            single[name].append(harness.timed(lambda ask=search, block=one: ask.top(block, 1, 10))[0])
            batch[name].append(harness.timed(lambda ask=search: ask.top({STEP: Gradient(rows=first)}, QUERIES, 10))[0])
        streamed.append(product_speed(store, first))
        mapped.RELEASE, given_back = 2**40, mapped.RELEASE
        inner_products(store, first)
        products.append(product_speed(store, first))
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


def _postings(store: Store) -> Iterator[Any]:
    return (segment.postings(STEP) for segment in store.segments)


def _ms(values: list[float]) -> float:
    return round(1e3 * statistics.median(values), 2)


def main() -> None:
    """Generate, measure in fresh processes, print and write a dated record."""
    parser = harness.arguments(__doc__, width=128, repeats=5, sizes="1000,10000,100000,1000000")
    parser.add_argument("--rows", default="fp32", choices=["fp32", "fp16", "int8"])
    parser.add_argument("--folder", type=Path, default=Path("search-scale"))
    parser.add_argument("--keep", action="store_true", help="keep the generated indexes")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--generate", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.generate is not None:
        generate(Path(options.generate[0]), int(options.generate[1]), options.width, options.rows)
        print(harness.peak_mb())
        return
    if options.one is not None:
        print(json.dumps(measure(options.one, options.repeats)))
        return
    results = []
    for n in map(int, options.sizes.split(",")):
        folder, peaks = options.folder / f"{n}-{options.width}-{options.rows}", list[int]()
        words = (__file__, "--generate", folder, n, "--width", options.width, "--rows", options.rows)
        written, _ = harness.timed(lambda words=words, peaks=peaks: peaks.append(int(harness.run(*words).stdout)))
        found = json.loads(harness.run(__file__, "--one", folder, "--repeats", options.repeats).stdout)
        found["writing: seconds, peak memory MB"] = [round(written, 1), *peaks]
        print(json.dumps(found), flush=True)
        results.append(found)
        if not options.keep:
            shutil.rmtree(folder)
    index = f"{2 + WORDS} rows of width {options.width} per example ({options.rows}), one checkpoint, generated"
    record = {"index": index, "sizes": results}
    harness.write_record(options.out, f"search-scale-{options.rows}", record, f"one thread, numpy {np.__version__}")


if __name__ == "__main__":
    main()
