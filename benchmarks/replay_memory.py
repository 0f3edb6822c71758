"""Memory of replay by the number of steps: it should grow with the root.

    python benchmarks/replay_memory.py [--steps 100 400 1600] [--out FILE]

A small classifier is trained on synthetic texts and recorded; one query is differentiated in a separate process, which
reports its peak memory growth, the number of states stored at once, and the duration. The replay engine is
called directly: `explain` would load and score more than the derivative.
"""

import json
import platform
import resource
import tempfile
from pathlib import Path

import harness
import numpy as np

from proponent import Example, Run
from proponent.data import read
from proponent.dynamics.loops import Query
from proponent.dynamics.replay_engine import Replay

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
    run, examples = Run.from_pretrained(folder), list(read(rows()))
    work = Replay(run, examples, [run.label_number(str(one.label)) for one in examples], quiet=True)
    work.losses(work.first.parameters, [Query(Example("q", 0, "w1 w2 w3"), 0)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, _ = harness.timed(lambda: work.derivative([Query(Example("q", 0, "w1 w2 w3"), 0)]))
    state = 3 * 4 * work.first.parameters.numel()
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return {
        "steps": len(work.steps),
        "bytes_of_a_state": state,
        "kept_states": work.kept,
        "grown_bytes": grown,
        "grown_states": round(grown / state, 1),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Measure every number of steps in a process of its own."""
    parser = harness.arguments(__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--only", type=Path, help="differentiate this run, and nothing else")
    args = parser.parse_args()
    if args.only is not None:
        print(json.dumps(one(args.only)))
        return
    found = []
    for steps in args.steps:
        with tempfile.TemporaryDirectory() as home:
            epochs = max(1, round(steps * BATCH / ROWS))
            harness.trained(
                rows()[: round(steps * BATCH / epochs)], Path(home) / "run", epochs=epochs, batch_size=BATCH,
                learning_rate=1e-3, width=64, layers=1, vocabulary=WORDS, max_length=16, replay=True, adam_epsilon=1e-3,
            )  # fmt: skip
            found.append(json.loads(harness.run(__file__, "--only", Path(home) / "run").stdout.splitlines()[-1]))
            print(found[-1], flush=True)
    harness.write_record(args.out, "replay-memory", {"python": platform.python_version(), "runs": found})


if __name__ == "__main__":
    main()
