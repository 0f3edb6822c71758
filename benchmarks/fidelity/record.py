"""Shared by the records: command line, controls, tables of LDS, and the dated JSON."""

import argparse
import json
import platform
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from data import Task
from harness import ENCODER, RESULTS, add_defaults, environment, today, write_json

import proponent
from proponent.baselines import Baselines, Texts
from proponent.evaluate import RetrainJob, Retrains, ceiling, lds, lds_replicates, subset_masks, widened

INITIAL = f"weights of {ENCODER}, with a fresh head drawn by the seed"


def arguments(doc: str, *, cache: bool = True, **defaults: float | str) -> argparse.ArgumentParser:
    """A parser with what every record takes, and options by their defaults."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    if cache:
        parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="file of the record")
    add_defaults(parser, defaults)
    return parser


def controls(task: Task, probabilities, features) -> dict[str, np.ndarray]:
    """The controls of every table: [q n] each."""
    labels = task.numbers(task.train), task.numbers(task.queries)
    train = Texts(task.texts, labels[0], probabilities[0], features[0])
    queries = Texts(task.query_texts, labels[1], probabilities[1], features[1])
    known = Baselines(train)
    found = {name: known.scores(name, queries) for name in ("label", "bm25", "tfidf-label", "embedding", "random")}
    sign = np.where(labels[1][:, None] == labels[0][None], 1.0, -1.0)
    bare = Baselines(Texts(task.texts)).scores("tfidf-label", Texts(task.query_texts))
    return found | {"tfidf-sign": bare * sign, "bm25-sign": found["bm25"] * sign}


def halves(args: Namespace, retrains: Retrains, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict]:
    """Random halves, outputs [seed half query] of the models trained on them, and what these were like."""
    masks = subset_masks(args.rows, args.subsets, seed=7)
    jobs = [
        RetrainJob(np.flatnonzero(mask), 10_000 * run + subset)
        for run in range(args.seeds)
        for subset, mask in enumerate(masks)
    ]
    found = retrains.outputs(jobs)
    outputs = np.stack([one.of(labels) for one in found]).reshape(args.seeds, args.subsets, -1)
    accuracy = float(np.mean([(one.predicted == labels).mean() for one in found]))
    return masks, outputs, {"subset_accuracy": accuracy, "seconds_per_retrain": float(retrains.seconds().mean())}


def lds_table(scores: dict[str, list[np.ndarray]], masks: np.ndarray, outputs: np.ndarray, best: str) -> dict:
    """LDS and its share of the ceiling for every method, and the paired difference from the best control."""
    # Per method: the scores of one run, their sum over all runs, and, if given, those of every run. `best`, which is
    # the default, is compared in pairs with everything else.
    # A share of a ceiling whose interval holds zero says nothing and is left out.
    top, mean = ceiling(outputs), outputs.mean(0)
    table: dict[str, dict] = {}
    draws: dict[tuple[str, int], np.ndarray] = {}
    for name, versions in scores.items():
        each = [float(lds(one, masks, mean).mean()) for one in versions[2:]]
        for runs, one in zip(("one_run", "four_runs"), versions[:2], strict=True):
            sums = masks.astype(float) @ np.nan_to_num(one).T
            value = float(lds(one, masks, mean).mean())
            draws[name, runs] = lds_replicates(sums, mean)
            estimate = widened(value, draws[name, runs], mean.shape[1])
            table.setdefault(name, {})[runs] = estimate.to_dict() | {
                "of_ceiling": value / top.value if top.known else None
            }
        if each:
            table[name]["runs"] = {"each": each, "mean": float(np.mean(each)), "sd": float(np.std(each, ddof=1))}
    for name in table:
        for runs in ("one_run", "four_runs"):
            for control in ("tfidf-label", "tfidf-sign"):
                gap = table[name][runs]["value"] - table[control][runs]["value"]
                spread = draws[name, runs] - draws[control, runs]
                table[name][runs][f"minus {control}"] = widened(gap, spread, mean.shape[1]).to_dict()
    lead = {
        other: widened(
            table[best]["four_runs"]["value"] - table[other]["four_runs"]["value"],
            draws[best, "four_runs"] - draws[other, "four_runs"], mean.shape[1],
        ).to_dict()
        for other in table if other != best
    }  # fmt: skip
    return {
        "default": best, "default_over_four_runs_minus": lead,
        "ceiling": {"reliability": top.reliability, "runs": top.runs, "value": top.value, "low": top.low,
                    "high": top.high},
        "subsets": len(masks), "queries": mean.shape[1], "retrains": int(outputs.shape[0] * outputs.shape[1]),
        "retrain_noise": float(outputs.std(0, ddof=1).mean()), "lds": table,
    }  # fmt: skip


def keep_seeds(args: Namespace, record: str, one: Callable[[int], dict]) -> None:
    """Run a test for every seed, each kept when it is done; a record of the same day keeps its other seeds."""
    args.out = args.out or RESULTS / f"{today()}-{record}.json"
    known = json.loads(args.out.read_text(encoding="utf-8"))["seeds"] if args.out.is_file() else []
    made = {held["seed"]: held for held in known}
    for seed in args.seeds:
        made[seed] = {"seed": seed} | one(seed)
        whole = Namespace(**vars(args) | {"seeds": sorted(made)})
        keep(whole, record, {"seeds": [made[at] for at in sorted(made)]})


def keep(args: Namespace, record: str, result: dict) -> None:
    """Write the record with everything that it takes to make it again."""
    said = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name not in {"cache", "out", "data", "cleanlab"}
    }
    whole = {
        "record": record, "date": today(), "proponent": proponent.__version__, "torch": torch.__version__,
        "device": f"CPU ({platform.machine()}), one thread per training", "environment": environment(),
        "initial": INITIAL if said.get("model") == "minilm" else "fresh: drawn from the configuration by the seed",
        "settings": said, **result,
    }  # fmt: skip
    path = args.out or RESULTS / f"{today()}-fidelity-{record.lower()}-{said.get('what', 'table')}.json"
    write_json(path, whole)
    print(path)
