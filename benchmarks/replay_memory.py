"""Memory of replay against the number of steps: it should grow with the root.

    python benchmarks/replay_memory.py [--steps 100 400 1600] [--out FILE]

A small classifier is trained on made-up texts and recorded; one query is differentiated in a process of its own, which
reports how much its memory grew at most, how many states it kept at once, and how long it took.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from proponent.data import read
from proponent.dynamics.loops import Query
from proponent.dynamics.replay_engine import Replay
from proponent.index.planning import label_numbers
from proponent.models import Run
from proponent.training.trainer import Training, train
from proponent.types import Example

WORDS = 3000
ROWS = 400
BATCH = 4


def rows() -> list[dict[str, str]]:
    """Texts of eight words out of 3,000, in two classes."""
    generator = np.random.default_rng(0)
    return [
        {
            "id": str(row),
            "text": " ".join(f"w{word}" for word in generator.integers(0, WORDS, 8)),
            "label": "ab"[row % 2],
        }
        for row in range(ROWS)
    ]


def one(folder: Path) -> dict[str, float]:
    """Differentiate one query; memory is counted from when the run is loaded."""
    run, examples = Run.from_pretrained(folder), read(rows())
    work = Replay(run, list(examples), label_numbers(run, examples), quiet=True)
    work.losses(work.first.parameters, [Query(Example("q", 0, "w1 w2 w3"), 0)])
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    work.derivative([Query(Example("q", 0, "w1 w2 w3"), 0)])
    state = 3 * 4 * work.first.parameters.numel()
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return {
        "steps": len(work.steps),
        "bytes_of_a_state": state,
        "kept_states": work.kept,
        "grown_bytes": grown,
        "grown_states": round(grown / state, 1),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def main() -> None:
    """Measure every number of steps in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--only", type=Path, help="differentiate this run, and nothing else")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.only is not None:
        print(json.dumps(one(args.only)))
        return
    found = []
    for steps in args.steps:
        with tempfile.TemporaryDirectory() as home:
            epochs = max(1, round(steps * BATCH / ROWS))
            data = read(rows()[: round(steps * BATCH / epochs)])
            settings = Training(
                epochs=epochs, batch_size=BATCH, learning_rate=1e-3, width=64, layers=1, vocabulary=WORDS,
                max_length=16, replay=True, adam_epsilon=1e-3, quiet=True,
            )  # fmt: skip
            train(data, Path(home) / "run", settings)
            done = subprocess.run(
                [sys.executable, __file__, "--only", str(Path(home) / "run")],
                capture_output=True,
                text=True,
                check=True,
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(found[-1], flush=True)
    record = {"date": datetime.now(UTC).date().isoformat(), "python": platform.python_version(), "runs": found}
    if args.out is not None:
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
