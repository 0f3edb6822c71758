"""The job of the authors' notebook: gradients of 50,000 texts at two checkpoints, ten words each, then 20 queries.

    python benchmarks/notebook_job.py --data FOLDER [--texts 50000] [--out benchmarks/results]

Published for it (TensorFlow, T4 machine, AG News, a CNN): 131 s of gradients, 60 s of scoring. Here the texts are the
AG News rows that the data folder has; past those, the same rows with their words in another order. The model is the
small transformer that `proponent train` makes from scratch. Scoring is timed without the queries' own gradients, which
stand beside it.
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
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

import proponent
from proponent.data import read
from proponent.index.query_input import queries_of
from proponent.training.trainer import Training, train


def rows_of(folder: Path, count: int) -> list[dict[str, str]]:
    """Rows of AG News in random order; copies with shuffled words once they are used up."""
    rows: list[dict[str, str]] = []
    for part in ("train", "test"):
        with gzip.open(folder / "agnews" / f"{part}.csv.gz", "rt", encoding="utf-8") as file:
            rows += [
                {"text": f"{row['title']}. {row['description']}", "label": row["label_name"]}
                for row in csv.DictReader(file)
            ]
    generator = random.Random(0)
    generator.shuffle(rows)
    made = rows[:count]
    while len(made) < count:
        row = rows[len(made) % len(rows)]
        words = row["text"].split()
        generator.shuffle(words)
        made.append({"text": " ".join(words), "label": row["label"]})
    return made


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    began, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - spent


def spelled(times: list[tuple[float, float]], digits: int = 4) -> dict[str, float]:
    """Median of the wall and of the CPU seconds, and the smallest CPU seconds."""
    wall, cpu = zip(*times, strict=True)
    found = {"wall": statistics.median(wall), "CPU": statistics.median(cpu), "CPU, smallest": min(cpu)}
    return {name: round(value, digits) for name, value in found.items()}


def main() -> None:
    """Train, index, ask; print and write a dated record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds agnews/")
    parser.add_argument("--texts", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = rows_of(options.data, options.texts)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        run = train(read(rows[:6000]), place / "run", Training(epochs=2, max_length=96, quiet=True))
        made: list[proponent.Index] = []
        building = timed(
            lambda: made.append(proponent.build(run, rows, place / "index", "tracin-we-topk", top=10, quiet=True))
        )
        (index,) = made
        asked = [rows[at]["text"] for at in range(0, len(rows), max(1, len(rows) // options.queries))][
            : options.queries
        ]
        taken = []
        gradients = timed(lambda: taken.append(index._ask(queries_of(asked), None)))
        scorer, every = index._scorer, range(len(asked))
        scorer.top(taken[0], every, 10)
        ranking, scoring = [], []
        for _ in range(9):
            ranking.append(timed(lambda: scorer.top(taken[0], every, 10)))
            scoring.append(timed(lambda: scorer.scores(taken[0], every)))
        size = sum(path.stat().st_size for path in (place / "index").rglob("*") if path.is_file())
        stages = {stage: round(seconds, 1) for stage, seconds in index.store.manifest.seconds.items()}
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}",
        "job": f"{options.texts} texts x 2 checkpoints, ten words each, {options.queries} queries",
        "published (T4 machine), s": {"gradients": 131, "scoring": 60},
        "index, s": spelled([building], 1),
        "index by stage, wall s": stages,
        "queries' own gradients, s": spelled([gradients]),
        "scoring: all scores, s": spelled(scoring),
        "scoring: both ends of the ranking, s": spelled(ranking),
        "published scoring over ours (CPU, median)": round(60 / spelled(scoring)["CPU"]),
        "index, MB": round(size / 1e6),
    }
    print(json.dumps(record, indent=1))
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"{record['date']}-notebook-job.json"
    (options.out / name).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
