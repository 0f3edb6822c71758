"""What shorter rows cost: the same index with fp32, fp16 and int8 rows, its rankings compared with those of fp32.

    python benchmarks/row_kinds.py --data FOLDER [--rows 6000] [--queries 100] [--out benchmarks/results]

A small transformer is trained from scratch on AG News (two epochs); the queries are test rows with their gold labels.
Beside bytes and search time: the share of the ten and fifty helped (and hurt) examples that stay, Spearman's rank
correlation of all scores, and the largest error of a score against the largest score of its query.
"""

import argparse
import csv
import gzip
import json
import os
import platform
import random
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import proponent
from proponent.data import read
from proponent.training.trainer import Training, train

KINDS = ("fp32", "fp16", "int8")


def rows_of(path: Path, count: int) -> list[dict[str, str]]:
    """Rows of AG News, drawn with a fixed seed."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [
            {"id": row["id"], "text": f"{row['title']}. {row['description']}", "label": row["label_name"]}
            for row in csv.DictReader(file)
        ]
    return random.Random(0).sample(rows, min(count, len(rows)))


def kept(best: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Mean share of the examples of one list that stand in the other."""
    return float(np.mean([len(np.intersect1d(one, two)) / len(one) for one, two in zip(best, other, strict=True)]))


def spearman(one: np.ndarray, two: np.ndarray) -> float:
    """Rank correlation."""
    ranks = [values.argsort().argsort() for values in (one, two)]
    return float(np.corrcoef(*ranks)[0, 1])


def main() -> None:
    """Build three indexes of one run, compare, write a dated record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds agnews/")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--method", default="tracin-we")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    training = rows_of(options.data / "agnews" / "train.csv.gz", options.rows)
    asked = rows_of(options.data / "agnews" / "test.csv.gz", options.queries)
    texts, labels = [row["text"] for row in asked], [row["label"] for row in asked]
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        run = train(read(training), place / "run", Training(epochs=2, max_length=96, quiet=True))
        truth, best = np.zeros(0), {}
        for kind in KINDS:
            index = proponent.build(run, training, place / kind, options.method, rows=kind, quiet=True)
            size = sum(path.stat().st_size for path in (place / kind).rglob("*") if path.is_file())
            scores = index.scores(texts, labels)
            index.top(texts[:16], labels[:16])
            seconds = []
            for _ in range(5):
                began = time.perf_counter()
                index.top(texts[:16], labels[:16])
                seconds.append(time.perf_counter() - began)
            tops = {k: index.top(texts, labels, k=k) for k in (10, 50)}
            if kind == "fp32":
                truth, best = scores, tops
            record: dict[str, object] = {"MB on disk": round(size / 1e6, 1)}
            record["16 queries with their gradients, ms"] = round(1e3 * statistics.median(seconds), 1)
            for k, top in tops.items():
                record[f"helped {k} kept"] = round(
                    kept([a.proponents for a in best[k]], [a.proponents for a in top]), 4
                )
                record[f"hurt {k} kept"] = round(kept([a.opponents for a in best[k]], [a.opponents for a in top]), 4)
            record["Spearman, mean"] = round(
                float(np.mean([spearman(*pair) for pair in zip(truth, scores, strict=True)])), 6
            )
            error = np.abs(scores - truth).max(1) / np.abs(truth).max(1)
            record["largest error over largest score"] = float(f"{error.max():.2g}")
            found[kind] = record
            print(kind, json.dumps(record), flush=True)
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}",
        "index": f"{options.method}, {options.rows} rows of AG News, 2 checkpoints, {options.queries} queries",
        "kinds": found,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"{record['date']}-row-kinds.json"
    (options.out / name).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
