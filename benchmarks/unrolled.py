"""Unrolling against real retraining: leaving single rows out of a short language-model training, at a fixed seed.

    python benchmarks/unrolled.py --data DATA

A small GPT-2 is trained from scratch on texts of AG News for one epoch of 16 AdamW steps, and recorded. Each of some
training rows is left out in turn (its weight is 0; initial weights, order and rates are the same, in 64 bits), and the
change of each query's loss is rank-correlated with the scores of these rows, mean over queries: the exact derivative
(`replay`), `unroll` with each batch's Fisher matrix, the same without curvature, methods with an index, and controls.
The protocol is that of dattri-llm's fidelity suite, in small. The replay engine is called directly: retraining with
weights is not part of an index.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import harness
import numpy as np

import proponent
from proponent import Run
from proponent.data import read
from proponent.dynamics.loops import Query
from proponent.dynamics.replay_engine import Replay
from proponent.evaluate import bootstrap, spearman

INDEXES = ("tracin-we", "tracin-we-idf", "tracin-all", "grad-cos", "bm25", "random")


def measure(given: Any, home: Path) -> dict[str, Any]:
    """Train, leave rows out, and score."""
    every = harness.sample(harness.agnews(given.data), given.rows + given.queries)
    every = [{"id": row["id"], "text": row["text"]} for row in every]
    rows, asked = every[: given.rows], every[given.rows :]
    settings = {"epochs": 1, "batch_size": given.batch, "learning_rate": given.rate, "max_length": given.tokens}
    sizes = {"width": given.width, "layers": 2, "checkpoints": 4}
    seconds, _ = harness.timed(lambda: harness.trained(rows, home / "run", replay=True, **settings, **sizes))
    run, queries = Run.from_pretrained(home / "run"), [Query(one) for one in read(asked)]
    work = Replay(run, list(read(rows)), [-1] * len(rows), max_length=given.tokens, double=True, quiet=True)
    left_out = np.random.default_rng(1).permutation(len(rows))[: given.left_out]
    whole = work.losses(work.train(), queries)
    start = work.losses(work.first.parameters, queries)
    changes = np.stack(
        [work.losses(work.train(_without(len(rows), row)), queries) - whole for row in left_out.tolist()]
    )
    found: dict[str, np.ndarray] = {}
    for curvature in ("exact", "fisher", "none"):
        found["replay" if curvature == "exact" else f"unroll, {curvature}"] = work.derivative(queries, curvature).scores
    for name in INDEXES:
        index = proponent.build(run, rows, home / name, name, quiet=True)
        found[name] = index.scores([row["text"] for row in asked])
    figures = {name: spearman(scores[:, left_out].T, changes) for name, scores in found.items()}
    lines = {name: bootstrap(each).to_dict() for name, each in figures.items()}
    for name, line in lines.items():
        print(name, {key: round(value, 3) for key, value in line.items()}, flush=True)
    return {
        "steps": len(work.steps), "train_s": seconds, "loss": [float(start.mean()), float(whole.mean())],
        "mean_change": float(np.abs(changes).mean()), "rank_correlation": lines,
    }  # fmt: skip


def _without(rows: int, row: int) -> np.ndarray:
    weights = np.ones(rows)
    weights[row] = 0.0
    return weights


def main() -> None:
    """Measure and write the record."""
    parser = harness.arguments(__doc__, data=True, rows=256, queries=32, left_out=50, tokens=64, batch=16, width=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as home:
        found = measure(given, Path(home))
    names = ("rows", "queries", "left_out", "tokens", "batch", "width", "rate")
    harness.write_record(given.out, "unrolled", {name: getattr(given, name) for name in names} | found)


if __name__ == "__main__":
    main()
