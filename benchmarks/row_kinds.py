"""The cost of shorter rows: the same index with fp32, fp16 and int8 rows; its rankings are compared with those of fp32.

    python benchmarks/row_kinds.py --data FOLDER [--rows 6000] [--queries 100] [--out benchmarks/results]

A small transformer is trained from scratch on AG News (two epochs); the queries are test rows with their gold labels.
In addition to bytes and search time: the overlap of the top ten and fifty proponents (and opponents), Spearman's rank
correlation of all scores, and the largest error of a score relative to the largest score of its query.
"""

import json
import statistics
import tempfile
from pathlib import Path

import harness
import numpy as np
import torch

import proponent

KINDS = ("fp32", "fp16", "int8")


def kept(best: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Mean share of the examples of one list that stand in the other."""
    return float(np.mean([len(np.intersect1d(one, two)) / len(one) for one, two in zip(best, other, strict=True)]))


def main() -> None:
    """Build three indexes of one run, compare, write a dated record."""
    parser = harness.arguments(__doc__, data=True, rows=6000, queries=100, method="tracin-we")
    options = parser.parse_args()
    torch.set_num_threads(1)
    training = harness.sample(harness.agnews(options.data), options.rows)
    asked = harness.sample(harness.agnews(options.data, "test"), options.queries)
    texts, labels = [row["text"] for row in asked], [row["label"] for row in asked]
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        run = harness.trained(training, place / "run", epochs=2, max_length=96)
        truth, best = np.zeros(0), {}
        for kind in KINDS:
            index = proponent.build(run, training, place / kind, options.method, rows=kind, quiet=True)
            scores = index.scores(texts, labels)
            index.top(texts[:16], labels[:16])
            seconds = [harness.timed(lambda index=index: index.top(texts[:16], labels[:16]))[0] for _ in range(5)]
            tops = {k: index.top(texts, labels, k=k) for k in (10, 50)}
            if kind == "fp32":
                truth, best = scores, tops
            record: dict[str, object] = {
                "MB on disk": round(harness.folder_bytes(place / kind) / 1e6, 1),
                "16 queries with their gradients, ms": round(1e3 * statistics.median(seconds), 1),
            }
            for k, top in tops.items():
                for name, end in (("helped", "proponents"), ("hurt", "opponents")):
                    ends = ([getattr(one, end) for one in several] for several in (best[k], top))
                    record[f"{name} {k} kept"] = round(kept(*ends), 4)
            record["Spearman, mean"] = round(float(np.mean(harness.rank_correlations(truth, scores))), 6)
            error = np.abs(scores - truth).max(1) / np.abs(truth).max(1)
            record["largest error over largest score"] = float(f"{error.max():.2g}")
            found[kind] = record
            print(kind, json.dumps(record), flush=True)
    index = f"{options.method}, {options.rows} rows of AG News, 2 checkpoints, {options.queries} queries"
    record = {"index": index, "kinds": found}
    harness.write_record(options.out, "row-kinds", record, f"one thread, torch {torch.__version__}")


if __name__ == "__main__":
    main()
