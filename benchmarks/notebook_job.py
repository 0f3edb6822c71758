"""The job of the authors' notebook: gradients of 50,000 texts at two checkpoints, ten words each, then 20 queries.

    python benchmarks/notebook_job.py --data FOLDER [--texts 50000] [--out benchmarks/results]

Published figures (TensorFlow, T4 machine, AG News, a CNN): 131 s of gradients, 60 s of scoring. Here the texts are the
AG News rows in the data folder; if there are too few, the same rows are repeated with shuffled words. The model is the
small transformer that `proponent train` trains from scratch. Scoring is timed without the queries' own gradients, which
are listed separately: the two halves of `Index.scores` are called one by one.
"""

import json
import random
import statistics
import tempfile
from pathlib import Path

import harness
import torch

import proponent
from proponent.index.query_input import queries_of


def rows_of(folder: Path, count: int) -> list[harness.Row]:
    """Rows of AG News in random order; copies with shuffled words once they are used up."""
    rows = [
        {"text": row["text"], "label": row["label"]}
        for part in ("train", "test")
        for row in harness.agnews(folder, part)
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


def spelled(times: list[tuple[float, float]], digits: int = 4) -> dict[str, float]:
    """Median of the wall and of the CPU seconds, and the smallest CPU seconds."""
    wall, cpu = zip(*times, strict=True)
    found = {"wall": statistics.median(wall), "CPU": statistics.median(cpu), "CPU, smallest": min(cpu)}
    return {name: round(value, digits) for name, value in found.items()}


def main() -> None:
    """Train, index, ask; print and write a dated record."""
    parser = harness.arguments(__doc__, data=True, texts=50_000, queries=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = rows_of(options.data, options.texts)
    step = max(1, len(rows) // options.queries)
    asked = [row["text"] for row in rows[::step]][: options.queries]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        run = harness.trained(rows[:6000], place / "run", epochs=2, max_length=96)
        building = harness.timed(lambda: proponent.build(run, rows, place / "i", "tracin-we-topk", top=10, quiet=True))
        index, taken = proponent.open(place / "i"), []
        gradients = harness.timed(lambda: taken.append(index._ask(queries_of(asked), None)))
        scorer, every = index._scorer, range(len(asked))
        scorer.top(taken[0], every, 10)
        ranking, scoring = [], []
        for _ in range(9):
            ranking.append(harness.timed(lambda: scorer.top(taken[0], every, 10)))
            scoring.append(harness.timed(lambda: scorer.scores(taken[0], every)))
        size = harness.folder_bytes(place / "i")
        stages = json.loads(harness.proponent("info", place / "i", "--json"))["seconds"]
    record = {
        "job": f"{options.texts} texts x 2 checkpoints, ten words each, {options.queries} queries",
        "published (T4 machine), s": {"gradients": 131, "scoring": 60},
        "index, s": spelled([building], 1),
        "index by stage, wall s": {stage: round(seconds, 1) for stage, seconds in stages.items()},
        "queries' own gradients, s": spelled([gradients]),
        "scoring: all scores, s": spelled(scoring),
        "scoring: both ends of the ranking, s": spelled(ranking),
        "published scoring over ours (CPU, median)": round(60 / statistics.median(cpu for _, cpu in scoring)),
        "index, MB": round(size / 1e6),
    }
    harness.write_record(options.out, "notebook-job", record, f"one thread, torch {torch.__version__}")


if __name__ == "__main__":
    main()
