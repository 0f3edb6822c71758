"""Replay on AG News: does the derivative through training predict the effect of leaving examples out, at a fixed seed?

    python benchmarks/replay_lds.py --data DIR [--setting minilm] [--subsets 30] [--queries 20]

DIR contains agnews/. A run is trained and recorded, replayed, and differentiated for some test texts. Then it is
replayed with random subsets of the training examples weighted 0 (same initial weights, order and random states: the
setting of MAGIC's figure), and the score sums over the remaining examples are rank-correlated with the query's
log-odds of its true class (linear datamodeling score). Compared with: TF-IDF signed by the label, tracin-we-adam on the
same run, and shuffled scores. No figure averages over seeds, so none is comparable with docs/fidelity.md. The replay
engine is called directly, since weighted replays are not part of an index.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np

import proponent
from proponent import Run
from proponent.data import read
from proponent.dynamics.loops import Query
from proponent.dynamics.replay_engine import Replay
from proponent.evaluate import lds

KEEP = (0.5, 0.9, 0.98, 0.99)
SMOOTH_ROWS = 5
TESTED = 400

SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "minilm": (600, {"epochs": 2, "batch_size": 32, "learning_rate": 1e-4, "adam_epsilon": 1e-6, "max_length": 48}),
    "minilm-hard": (600, {"epochs": 4, "batch_size": 32, "learning_rate": 3e-4, "max_length": 48}),
    "scratch": (4000, {"width": 64, "layers": 1, "epochs": 3, "batch_size": 64, "learning_rate": 2e-3,
                       "adam_epsilon": 1e-4, "max_length": 64}),
}  # fmt: skip


def odds(one: Replay, end: Any, queries: Sequence[Query]) -> np.ndarray:
    """Log-odds of the true class of each query."""
    p = np.exp(-one.losses(end, queries))
    return np.log(p) - np.log1p(-np.minimum(p, 1 - 1e-12))


def mean_lds(scores: np.ndarray, masks: np.ndarray, outputs: np.ndarray) -> tuple[float, float]:
    """Mean rank correlation over queries, with its standard error."""
    found = lds(scores, masks, outputs)
    return float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found)))


def baselines(run: Path, rows: list[dict[str, str]], queries: list[dict[str, str]]) -> dict[str, np.ndarray]:
    """Scores of cheaper methods on the same run."""
    found: dict[str, np.ndarray] = {}
    texts, labels = [row["text"] for row in queries], [row["label"] for row in queries]
    with tempfile.TemporaryDirectory() as home:
        for name in ("tracin-we", "tracin-we-adam", "tracin-last", "tfidf-label"):
            index = proponent.build(run, rows, Path(home) / name, name, quiet=True)
            found[name] = index.scores(texts, labels)
    return found


def drawn(data: Path, part: str, count: int, seed: int) -> list[harness.Row]:
    """Random rows."""
    rows = harness.agnews(data, part)
    return [rows[at] for at in np.random.default_rng(seed).permutation(len(rows))[:count]]


def measure(name: str, data: Path, subsets: int, count: int, size: int | None, folder: Path) -> dict[str, Any]:
    """One setting."""
    usual, settings = SETTINGS[name]
    rows, tested = drawn(data, "train", size or usual, 0), drawn(data, "test", TESTED, 1)
    model = str(harness.encoder_folder()) if name.startswith("minilm") else None
    shutil.rmtree(folder, ignore_errors=True)
    seconds, _ = harness.timed(lambda: harness.trained(rows, folder, model=model, replay=True, **settings))
    return {"setting": name, "rows": len(rows), **settings, "train_s": seconds} | replayed(
        Run.from_pretrained(folder), rows, tested, subsets, count, settings["max_length"]
    )


def replayed(
    run: Run, rows: list[dict[str, str]], tested: list[dict[str, str]], subsets: int, count: int, max_length: int
) -> dict[str, Any]:
    """Replay a run, differentiate it, and retrain it on subsets."""
    examples = list(read(rows))
    labels = [run.label_number(str(example.label)) for example in examples]
    one = Replay(run, examples, labels, max_length=max_length, quiet=True)
    everything = [Query(example, run.label_number(str(example.label))) for example in read(tested)]
    began = time.perf_counter()
    deviation = one.deviation()
    forward = time.perf_counter() - began
    end = one.train()
    probabilities = np.exp(-one.losses(end, everything))
    queries = everything[:count]
    began = time.perf_counter()
    found = one.derivative(queries)
    backward = time.perf_counter() - began
    tried = np.argsort(-np.abs(found.scores[0]))[np.linspace(0, len(rows) // 4, SMOOTH_ROWS).astype(int)].tolist()
    smooth = one.smoothness(queries[0], found, tried)
    print(f"deviation {deviation:.1e}, ratio {smooth.ratio:.3f}, error {smooth.error:.3f}", flush=True)
    scores = {"replay": found.scores} | baselines(run.path, rows, tested[:count])
    scores["shuffled replay"] = np.random.default_rng(0).permuted(found.scores, axis=1)
    figures: dict[str, Any] = {}
    for keep in KEEP:
        masks = np.random.default_rng(int(keep * 100)).random((subsets, len(rows))) < keep
        outputs = np.stack([odds(one, one.train(mask.astype(float)), queries) for mask in masks])
        figures[str(keep)] = {method: mean_lds(one_of, masks, outputs) for method, one_of in scores.items()}
        print(keep, {method: round(value[0], 3) for method, value in figures[str(keep)].items()}, flush=True)
    return {
        "steps": len(one.steps),
        "queries": count,
        "subsets": subsets,
        "accuracy": float((probabilities > 0.5).mean()),
        "deviation": deviation,
        "smoothness_ratio": smooth.ratio,
        "smoothness_error": smooth.error,
        "forward_s": forward,
        "backward_s_per_query": backward / count,
        "states_kept": one.kept,
        "lds_fixed_seed": figures,
    }


def main() -> None:
    """Measure and write the record."""
    parser = harness.arguments(__doc__, data=True, subsets=30, queries=20)
    parser.add_argument("--setting", action="append", choices=list(SETTINGS))
    parser.add_argument("--rows", type=int, help="training rows, where not those of the setting")
    parser.add_argument("--folder", type=Path, default=Path("scratch/replay"))
    options = parser.parse_args()
    found = [
        measure(name, options.data, options.subsets, options.queries, options.rows, options.folder)
        for name in options.setting or ["minilm"]
    ]
    path = options.out / f"{harness.today()}-replay-lds.json"
    held = json.loads(path.read_text())["settings"] if path.is_file() else []
    settings = [one for one in held if one["setting"] not in {new["setting"] for new in found}] + found
    harness.write_record(options.out, "replay-lds", {"settings": settings})


if __name__ == "__main__":
    main()
